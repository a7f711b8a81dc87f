"""The Locust user. A locustfile has a few lines:

    from imsim.load.users import IMUser

    class Office(IMUser):
        scenario = "office"

One Locust user is one device of the scenario's population. `imsim.load.director` has the options.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gevent
from locust import User, task
from locust.env import Environment

from imsim.core.exceptions import ImsimError
from imsim.load.device import Device
from imsim.load.director import Director, events
from imsim.load.player import Player
from imsim.scenario import Scenario


class IMUser(User):
    """A Locust user: one device of `scenario`, which is a preset's name, the path of a TOML file, or a Scenario."""

    abstract = True
    scenario: ClassVar[str | Scenario] = "office"
    _player: Player | None = None
    _device: Device | None = None

    def on_start(self) -> None:
        """Log the device in."""
        player = self._player = Director.of(self.environment).player
        # `admit` returns None if there are more users than devices: the population cannot grow during a run.
        self._device = player.admit() if player is not None else None
        if player is not None and self._device is not None:
            player.log_in(self._device)

    @task
    def stay(self) -> None:
        """Do nothing: the plan and the server determine when the device acts."""
        gevent.sleep(3600)

    def on_stop(self) -> None:
        """Log the device out."""
        if self._player is not None and self._device is not None:
            self._player.release(self._device)


def _direct(environment: Environment, **_: Any) -> None:
    classes = [user for user in environment.user_classes if issubclass(user, IMUser)]
    if len(classes) != 1 or len(environment.user_classes) != 1:
        names = ", ".join(user.__name__ for user in environment.user_classes)
        raise SystemExit(
            f"imsim: user classes: must be one subclass of IMUser (got {names}); choose one on the command line"
        )
    try:
        Director(environment, classes[0].scenario, classes[0].host)
    except ImsimError as error:
        raise SystemExit(f"imsim: {error}") from None


events.init.add_listener(_direct)
