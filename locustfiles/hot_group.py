"""The preset `hot-group` on a live server: one group of everybody.

    locust -f locustfiles/hot_group.py -H ws://127.0.0.1:8765 --headless

The options are those of office.py.
"""

from imsim.load.users import IMUser


class HotGroup(IMUser):
    scenario = "hot-group"
