"""The Locust user, and the connection between Locust and a run: options, start, stop and end.

A locustfile has a few lines:

    from imsim.load.users import IMUser

    class Office(IMUser):
        scenario = "office"

One Locust user is one device of the scenario's population. `-u/--users` sets the count of devices; it must be a
multiple of the scenario's devices per user, and defaults to the scenario's population. `-H/--host` is the server's url
(ws://...). `-t/--run-time` is the time of logins and messages together, instead of the scenario's duration. The other
options start with `--imsim-`. `_add_options` and the web page list them; Locust's --help does not, because Locust
prints it before it reads a locustfile.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, ClassVar

import gevent
import locust
from locust import User, task
from locust.env import Environment

from imsim import disk
from imsim.core.exceptions import ImsimError, UsageError
from imsim.core.model import check_name
from imsim.keys import DEFAULT_KEY, VARIABLE, check_key
from imsim.load.collect import collect, cut, write
from imsim.load.devices import Device
from imsim.load.session import Session
from imsim.load.target import Target
from imsim.scenario import Scenario

# Locust has no types for the arguments of its events and its parser.
events: Any = locust.events

logger = logging.getLogger("imsim.load")

_SPAWN_RATE = 100  # users per second; Locust warns about a higher rate
_LONGEST_NAMESPACE = 32  # characters; it leaves room for the name of the user or group itself


class IMUser(User):
    """A Locust user: one device of `scenario`, which is a preset's name, the path of a TOML file, or a Scenario."""

    abstract = True
    scenario: ClassVar[str | Scenario] = "office"
    device: Device | None = None

    def on_start(self) -> None:
        """Log the device in."""
        session = Director.of(self.environment).session
        # `admit` returns None if there are more users than devices: the population cannot grow during a run.
        self.device = session.admit() if session is not None else None
        if session is not None and self.device is not None:
            session.log_in(self.device)

    @task
    def stay(self) -> None:
        """Do nothing: the plan and the server determine when the device acts."""
        gevent.sleep(3600)

    def on_stop(self) -> None:
        """Log the device out."""
        if self.device is not None:
            self.device.stop()


class Director:
    """The director of a Locust environment: it starts a `Session` for each test, and writes the run at its end."""

    _of: ClassVar[weakref.WeakKeyDictionary[Environment, Director]] = weakref.WeakKeyDictionary()

    def __init__(self, environment: Environment, user_class: type[IMUser]) -> None:
        self.session: Session | None = None
        self._environment = environment
        self._user_class = user_class
        self._folder: Path | None = None
        self._of[environment] = self
        options = environment.parsed_options
        assert options is not None
        # These defaults depend on another option, so they cannot be defaults of the parser.
        if options.num_users is None or options.spawn_rate is None:
            population = self._scenario().population
            options.num_users = options.num_users or population.users * population.devices
            options.spawn_rate = options.spawn_rate or _SPAWN_RATE
        events.test_start.add_listener(self._start)
        events.test_stopping.add_listener(self._stopping)
        events.test_stop.add_listener(self._stopped)

    @classmethod
    def of(cls, environment: Environment) -> Director:
        """Return the director of this environment."""
        return cls._of[environment]

    @property
    def _options(self) -> Any:
        return self._environment.parsed_options

    def _scenario(self) -> Scenario:
        chosen = self._options.imsim_scenario or self._user_class.scenario
        return chosen if isinstance(chosen, Scenario) else Scenario.load(chosen)

    def _start(self, environment: Environment, **_: Any) -> None:
        self.session = None
        try:
            self.session = self._open()
        except ImsimError as error:
            self._fail(str(error))
            gevent.spawn(self._stop_test)

    def _open(self) -> Session:
        options, runner = self._options, self._environment.runner
        assert runner is not None
        scenario = self._scenario()
        changes: dict[str, object] = {}
        devices = scenario.population.devices
        if runner.target_user_count != scenario.population.users * devices:
            users, rest = divmod(runner.target_user_count, devices)
            if rest:
                count = runner.target_user_count
                raise UsageError(f"-u: must be a multiple of {devices}, the devices per user (got {count})")
            changes["population.users"] = users
        if options.imsim_seed not in (None, ""):
            try:
                changes["seed"] = int(options.imsim_seed)
            except ValueError:
                raise UsageError(f"--imsim-seed: must be an integer (got {options.imsim_seed!r})") from None
        scenario = scenario.replace(changes)
        if options.run_time:
            scenario = cut(scenario, float(options.run_time))

        namespace = options.imsim_run or f"r{secrets.token_hex(4)}"
        if len(check_name("--imsim-run", namespace)) > _LONGEST_NAMESPACE:
            raise UsageError(f"--imsim-run: must have at most {_LONGEST_NAMESPACE} characters (got {namespace!r})")
        key = check_key(options.imsim_key, f"--imsim-key or {VARIABLE}")
        target = Target(self._environment.host or self._user_class.host or "")
        target.check()
        with disk.errors("make a folder in", tempfile.gettempdir(), note=disk.TMPDIR):
            self._folder = Path(options.imsim_folder or tempfile.mkdtemp(prefix="imsim-load-"))
        manifest = {"locust": locust.__version__}
        return Session(scenario, target, key, namespace, self._folder, self._report, self._stop_test, manifest)

    def _stopping(self, environment: Environment, **_: Any) -> None:
        if self.session is not None:
            self.session.end()

    def _stopped(self, environment: Environment, **_: Any) -> None:
        session, self.session = self.session, None
        if session is None:
            return
        if session.failure is not None:
            self._fail(session.failure)
        if self._options.imsim_folder:
            return  # the parent process makes the run
        assert self._folder is not None
        try:
            if session.failure is None:
                run = collect(self._folder, session.scenario)
                print(f"run: {write(run, self._options.imsim_out)}", flush=True)
        except ImsimError as error:
            self._fail(str(error))
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _fail(self, reason: str) -> None:
        logger.error(reason)
        if self._options.headless:
            self._environment.process_exit_code = 1

    def _stop_test(self) -> None:
        runner = self._environment.runner
        assert runner is not None
        if self._options.headless:
            runner.quit()
        else:
            runner.stop()

    def _report(self, name: str, ms: float | None, size: int, error: str | None) -> None:
        events.request.fire(
            request_type="WS",
            name=name,
            response_time=ms,
            response_length=size,
            exception=None if error is None else UndeliveredError(error),
            context={},
        )


