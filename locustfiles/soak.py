"""The office at 70 % of its devices, for a long time: set it with -t, as in -t 8h."""

from imsim.load.shapes import Soak
from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"


class Shape(Soak):
    level = 0.7
