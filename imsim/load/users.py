"""The Locust user. A locustfile has a few lines:

    from imsim.load.users import IMUser

    class Office(IMUser):
        scenario = "office"

One Locust user is one device of the scenario's population. It plays its share of the scenario's plan. Tasks of a
subclass run besides that, or instead of it (`plays_plan = False`). `imsim.load.director` has the options.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import gevent
from locust import User, task
from locust.env import Environment

from imsim.core.exceptions import ImsimError, UsageError
from imsim.load.director import Director, events
from imsim.load.im import IM
from imsim.scenario import Scenario


class IMUser(User):
    """A Locust user: one device of `scenario`, which is a preset's name, the path of a TOML file, or a Scenario.

    plays_plan: whether the device plays its share of the scenario's plan.
    adapter: the kind of server, as `imsim.load.adapters.find` takes it. adapter_options: its options, by name.
    im: the client for the tasks of a subclass. Tasks run while the plan is played, from its start to its end.
    """

    abstract = True
    scenario: ClassVar[str | Scenario] = "office"
    plays_plan: ClassVar[bool] = True
    adapter: ClassVar[str] = "imsim"
    adapter_options: ClassVar[Mapping[str, str]] = {}
    _im: IM | None = None

    def __init_subclass__(cls, **values: Any) -> None:
        super().__init_subclass__(**values)
        cls.tasks = [one for one in cls.tasks if one is not IMUser.stay] or [IMUser.stay]

    @property
    def im(self) -> IM:
        """The client for the tasks. See the class.

        Raises: UsageError before the device is online.
        """
        if self._im is None:
            raise UsageError("self.im: the device is not online in __init__; use self.im in on_start and in tasks")
        return self._im

    def run(self) -> None:  # type: ignore[misc]  # final in Locust, for its own sake
        """Log in, run `on_start` and the tasks while the plan is played, remain online until the end, and log out."""
        player = Director.of(self.environment).player
        device = player.admit() if player is not None else None
        if player is None or device is None:  # the test could not begin, or has more users than devices
            gevent.sleep(_FOREVER)
            return
        try:
            player.log_in(device)
            player.begun.wait()
            has_code = self.tasks != [IMUser.stay] or type(self).on_start is not User.on_start
            im = self._im = IM(player.tasks, device, listens=has_code)
            super().run()  # type: ignore[no-untyped-call]  # Locust has no types for it
            if im.has_ended:
                gevent.sleep(_FOREVER)  # the device still receives what is under way; Locust ends it afterwards
        finally:
            player.release(device)

    @task
    def stay(self) -> None:
        """Do nothing: the plan and the server determine when the device acts. Only users without tasks do it."""
        gevent.sleep(_FOREVER)


_FOREVER = 1e9  # seconds


def _direct(environment: Environment, **_: Any) -> None:
    users = [user for user in environment.user_classes if issubclass(user, IMUser)]
    try:
        if not users:
            raise UsageError("user classes: must have a subclass of IMUser (got none); choose one on the command line")
        first = users[0]
        for name in ("scenario", "plays_plan", "adapter", "adapter_options", "host"):
            values = {user.__name__: getattr(user, name) for user in users}
            if any(value != getattr(first, name) for value in values.values()):
                given = ", ".join(f"{user}: {value}" for user, value in values.items())
                raise UsageError(f"user classes: must have the same {name}, because they share one run (got {given})")
        has_tasks = any(user.tasks != [IMUser.stay] for user in users)
        Director(environment, first, has_tasks)
    except ImsimError as error:
        print(f"imsim: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None


events.init.add_listener(_direct)
