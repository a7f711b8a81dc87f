"""The office with 70 % of its devices, for a long time: `-t` sets it.

    imsim serve office --port 8765
    locust -f locustfiles/soak.py -H ws://127.0.0.1:8765 --headless -t 8h

office.py describes the options.
"""

from imsim.load.shapes import Soak
from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"


class Shape(Soak):
    level = 0.7
