"""A chatroom in which many users write to all others: the preset `chatroom`, smaller and busier."""

from imsim import Scenario
from imsim.load.users import IMUser


class Chatroom(IMUser):
    scenario = Scenario.load("chatroom", {"population.users": 300, "workload.rate": 0.1})
