"""The fault search: many small worlds, each with its own random workload and faults, and what must hold after all.

Read in this order: `case` (what a seed stands for; `case_file`: as JSON), `plan`, `workload`, `faults` and `scenes`
(how it is drawn), `world` (the script), `cluster`, `inject`, `app`, `nodes`, `storage`, `clock`, `network` and
`surroundings` (where it happens), `entries` and `trace` (what happened), `model` (what everybody should see, worked
out independently, and the local view of an application), `evidence` and `checks` (what must hold), `situations` (what
a search must have met), `shrink`, `search`.

What the core is known not to keep yet is left out in one check each: look for "Left out".
"""

from imsim.faultsearch.case import Case, Step
from imsim.faultsearch.case_file import load, read, save
from imsim.faultsearch.checks import INVARIANTS, Violation
from imsim.faultsearch.faults import KINDS, Fault
from imsim.faultsearch.plan import draw
from imsim.faultsearch.search import Failure, Outcome, Report, explain, replay, run, search
from imsim.faultsearch.situations import SOMETIMES

__all__ = [
    "INVARIANTS",
    "KINDS",
    "SOMETIMES",
    "Case",
    "Failure",
    "Fault",
    "Outcome",
    "Report",
    "Step",
    "Violation",
    "draw",
    "explain",
    "load",
    "read",
    "replay",
    "run",
    "save",
    "search",
]
