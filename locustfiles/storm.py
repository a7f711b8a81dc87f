"""The office, in which nearly everybody leaves at once and comes back at once."""

from imsim.load.shapes import Storm
from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"


class Shape(Storm):
    rest = 0.05
