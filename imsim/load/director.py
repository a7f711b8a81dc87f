"""The connection between Locust and a run: options, start, stop and end.

`-u/--users` sets the count of devices; it must be a multiple of the scenario's devices per user, and defaults to the
scenario's population. With a load shape, it is the largest count of the shape. `-H/--host` is the server's url
(ws://...). `-t/--run-time` is how long messages are sent, instead of the scenario's duration. The other options start
with `--imsim-`. `_add_options` and the web page list them; Locust's --help does not, because Locust prints it before it
reads a locustfile.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import secrets
import signal
import sys
import termios
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import gevent
import locust
from locust.env import Environment
from locust.runners import MasterRunner, WorkerNode, WorkerRunner

from imsim.core.exceptions import ImsimError, UsageError
from imsim.core.model import check_name
from imsim.keys import DEFAULT_KEY, VARIABLE, check_key
from imsim.load.adapters.find import options_of
from imsim.load.collect import write_status
from imsim.load.conclusion import exceptions_line
from imsim.load.job import Job
from imsim.load.locust_stats import Statistics, write_csv
from imsim.load.player import Player
from imsim.load.test import Test
from imsim.load.worker import Worker
from imsim.load.workers import Workers
from imsim.scenario import Scenario

# Locust has no types for the arguments of its events and its parser.
events: Any = locust.events

logger = logging.getLogger("imsim.load")

_SPAWN_RATE = 100  # users per second; Locust warns about a higher rate
_SPAWN_SECONDS = 5.0  # in which all users of a large population start nevertheless
_NO_MESSAGES = {"workload.rate": 1e-9, "workload.arrivals": "poisson"}  # in any time that a test lasts
_HURRY = 0.5  # seconds that the end of an interrupted test may take
_INTERRUPTED = 130  # the exit code after Ctrl-C
_WRONG = 2  # the exit code after a wrong request
_INVALID = 5  # the exit code after a complete run that the load generator spoilt
_PRECEDENCE = {_WRONG: 0, _INVALID: 2}  # of several exit codes; all others are 1
_LONGEST_NAMESPACE = 32  # characters; it leaves room for the name of the user or group itself


class UserClass(Protocol):
    """The attributes of a class of users that describe the run."""

    host: str | None
    scenario: ClassVar[str | Scenario]
    plays_plan: ClassVar[bool]
    adapter: ClassVar[str]
    adapter_options: ClassVar[Mapping[str, str]]


class Director:
    """The director of a Locust environment: it starts a run for each test, and writes it at the test's end.

    users: the class of the locustfile's users, or the first of several. Options may replace its attributes.
    has_tasks: whether the users have tasks.
    """

    _of: ClassVar[weakref.WeakKeyDictionary[Environment, Director]] = weakref.WeakKeyDictionary()

    def __init__(self, environment: Environment, users: type[UserClass], has_tasks: bool) -> None:
        self._test: Test | None = None  # the current one
        self._writing: list[Test] = []  # tests that have ended, whose runs are being written
        self._environment = environment
        self._users = users
        self._statistics = Statistics(environment)
        self._has_tasks = has_tasks
        self._of[environment] = self
        # Messages that the server refuses or loses are results of the test, not a failure of this process.
        self._code_on_error, self._options.exit_code_on_error = self._options.exit_code_on_error, 0
        events.user_error.add_listener(self._user_failed)
        self._spawn_users, self._runner.spawn_users = self._runner.spawn_users, self._spawn_each
        self._worker = Worker(environment, self._statistics) if isinstance(self._runner, WorkerRunner) else None
        if self._worker is not None:
            self._sigint = gevent.signal_handler(signal.SIGINT, self._leave)
            return
        self._workers = Workers(environment) if isinstance(self._runner, MasterRunner) else None
        options = self._options
        for option, value in (("-u", options.num_users), ("-r", options.spawn_rate), ("-t", options.run_time)):
            _check_positive(option, value)
        self._most_users: int | None = options.num_users  # of a shape, if given
        # These defaults depend on another option, so they cannot be defaults of the parser.
        if options.num_users is None or options.spawn_rate is None:
            population = self._scenario().population
            options.num_users = options.num_users or self.users_for(population.users * population.devices)
            options.spawn_rate = options.spawn_rate or max(_SPAWN_RATE, options.num_users / _SPAWN_SECONDS)
        self._run_time: float | None = options.run_time
        if options.headless or options.autostart:
            options.run_time = None  # Locust's own timer would include the logins
        events.test_start.add_listener(self._start)
        events.spawning_complete.add_listener(self._spawned)
        events.test_stopping.add_listener(self._stopping)
        events.test_stop.add_listener(self._stopped)
        events.quitting.add_listener(self._quitting)
        events.quit.add_listener(self._summarize)
        self._reasons: dict[str, int] = {}  # why the latest test is not what the tester wanted, with exit codes
        self._has_failed = False
        self._is_starting = False  # whether a test waits for the server's first answer
        self._kept: Path | None = None  # the folder of its run
        self._terminal = _terminal()
        self._sigint = gevent.signal_handler(signal.SIGINT, self._interrupt)

    @classmethod
    def of(cls, environment: Environment) -> Director:
        """Return the director of this environment."""
        return cls._of[environment]

    @property
    def player(self) -> Player | None:
        """The player of the current test in this process; None if there is none, or if it could not begin."""
        if self._worker is not None:
            return self._worker.wait()
        return None if self._test is None else self._test.player

    @property
    def elapsed(self) -> float:
        """The seconds since the current test's plan began; 0 before that, or without a test."""
        return 0.0 if self._test is None else self._test.elapsed

    @property
    def is_ending(self) -> bool:
        """Whether the current test has begun to end."""
        return self._test is not None and self._test.is_ending

    @property
    def scenario(self) -> Scenario:
        """The scenario of the current test, or of the next one."""
        return self._scenario() if self._test is None else self._test.scenario

    @property
    def devices(self) -> int:
        """The count of devices of the current test, or of the next one with a shape."""
        population, given = self.scenario.population, self._most_users if self._test is None else None
        return given or population.users * population.devices

    @property
    def _options(self) -> Any:
        return self._environment.parsed_options

    @property
    def _runner(self) -> Any:
        return self._environment.runner

    def _scenario(self) -> Scenario:
        chosen = self._options.imsim_scenario or self._users.scenario
        scenario = chosen if isinstance(chosen, Scenario) else Scenario.load(chosen)
        return scenario if self._users.plays_plan else scenario.replace(_NO_MESSAGES)

    # --- the start of a test ----------------------------------------------------------------------------------------

    def _start(self, environment: Environment, **_: Any) -> None:
        self._test, self._reasons, self._has_failed, self._kept = None, {}, False, None
        self._is_starting = True
        try:
            self._begin(self._job())
            self._is_starting = False
        except ImsimError as error:
            self._is_starting = False
            if self._options.imsim_folder:  # for the parent process
                ended = {"reason": str(error), "phase": "login"}
                write_status(Path(self._options.imsim_folder), {"phase": "login", "ended": ended})
            self._fail(str(error), _WRONG if isinstance(error, UsageError) else 1)
            gevent.spawn(self._stop_test)

    def _job(self) -> Job:
        options = self._options
        scenario = self._scenario()
        changes: dict[str, object] = {}
        devices, count = scenario.population.devices, self._count_of_devices(self._runner.target_user_count)
        if self._environment.shape_class is not None:
            count = self.devices  # not all of them need to take part at once
        if count != scenario.population.users * devices:
            users, rest = divmod(count, devices)
            if rest:
                raise UsageError(f"-u: must be a multiple of {devices}, the devices per user (got {count})")
            try:
                scenario = scenario.replace({"population.users": users})
            except UsageError as error:
                raise UsageError(f"-u: {error}") from None
        if options.imsim_seed not in (None, ""):
            try:
                changes["seed"] = int(options.imsim_seed)
            except ValueError:
                raise UsageError(f"--imsim-seed: must be an integer (got {options.imsim_seed!r})") from None
        scenario = scenario.replace(changes)
        run_time = options.run_time if self._run_time is None else self._run_time  # the former is the web page's
        _check_positive("-t", run_time)
        if run_time is not None and run_time != scenario.duration:
            scenario = scenario.lasting(float(run_time))

        namespace = options.imsim_run or f"r{secrets.token_hex(4)}"
        if len(check_name("--imsim-run", namespace)) > _LONGEST_NAMESPACE:
            raise UsageError(f"--imsim-run: must have at most {_LONGEST_NAMESPACE} characters (got {namespace!r})")
        key = check_key(options.imsim_key, f"--imsim-key or {VARIABLE}")
        url = self._environment.host or self._users.host or ""
        given = options.imsim_option or []  # the web page gives one text
        adapter_options = options_of(given.split() if isinstance(given, str) else given, "--imsim-option")
        adapter = options.imsim_adapter or self._users.adapter
        return Job(
            scenario, url, namespace, key, adapter, {**self._users.adapter_options, **adapter_options}, self._has_tasks
        )

    def users_for(self, devices: int) -> int:
        """Return how many users Locust must start so that this many of them are devices, if it can start as many."""
        count, classes = devices, self._environment.user_classes
        of_devices = [user for user in classes if hasattr(user, "plays_plan")]
        if len(of_devices) < len(classes) and not all(user.fixed_count for user in of_devices):
            while (missing := devices - self._count_of_devices(count)) > 0:
                count += missing
        return count

    def _count_of_devices(self, count: int) -> int:
        """Return how many of these users are devices. Locust also starts users of other classes."""
        dispatcher = self._environment.dispatcher_class([WorkerNode("any")], self._environment.user_classes)
        dispatcher.new_dispatch(count, max(count, 1))
        names = {user.__name__ for user in self._environment.user_classes if hasattr(user, "plays_plan")}
        *_, final = dispatcher
        return sum(number for name, number in final["any"].items() if name in names)

    def _begin(self, job: Job) -> None:
        server = job.probe()
        self._statistics.begin()
        spawning = self._runner.target_user_count / self._options.spawn_rate
        out, report = self._options.imsim_out, self._statistics.report
        shared = self._options.imsim_folder
        self._test = Test(job, server, shared, out, spawning, self._stop_test, report, self._workers)
        if (web := self._environment.web_ui) is not None:
            web._cancel_run_time_timer()  # type: ignore[no-untyped-call]  # Locust's own timer would include the logins

    def _spawned(self, **_: Any) -> None:
        if self._test is not None and self._workers is None:
            gevent.spawn(self._test.spawned)  # after the new users have asked for their devices

    def _spawn_each(self, counts: Mapping[str, int], wait: bool = False) -> list[Any]:
        """Start the users that can be constructed. Locust itself starts no further user after one that cannot."""
        started: list[Any] = []
        error: Exception | None = None
        for name in (name for name, count in counts.items() for _ in range(count)):
            try:
                started += self._spawn_users({name: 1}, wait)
            except Exception as failed:
                error = failed
                logger.error("constructing a user of class %s failed", name, exc_info=error)
                events.user_error.fire(user_instance=None, exception=error, tb=error.__traceback__)
        if error is not None and not self._runner.user_count and (player := self.player) is not None:
            player.fail(f"Locust could not construct any user: {error!r}")
        return started

    def _user_failed(self, exception: BaseException, tb: Any, **_: Any) -> None:
        if (player := self.player) is not None:
            player.tasks.failed(exception, tb)

    # --- the end of a test ------------------------------------------------------------------------------------------

    def _stop_test(self) -> None:
        if self._options.headless:
            self._runner.quit()
        else:
            self._runner.stop()

    def _stopping(self, environment: Environment, **_: Any) -> None:
        if self._test is not None:
            if self._workers is not None and not self._workers.count:
                self._workers.lose_all()  # Locust stops the test for this reason
            is_shape = self._environment.shape_class is not None and gevent.getcurrent() is self._runner.shape_greenlet
            reason = "the load shape ended the test" if is_shape else "the test was stopped"
            is_second = self._test.is_ending and not is_shape  # the Stop button, during the drain
            self._test.end(reason, is_complete=is_shape, patience=_HURRY if is_second else math.inf)
            self._statistics.flush()

    def _stopped(self, environment: Environment, **_: Any) -> None:
        test, self._test = self._test, None
        if test is not None:
            self._write(test)

    def _quitting(self, environment: Environment, **_: Any) -> None:
        # Locust quits in the middle of a test after SIGTERM, or while another greenlet still ends the test.
        if (test := self._test) is not None:
            test.end("the test was terminated by SIGTERM", patience=_HURRY)
            self._statistics.flush()
            self._stopped(environment)
        elif self._is_starting:
            self._fail("the test was stopped before the server answered; is the server running?")
        for test in list(self._writing):
            test.written.wait()
        if self._code_on_error and (count := self._statistics.failures_of_others):
            self._exit_with(f"{count} requests of plain Locust users failed", self._code_on_error)
        write_csv()

    def _leave(self) -> None:
        """End this worker, because of Ctrl-C, which often reaches the master, too. A second Ctrl-C ends it at once."""
        self._sigint.cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert self._worker is not None
        self._worker.leave()
        self._runner.quit()

    def _interrupt(self) -> None:
        """End the test and Locust, because of Ctrl-C. A second Ctrl-C ends Locust at once."""
        self._sigint.cancel()
        self._sigint = gevent.signal_handler(signal.SIGINT, self._end_at_once)
        if self._test is not None:
            self._test.end("the test was interrupted", patience=_HURRY)
            self._statistics.flush()
        self._runner.quit()
        if self._environment.web_ui is not None:
            self._environment.web_ui.stop()  # type: ignore[no-untyped-call]  # Locust has no types for it

    def _end_at_once(self) -> None:
        for test in (self._test, *self._writing):
            if test is not None:
                test.close()
        if self._terminal is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._terminal)
        print("imsim: interrupted twice; the run is not kept", file=sys.stderr, flush=True)
        os._exit(_INTERRUPTED)

    def _summarize(self, exit_code: int, **_: Any) -> None:
        """Print why the test failed or is invalid, as the last line: Locust has printed its tables after the log."""
        if self._reasons and self._options.headless:
            kept = "" if self._kept is None else f"; the run{' until then' * self._has_failed} is {self._kept}"
            print(f"imsim: {'; '.join(self._reasons)}{kept}", file=sys.stderr, flush=True)

    def _write(self, test: Test) -> None:
        self._writing.append(test)
        try:
            run = test.collect()
            if run is not None:
                path = self._kept = test.write(run)
                logger.info("run: %s", path)
                print(f"run: {path}", flush=True)
                self._statistics.rebuild(run)
                for warning in run.manifest["warnings"]:
                    if warning not in test.warnings:  # found in the rows; the others are in the log
                        logger.warning(warning)
                if not run.valid:
                    self._show(f"INVALID: {run.invalid_because}", _INVALID)
                if exceptions := run.manifest["exceptions"]:  # Locust shows them, and the log has the warning
                    self._exit_with(exceptions_line(exceptions), 1)
        except ImsimError as error:
            self._fail(str(error))
        finally:
            test.close()
            self._writing.remove(test)
        if test.failure is not None:
            self._fail(test.failure)

    def _fail(self, reason: str, exit_code: int = 1) -> None:
        """Show why the test failed, in the log, on the web page and by the exit code."""
        self._has_failed = True
        self._show(reason, exit_code)

    def _show(self, reason: str, exit_code: int) -> None:
        """Show why the run is not what the tester asked for: in the log, on the web page and by the exit code."""
        logger.error(reason)
        self._runner.log_exception("imsim", reason, reason)
        self._exit_with(reason, exit_code)

    def _exit_with(self, reason: str, exit_code: int) -> None:
        """Let Locust end with this exit code, unless another one comes before it, and the reason in its last line."""
        self._reasons[reason] = exit_code
        if self._options.headless:
            codes = self._reasons.values()
            self._environment.process_exit_code = min(codes, key=lambda code: _PRECEDENCE.get(code, 1))


