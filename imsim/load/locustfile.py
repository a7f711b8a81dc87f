"""What `imsim load` runs: the scenario comes by an option. It ends with the process that started it."""

import os
import shutil
import sys

import gevent
from gevent.socket import wait_read

from imsim.load.users import IMUser


class Device(IMUser):
    pass


def _end_with_parent() -> None:
    """Standard input is a pipe from the parent, which never writes: it can be read only once the parent is gone, and
    with it whoever wanted this run. Loading the server any longer would be an accident."""
    wait_read(sys.stdin.fileno())
    shutil.rmtree(sys.argv[sys.argv.index("--imsim-folder") + 1], ignore_errors=True)
    os._exit(1)


gevent.spawn(_end_with_parent)
