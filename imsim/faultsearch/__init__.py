"""The fault search: it runs many small worlds, each with a random workload and random faults, and checks invariants.

Read the modules in this order:

- `case` (the data that a seed stands for; `case_file` reads and writes it as JSON),
- `plan`, `workload`, `faults` and `scenes` (they draw a case),
- `world` (the script of a run), `cluster`, `inject`, `app`, `nodes`, `storage`, `clock`, `network` and `surroundings`
    (the parts in which the case runs),
- `entries` and `trace` (the record of a run),
- `model` (the reference model: the expected state, computed without the core, and the view of an application),
- `evidence` and `checks` (the invariants), `situations` (the situations that a search must have met),
- `shrink` and `search`.

Where the core is known to break an invariant, one check leaves out that case: search for "Left out".
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
