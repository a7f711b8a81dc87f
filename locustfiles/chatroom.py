"""A chatroom in which many users write to all others: the preset `chatroom`, smaller and busier.

    imsim serve chatroom --port 8765
    locust -f locustfiles/chatroom.py -H ws://127.0.0.1:8765 --headless

office.py describes the options.
"""

from imsim import Scenario
from imsim.load.users import IMUser


class Chatroom(IMUser):
    scenario = Scenario.load("chatroom", {"population.users": 300, "workload.rate": 0.1})
