"""The rules: they decide whether a send is allowed, what a change does, and which users are notified.

They only decide. The conversation's writer applies the decision.
"""

from imsim.core.router.rules.sends import (
    BLOCKED_TEXT,
    RULED,
    LookupCache,
    NeedsLookup,
    amend,
    decide,
    effects,
    system_log,
)

__all__ = ["BLOCKED_TEXT", "RULED", "LookupCache", "NeedsLookup", "amend", "decide", "effects", "system_log"]
