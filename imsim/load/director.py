"""The connection between Locust and a run: options, start, stop and end.

`-u/--users` sets the count of devices; it must be a multiple of the scenario's devices per user, and defaults to the
scenario's population. `-H/--host` is the server's url (ws://...). `-t/--run-time` is the time of logins and messages
together, instead of the scenario's duration. The other options start with `--imsim-`. `_add_options` and the web page
list them; Locust's --help does not, because Locust prints it before it reads a locustfile.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gevent
import locust
from locust.env import Environment

from imsim import disk
from imsim.core.exceptions import ImsimError, UsageError
from imsim.core.model import check_name
from imsim.keys import DEFAULT_KEY, VARIABLE, check_key
from imsim.load.collect import collect, cut, write
from imsim.load.coordinator import Coordinator
from imsim.load.job import Job
from imsim.load.player import Player
from imsim.scenario import Scenario

# Locust has no types for the arguments of its events and its parser.
events: Any = locust.events

logger = logging.getLogger("imsim.load")

_SPAWN_RATE = 100  # users per second; Locust warns about a higher rate
_LONGEST_NAMESPACE = 32  # characters; it leaves room for the name of the user or group itself


class Director:
    """The director of a Locust environment: it starts a run for each test, and writes it at the test's end.

    default: the scenario of the locustfile, which an option may replace. host: the url, likewise.
    """

    _of: ClassVar[weakref.WeakKeyDictionary[Environment, Director]] = weakref.WeakKeyDictionary()

    def __init__(self, environment: Environment, default: str | Scenario, host: str | None) -> None:
        self.player: Player | None = None
        """The player of the current test; None if there is no test, or if it could not begin."""
        self._coordinator: Coordinator | None = None
        self._environment = environment
        self._default = default
        self._host = host
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
        chosen = self._options.imsim_scenario or self._default
        return chosen if isinstance(chosen, Scenario) else Scenario.load(chosen)

    def _start(self, environment: Environment, **_: Any) -> None:
        self.player = self._coordinator = None
        try:
            self._begin(self._job())
        except ImsimError as error:
            self._fail(str(error))
            gevent.spawn(self._stop_test)

    def _job(self) -> Job:
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
        url = self._environment.host or self._host or ""
        return Job(scenario, url, namespace, key, options.imsim_adapter, options_of(options.imsim_option))

    def _begin(self, job: Job) -> None:
        job.probe()
        with disk.errors("make a folder in", tempfile.gettempdir(), note=disk.TMPDIR):
            folder = self._folder = Path(self._options.imsim_folder or tempfile.mkdtemp(prefix="imsim-load-"))

        def to_player(index: int, kind: str, **values: Any) -> None:
            player.handle(kind, **values)

        def to_coordinator(kind: str, **values: Any) -> None:
            coordinator.handle(0, kind, **values)

        runner = self._environment.runner
        assert runner is not None
        spawning = runner.target_user_count / self._options.spawn_rate
        manifest = {"locust": locust.__version__}
        player = Player(job, 0, 1, folder, to_coordinator, self._report)
        coordinator = Coordinator(job, to_player, 1, folder, self._stop_test, manifest, spawning)
        self.player, self._coordinator = player, coordinator
        coordinator.start()

    def _stopping(self, environment: Environment, **_: Any) -> None:
        if self._coordinator is not None:
            self._coordinator.end()

    def _stopped(self, environment: Environment, **_: Any) -> None:
        coordinator, self._coordinator, self.player = self._coordinator, None, None
        if coordinator is None:
            return
        if coordinator.failure is not None:
            self._fail(coordinator.failure)
        if self._options.imsim_folder:
            return  # the parent process makes the run
        assert self._folder is not None
        try:
            if coordinator.failure is None:
                run = collect(self._folder, coordinator.job.scenario)
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


def options_of(texts: list[str] | str | None) -> Mapping[str, str]:
    """Return the adapter's options of texts such as `qos=1`.

    Raises: UsageError for a text without "=".
    """
    found = {}
    for text in texts.split() if isinstance(texts, str) else texts or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--imsim-option: must be NAME=VALUE (got {text!r})")
        found[name.strip()] = value
    return found


def _add_options(parser: Any) -> None:
    add = parser.add_argument
    add("--imsim-scenario", metavar="NAME|FILE", help="a preset or a TOML file, instead of the locustfile's scenario")
    add("--imsim-seed", metavar="N", help="the seed, instead of the scenario's; the same seed gives the same messages")
    add("--imsim-adapter", metavar="NAME", default="imsim", help="the kind of server: imsim, mqtt, xmpp ... or a path")
    add("--imsim-option", metavar="NAME=VALUE", action="append", help="an option of the adapter; repeatable")
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


events.init_command_line_parser.add_listener(_add_options)
