"""The office, in which nearly all devices leave at once and come back at once.

    imsim serve office --port 8765
    locust -f locustfiles/storm.py -H ws://127.0.0.1:8765 --headless

office.py describes the options.
"""

from imsim.load.shapes import Storm
from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"


class Shape(Storm):
    rest = 0.05
