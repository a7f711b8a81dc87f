"""The plan: all messages and actions of the users, drawn before a run. Simulated and live runs execute it.

`planned` defines a plan. `drawing` creates one from `arrivals` (the times of messages), `talk` (their conversations),
`online_periods` (the online periods of devices) and `actions` (everything that users do besides sending messages).
"""

from imsim.scenario.workload.drawing import plan
from imsim.scenario.workload.online_periods import OnlinePeriods
from imsim.scenario.workload.planned import (
    Action,
    Entitled,
    Extra,
    Plan,
    PlannedConversation,
    conversation_of,
    device_name,
    user_name,
)
from imsim.scenario.workload.talk import partner_of

__all__ = [
    "Action",
    "Entitled",
    "Extra",
    "OnlinePeriods",
    "Plan",
    "PlannedConversation",
    "conversation_of",
    "device_name",
    "partner_of",
    "plan",
    "user_name",
]
