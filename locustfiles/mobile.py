"""Phones that come and go, with two devices for each user: the preset `mobile`.

    imsim serve mobile --port 8765
    locust -f locustfiles/mobile.py -H ws://127.0.0.1:8765 --headless

`-u` must be even, because each user has two devices.
"""

from imsim.load.users import IMUser


class Mobile(IMUser):
    scenario = "mobile"
