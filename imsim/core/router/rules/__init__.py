"""The rules: who may send what, what a change brings about, and who is notified. They decide and change nothing."""

from imsim.core.router.rules.sends import RULED, LookupCache, NeedsLookup, amend, decide, effects, system_log

__all__ = ["RULED", "LookupCache", "NeedsLookup", "amend", "decide", "effects", "system_log"]
