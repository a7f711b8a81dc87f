"""The fault search: many small worlds, each with its own random workload and faults, and what must hold after all.

Read in this order: `case` (what a seed stands for; `written`: as JSON), `plan` and `workload` (how it is drawn),
`world`, `app` and `nodes` (where it happens; `network` lies between), `rules` and `ledger` (what may be said, and what
everybody should see, worked out independently), `screen` (what an application makes of its client's events), `evidence`
(the trace, told to the ledger and to those who watch one thing each: `witnesses`, `connections`, `online`, `rooms`,
`limits`, `rest`), `invariants`, `coverage` (of `situations`), `shrink`, `search`.

What the core is known not to keep yet is left out at one place each: look for "Left out".
"""

from imsim.faultsearch.case import Case, Step
from imsim.faultsearch.case_file import load, save
from imsim.faultsearch.checks import INVARIANTS, Violation
from imsim.faultsearch.coverage import SOMETIMES
from imsim.faultsearch.faults import KINDS, Fault
from imsim.faultsearch.plan import draw
from imsim.faultsearch.search import Failure, Outcome, Report, explain, replay, run, search

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
    "replay",
    "run",
    "save",
    "search",
]
