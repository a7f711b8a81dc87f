"""The parent's side: Locust as a subprocess, and what it leaves behind made into a run.

Works wherever Python runs, in a Jupyter cell too: no Locust, no event loop, no signal handler in this process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imsim.analysis import Run
from imsim.core.exceptions import RunError
from imsim.load.recording import collect, read_status
from imsim.load.target import Target
from imsim.scenario import Scenario, plan

_STARTING = 60.0  # seconds that Locust may take to start, and at the end to stop
_POLL = 0.1  # seconds between two looks at the child
_PHASES = {"playing": "sending", "draining": "draining"}
_PATIENCE = 5.0  # seconds that a child which was told to stop may take


def loadtest(
    scenario: Scenario,
    url: str,
    *,
    key: str = "imsim",
    out: Path | str | None = None,
    warnings: Sequence[str] = (),
    progress: Callable[[str, float], None] | None = None,
) -> Run:
    """Play the scenario's plan against the server at `url` (ws://... or wss://...) and return the run.

    key: the server's, for tokens. out: where the run's folder is made, with Locust's log; None: nowhere. warnings: what
    the run is to say besides its own. `progress` is
    told what is being done and, while messages are sent, which share of them is due (0 to 1).

    The run's manifest says by `lateness_ms` how late this side was, and by `warnings` if that is too late to trust it;
    by `shed`, how many messages of chatrooms the server kept from a device meanwhile.

    Raises: UsageError for a url that is none; RunError if there is no server, if it refuses the key, if it goes away,
    or if Locust fails; the message then says where Locust's log is.
    """
    plan(scenario)  # too large a plan is refused here, not in the child
    target = Target(url)
    shed_before = target.check()
    with tempfile.TemporaryDirectory(prefix="imsim-load-") as name:
        folder = Path(name)
        log = folder / "locust.log"
        try:
            _run_locust(scenario, target, key, folder, log, progress)
            status = read_status(folder)
            if status.get("phase") != "done":
                raise RunError(status.get("reason") or f"Locust ended without a result: {_last_line(log)}")
        except RunError as error:
            raise RunError(f"{error} (log: {_keep(log, out)})") from None
        shed = None
        with contextlib.suppress(RunError):  # a server that has gone since tells nothing more
            shed = max(0, target.check() - shed_before)
        run = collect(folder, scenario, shed, warnings)
        if out is not None:
            shutil.copy(log, run.write(out))
    return run


def _run_locust(
    scenario: Scenario,
    target: Target,
    key: str,
    folder: Path,
    log: Path,
    progress: Callable[[str, float], None] | None,
) -> None:
    """Start Locust and wait until it has ended, by itself or by force."""
    file = folder / "scenario.toml"
    file.write_text(scenario.to_toml(), encoding="utf-8")
    devices = scenario.population.users * scenario.population.devices
    command = [sys.executable, "-m", "locust", "--locustfile", str(Path(__file__).with_name("locustfile.py"))]
    command += ["--headless", "--only-summary", "--host", target.url]
    command += ["--users", str(devices), "--spawn-rate", str(devices)]
    command += ["--imsim-scenario", str(file), "--imsim-folder", str(folder)]
    # A hard end, should the child's own bounds fail: logins and groups, the plan, the drain.
    bound = _STARTING + 2 * (30 + 0.02 * devices) + scenario.duration + scenario.drain
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=folder,  # where no locust.conf or pyproject.toml can change anything
            env=_environment(key),
            stdin=subprocess.PIPE,  # ends when this process does, however it does; then the child leaves, too
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches this process only, which then ends the child
        )
        try:
            began = None
            deadline = time.monotonic() + bound
            while child.poll() is None:
                now = time.monotonic()
                if now > deadline:
                    raise RunError(f"Locust did not end within {bound:.0f} s and was stopped")
                phase = str(read_status(folder).get("phase"))
                if began is None and phase == "playing":
                    began = now
                if progress:
                    share = 0.0 if began is None else min((now - began) / scenario.duration, 1.0)
                    progress(_PHASES.get(phase, "logging in"), share)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=_POLL)
        finally:
            _end(child)
            assert child.stdin is not None
            child.stdin.close()


def _environment(key: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    environment["IMSIM_KEY"] = key  # not as an argument, which every user of the machine could read
    package = str(Path(__file__).parents[2])  # for a checkout that is not installed
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _keep(log: Path, out: Path | str | None) -> Path:
    """A copy of the log that outlives the temporary folder: beside the runs, or where temporary files are."""
    parent = Path(tempfile.gettempdir() if out is None else out)
    kept = parent / f"failed-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}.log"
    parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(log, kept)
    return kept


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