def _check_positive(option: str, value: float | None) -> None:
    """Raises: UsageError if the value of an option of Locust is 0 or less, which Locust would ignore."""
    if value is not None and value <= 0:
        raise UsageError(f"{option}: must be more than 0 (got {value:g})")


def _terminal() -> list[Any] | None:
    """Return the settings of the terminal, which Locust changes while it runs; None without a terminal."""
    try:
        return termios.tcgetattr(sys.stdin)
    except (OSError, ValueError, termios.error):
        return None


def _add_options(parser: Any) -> None:
    add = parser.add_argument
    add("--imsim-scenario", metavar="NAME|FILE", help="a preset or a TOML file, instead of the locustfile's scenario")
    add("--imsim-seed", metavar="N", help="the seed, instead of the scenario's; the same seed gives the same messages")
    add("--imsim-adapter", metavar="NAME", help="the kind of server (imsim, mqtt, xmpp ...) or the path of an adapter")
    add("--imsim-option", metavar="NAME=VALUE", action="append", help="an option of the adapter; repeatable")
    add("--imsim-key", env_var="IMSIM_KEY", default=DEFAULT_KEY, is_secret=True, help="the server's key, for tokens")
    add("--imsim-run", metavar="NAME", help="prefix of this run's users, groups and messages (default: random)")
    add("--imsim-out", metavar="DIR", default="results", help="parent of the run's folder (default: results)")
    add("--imsim-folder", help=argparse.SUPPRESS, include_in_web_ui=False)  # for imsim.load.launch


events.init_command_line_parser.add_listener(_add_options)
