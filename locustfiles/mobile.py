"""Phones that come and go, with two devices for each user: the preset `mobile`."""

from imsim.load.users import IMUser


class Mobile(IMUser):
    scenario = "mobile"
