"""The plan: everything that users will do, who, to whom and when, drawn before the run. Both worlds carry it out.

`planned` is what a plan consists of, `drawing` puts it together, from `arrivals` (when), `talk` (to whom),
`spells` (who is online) and `actions` (what users do besides writing).
"""

from imsim.scenario.workload.drawing import plan
from imsim.scenario.workload.planned import Action, Entitled, Plan, PlannedConversation, device_name, user_name
from imsim.scenario.workload.spells import Spells

__all__ = ["Action", "Entitled", "Plan", "PlannedConversation", "Spells", "device_name", "plan", "user_name"]
