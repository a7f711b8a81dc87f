"""The parent process of a load test: it starts Locust as a subprocess, and makes a run of the results.

This process needs neither Locust nor an event loop nor a signal handler, so `loadtest` also works in a Jupyter cell.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from imsim import disk
from imsim.analysis import Run
from imsim.core.exceptions import ImsimError, RunError, UsageError
from imsim.keys import DEFAULT_KEY
from imsim.load.adapters.find import absolute, find
from imsim.load.collect import collect, read_status, write
from imsim.load.job import Job
from imsim.scenario import Scenario

_START_STOP_TIMEOUT = 60.0  # seconds that Locust may take to start and to stop, together
_POLL_INTERVAL = 0.1  # seconds between two checks of the child
_PHASES = {"play": "sending", "drain": "draining", "done": "draining"}
_INTERRUPT_TIMEOUT = 5.0  # seconds that the child may take to end its test after a signal


#: The last line of a traceback.
_EXCEPTION = re.compile(r"[A-Za-z_.]+(Error|Exception|Interrupt|Exit)\b")


def loadtest(
    scenario: Scenario,
    url: str,
    *,
    key: str = DEFAULT_KEY,
    adapter: str = "imsim",
    options: Mapping[str, str] = MappingProxyType({}),
    out: Path | str | None = None,
    warnings: Sequence[str] = (),
    progress: Callable[[str, float], None] | None = None,
    processes: int = 1,
) -> Run:
    """Play the scenario's plan against the server at `url` (ws://... or wss://...) and return the run.

    key: the server's key, for tokens. adapter: the kind of server, as `imsim.load.adapters.find` takes it. options: the
    options of the adapter. out: the folder in which the run's folder is created, with Locust's log; None:
    the run is not written. warnings: further warnings for the manifest. progress: receives the current phase or a line
    about the last second, and the share of the duration that has passed (0 to 1). processes: the count of Locust's
    processes that play the plan; with more than one, another process leads them.

    In the run's manifest, `lateness_ms` is how late the load generator sent. `valid` is false if its own delays explain
    too much of the latencies, and `invalid_because` is the reason. `shed` is how many deliveries of chatroom messages
    the server shed during the run.

    The run is partial (`run.partial`) if it ended early, for example because the server went away.

    Raises: UsageError for an invalid url; RunError if there is no server, if it refuses the key, if it goes away before
    the first message, or if Locust fails. If Locust was started, the error names the path of its log. Interrupted if
    this process is interrupted; the run until then is in its attribute `run`.
    """
    job = Job(scenario, url, "", key, adapter, options)
    devices = scenario.population.users * scenario.population.devices
    if not 1 <= processes <= devices:
        raise UsageError(f"processes: expected 1 to {devices}, the devices of the population (got {processes})")
    job.check(job.make_adapter())  # raises here, not in the child
    before = job.probe()
    with disk.temporary_folder("imsim-load-") as name:
        folder = Path(name)
        log = folder / "locust.log"
        stop: BaseException | None = None
        try:
            try:
                _run_locust(job, folder, log, progress, processes)
            except Exception:
                raise
            except BaseException as error:  # Ctrl-C or SIGTERM
                stop = error
            shed = None
            with contextlib.suppress(RunError, KeyError):  # the server may have stopped since the end of the run
                shed = max(0, job.probe()["shed"] - before["shed"])
            if "started" not in (status := read_status(folder)):
                if stop is not None:
                    raise stop
                raise RunError(status.get("ended", {}).get("reason") or _missing_reason(log))
            rows = None if out is None else folder / "rows"
            run = collect(folder, scenario, rows=rows, shed=shed, warnings=warnings)
        except RunError as error:
            raise RunError(f"{error}{_keep(log, out)}") from None
        if out is not None:
            written = write(run, out)
            with disk.errors("write", written / log.name, note="the run is complete, without this log"):
                shutil.copy(log, written)
    if stop is not None:
        raise Interrupted(run) from stop
    return run


class Interrupted(KeyboardInterrupt):
    """A load test was interrupted (Ctrl-C) or terminated (SIGTERM). `run` is the run until then."""

    def __init__(self, run: Run) -> None:
        kept = "" if run.path is None else f"; the run until then is {run.path}"
        super().__init__(f"{run.manifest['ended']['reason']}{kept}")
        self.run = run


def _run_locust(
    job: Job,
    folder: Path,
    log: Path,
    progress: Callable[[str, float], None] | None,
    processes: int,
) -> None:
    """Run Locust to its end. Terminate it if it takes too long or if this process is interrupted."""
    scenario = job.scenario
    file = folder / "scenario.toml"
    disk.write(file, scenario.to_toml().encode())
    devices = scenario.population.users * scenario.population.devices
    command = [sys.executable, "-m", "locust", "--locustfile", str(Path(__file__).with_name("locustfile.py"))]
    command += ["--headless", "--only-summary", "--host", job.url]
    command += ["--users", str(devices), "--spawn-rate", str(devices)]
    command += ["--imsim-scenario", str(file), "--imsim-folder", str(folder)]
    command += ["--imsim-adapter", absolute(job.adapter)]
    files = find(job.adapter).files
    for name, value in job.options.items():  # the child runs in another folder
        command.append(f"--imsim-option={name}={os.path.abspath(value) if name in files else value}")
    if processes > 1:
        port = str(_free_port())
        command += ["--processes", str(processes), "--master-bind-host", "127.0.0.1", "--master-host", "127.0.0.1"]
        command += ["--master-bind-port", port, "--master-port", port]
    # A time limit, in case those of the child fail. It covers logins and groups, the plan, and the drain.
    bound = _START_STOP_TIMEOUT + 2 * (30 + 0.02 * devices) + scenario.duration + scenario.drain
    with disk.errors("write", log):
        output = log.open("wb")
    with output:
        child = subprocess.Popen(
            command,
            cwd=folder,  # so that Locust reads no locust.conf or pyproject.toml of the user
            env=_environment(job.key),
            stdin=subprocess.PIPE,  # the pipe ends with this process in any case; the child exits at its end
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only this process, which then ends the child
        )
        number = signal.SIGINT
        try:
            importlib.import_module("pandas")  # for the summary, while the child starts: Ctrl-C must end fast
            began = None
            deadline = time.monotonic() + bound
            while child.poll() is None:
                now = time.monotonic()
                if now > deadline:
                    raise RunError(f"Locust did not end within {bound:.0f} s, and imsim stopped it")
                status = read_status(folder)
                phase = str(status.get("phase"))
                if began is None and phase == "play":
                    began = now
                if progress:
                    share = 0.0 if began is None else min((now - began) / scenario.duration, 1.0)
                    progress(status.get("live", {}).get("line") or _PHASES.get(phase, "logging in"), share)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=_POLL_INTERVAL)
        except BaseException as error:
            if not isinstance(error, Exception | KeyboardInterrupt):  # the command's exception for SIGTERM
                number = signal.SIGTERM
            raise
        finally:
            assert child.stdin is not None
            with child.stdin:
                _end(child, folder, number)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _environment(key: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    environment["IMSIM_KEY"] = key  # not an argument, because every user of the computer can read arguments
    package = str(Path(__file__).parents[2])  # imsim may run from a source tree, not installed
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    environment["PYTHONUNBUFFERED"] = "1"
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):  # the child runs in another folder
        if environment.get(name):
            environment[name] = os.path.abspath(environment[name])
    return environment


def _end(child: subprocess.Popen[bytes], folder: Path, number: signal.Signals) -> None:
    """Let the child end its test and write its status, and end it then, or if that takes too long."""
    if child.poll() is None:
        child.send_signal(number)
    deadline = time.monotonic() + _INTERRUPT_TIMEOUT
    try:
        while child.poll() is None and time.monotonic() < deadline and "ended" not in read_status(folder):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=_POLL_INTERVAL)
    finally:
        child.kill()
        child.wait()


def _missing_reason(log: Path) -> str:
    """Return the reason why the child wrote no reason: without space it can write neither its status nor its log."""
    try:
        disk.check_writable(log)
    except ImsimError as error:
        return f"{error}; {disk.TMPDIR}"
    return f"Locust ended without a result; its last error is: {_last_error(log)}"


def _keep(log: Path, out: Path | str | None) -> str:
    """Copy the log out of the temporary folder, to `out` or to the system's folder for temporary files.

    Return the end of an error's text, which names the copy. It is empty if the log cannot be copied.
    """
    parent = Path(tempfile.gettempdir() if out is None else out)
    kept = parent / f"failed-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}.log"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, kept)
    except OSError:  # the error that the log explains matters more
        return ""
    return f" (log: {kept})"


def _last_error(log: Path) -> str:
    """Return the last line of the log that reports an error; the last line of all if there is none."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    errors = [line for line in lines if "/ERROR/" in line or "/CRITICAL/" in line or _EXCEPTION.match(line)]
    return (errors or lines or ["none, its log is empty"])[-1]
