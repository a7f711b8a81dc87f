"""The locustfile that `imsim load` runs. An option names its scenario. It exits when its parent process ends."""

import os
import shutil
import sys

import gevent
from gevent.socket import wait_read

from imsim.load.users import IMUser
from imsim.load.worker import remove_folders

_first = os.getpid()


class Device(IMUser):
    pass


def _end_with_parent() -> None:
    """Exit at once when the parent process ends.

    Standard input is a pipe from the parent, which never writes to it. So it becomes readable only when the parent has
    ended. Without the parent, no process would use the results, and the load must not continue.
    """
    wait_read(sys.stdin.fileno())
    remove_folders()
    if os.getpid() == _first:  # with --processes, the others are its workers
        shutil.rmtree(sys.argv[sys.argv.index("--imsim-folder") + 1], ignore_errors=True)
    os._exit(1)


gevent.spawn(_end_with_parent)
