"""The plan: everything that users will do, who, to whom and when, drawn before the run. Both worlds carry it out.

`planned` is what a plan consists of, `drawing` puts it together, from `arrivals` (when), `talk` (to whom),
`online_periods` (who is online) and `actions` (what users do besides writing).
"""

from imsim.scenario.workload.drawing import plan
from imsim.scenario.workload.online_periods import OnlinePeriods
from imsim.scenario.workload.planned import Action, Entitled, Plan, PlannedConversation, device_name, user_name

__all__ = ["Action", "Entitled", "OnlinePeriods", "Plan", "PlannedConversation", "device_name", "plan", "user_name"]