class UndeliveredError(Exception):
    """A message was not acknowledged or not delivered, or a login failed. Locust lists it in its table of failures."""


def _add_options(parser: Any) -> None:
    add = parser.add_argument
    add("--imsim-scenario", metavar="NAME|FILE", help="a preset or a TOML file, instead of the locustfile's scenario")
    add("--imsim-seed", metavar="N", help="the seed, instead of the scenario's; the same seed gives the same messages")
    add("--imsim-key", env_var="IMSIM_KEY", default=DEFAULT_KEY, is_secret=True, help="the server's key, for tokens")
    add("--imsim-run", metavar="NAME", help="prefix of this run's users, groups and messages (default: random)")
    add("--imsim-out", metavar="DIR", default="results", help="parent of the run's folder (default: results)")
    add("--imsim-folder", help=argparse.SUPPRESS, include_in_web_ui=False)  # for imsim.load.launch
    # Messages that the server refuses or loses are results of the test, not a failure of this process.
    parser.set_defaults(exit_code_on_error=0)
    _refuse_distributed(parser)


def _refuse_distributed(parser: Any) -> None:
    # Locust fires no event after it has read its options and before it forks or connects to a master.
    parse = parser.parse_args

    def parse_args(*args: Any, **kwargs: Any) -> Any:
        options = parse(*args, **kwargs)
        if options.master or options.worker or options.processes:
            parser.error("imsim supports only one Locust process; leave out --master, --worker and --processes")
        return options

    parser.parse_args = parse_args


def _direct(environment: Environment, **_: Any) -> None:
    classes = [user for user in environment.user_classes if issubclass(user, IMUser)]
    if len(classes) != 1 or len(environment.user_classes) != 1:
        names = ", ".join(user.__name__ for user in environment.user_classes)
        raise SystemExit(
            f"imsim: user classes: must be one subclass of IMUser (got {names}); choose one on the command line"
        )
    try:
        Director(environment, classes[0])
    except ImsimError as error:
        raise SystemExit(f"imsim: {error}") from None


events.init_command_line_parser.add_listener(_add_options)
events.init.add_listener(_direct)
