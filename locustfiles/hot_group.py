"""A load test with the preset `hot-group`, on a live server: one group that contains every user.

    imsim serve hot-group --port 8765
    locust -f locustfiles/hot_group.py -H ws://127.0.0.1:8765 --headless

office.py describes the options.
"""

from imsim.load.users import IMUser


class HotGroup(IMUser):
    scenario = "hot-group"
