"""The conformance kit: it finds out what an adapter gets wrong, against a running server.

`imsim adapter check` is its command. `check` does the same from Python. Read the modules in this order: `report` (the
result), `kit` (the devices of a check, and faults of the network), `live` (the checks against the server), `offline`
(the checks of a session without a server), `run` (all checks, one after another).
"""

from imsim.load.conformance.report import Outcome, Report, Result
from imsim.load.conformance.run import CHECKS, POLICIES, check, checked

__all__ = ["CHECKS", "POLICIES", "Outcome", "Report", "Result", "check", "checked"]
