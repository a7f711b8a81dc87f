"""What `imsim load` runs: the scenario comes by an option."""

from imsim.load.users import IMUser


class Device(IMUser):
    pass
