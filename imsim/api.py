"""The public face: what `import imsim` offers, for notebooks, scripts and the command line alike.

Heavy libraries are imported inside the functions that need them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

from imsim.analysis import Run, compare_table, open_run, theory
from imsim.core.exceptions import ImsimError, RunError, UsageError
from imsim.scenario import Empirical, OwnDistribution, Scenario

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = [
    "Empirical",
    "ImsimError",
    "OwnDistribution",
    "Run",
    "RunError",
    "Scenario",
    "Served",
    "UsageError",
    "compare",
    "loadtest",
    "open_run",
    "plot_cdf",
    "save_cdf",
    "schema",
    "serve",
    "simulate",
    "theory",
]

#: The key with which clients get tokens, unless another is given: for trials on one's own machine.
DEFAULT_KEY = "imsim"

_START_SECONDS = 60.0
_STOP_SECONDS = 15.0


def simulate(
    scenario: Scenario | str = "office",
    *,
    seed: int | None = None,
    duration: float | str | None = None,
    out: Path | str | None = None,
    progress: bool = False,
    spans: bool = False,
) -> Run:
    """Run a scenario in simulated time.

    scenario: a Scenario, a preset's name or a TOML file's path.
    seed, duration (seconds, or "5s"): in place of the scenario's own. The same seed gives the same rows, everywhere.
    out: where to make the run's folder; None: the run is in memory only, until `run.write("results")`.
    progress: show a bar while it runs (on a terminal or in a notebook).
    spans: record also where the time of each delivery went, and how busy the nodes were: `run.breakdown()`,
        `run.nodes`. The other rows are the same; it takes about twice the time.

    Raises: UsageError.
    """
    from imsim.sim import simulate as simulate_world

    scenario = _with(_scenario(scenario), seed, duration)
    started = datetime.now(UTC)
    _check(out)
    with _Progress(progress) as bar:
        what = f"simulating {scenario.name}"
        tables = simulate_world(scenario, progress=lambda share: bar.show(what, share), spans=spans)
    run = Run.make(tables, scenario, world="sim", seed=scenario.seed, started=started)
    if out is not None:
        run.write(out)
    return run


def loadtest(
    scenario: Scenario | str,
    url: str,
    *,
    duration: float | str | None = None,
    seed: int | None = None,
    key: str = DEFAULT_KEY,
    out: Path | str | None = None,
    progress: bool = False,
) -> Run:
    """Drive real load from the scenario's plan against the server at `url` (ws:// or wss://), with Locust in a
    process of its own, and return the run once everything has arrived or the scenario's drain is over.

    scenario, duration, seed, out, progress: as for `simulate`, and the same plan. key: the server's.
    Raises: UsageError; RunError if there is no such server, or the run failed.
    """
    from imsim.load.launch import loadtest as launch

    scenario = _with(_scenario(scenario), seed, duration)
    _check(out)
    with _Progress(progress) as bar:
        return launch(scenario, url, key=key, out=out, progress=bar.show)


def serve(
    scenario: Scenario | str = "office",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    db: str | Path | None = None,
    key: str = DEFAULT_KEY,
) -> Served:
    """Serve the core over WebSockets, in a process of its own, so that a busy notebook does not stall it.

        with imsim.serve("office") as server:
            run = imsim.loadtest("office", server.url, duration=10)

    scenario: where policies and limits come from. port: 0 finds a free one. db: a SQLite file (None: in memory only).
    Raises: UsageError; RunError if the server does not start.
    """
    return Served(_scenario(scenario), host, port, db, key)


class Served:
    """A server that runs in its own process: `.url`, `.stop()`, or `with`. It ends with this process, too."""

    def __init__(self, scenario: Scenario, host: str, port: int, db: str | Path | None, key: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="imsim-serve-")
        file = Path(self._folder.name) / f"{scenario.name}.toml"
        file.write_text(scenario.to_toml(), encoding="utf-8")
        command = [sys.executable, "-m", "imsim", "serve", str(file), "--host", host, "--port", str(port)]
        if db is not None:
            command += ["--db", str(db)]
        self._errors = Path(self._folder.name) / "errors.log"
        # The server leaves when its standard input ends, and so with whoever started it, however that one ends. Its
        # complaints go to a file, since a pipe that nobody reads would block it once full.
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, "--key-from-stdin"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(key + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has refused to start; its reason follows
        self.url = ""
        patience = Timer(_START_SECONDS, self._process.kill)
        patience.start()
        try:
            for line in self._process.stdout:
                if line.startswith("listening on "):
                    self.url = line.split()[2]
                    return
        finally:
            patience.cancel()
        code = self._process.wait()
        lines = self._errors.read_text(errors="replace").split("\n")
        why = next((line for line in reversed(lines) if line.strip()), f"exit code {code}").removeprefix("imsim: ")
        self.stop()
        raise (UsageError if code == 2 else RunError)(f"the server did not start: {why}")

    def stop(self) -> None:
        """End the server: clients are told, storage is written. Harmless when it has ended already."""
        if self._process.poll() is None:
            try:
                self._process.communicate(timeout=_STOP_SECONDS)  # closes its standard input
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                stream.close()
        self._folder.cleanup()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "ended" if self._process.poll() is not None else "running"
        return f"<imsim server at {self.url}, {state}>"


def compare(*runs: Run) -> pd.DataFrame:
    """Runs side by side: what was sent, delivered and lost, and the latencies in ms."""
    return compare_table(runs)


def plot_cdf(*runs: Run, ax: Axes | None = None) -> Axes:
    """The latency CDFs of several runs in one picture."""
    from imsim.analysis import plots

    return plots.cdf(list(runs), ax)


def save_cdf(runs: Sequence[Run], path: str | Path) -> Path:
    """The same as a PNG or SVG file."""
    from imsim.analysis import plots

    return plots.save_cdf(list(runs), Path(path))


def schema(*, asyncapi: bool = False) -> dict[str, Any]:
    """The wire protocol, for programs in other languages: the JSON Schema (2020-12) of every frame between clients and
    server, or the server's AsyncAPI (3.0) document."""
    from imsim.wire import schema as documents

    return documents.asyncapi() if asyncapi else documents.json_schema()


def _scenario(scenario: Scenario | str) -> Scenario:
    return scenario if isinstance(scenario, Scenario) else Scenario.load(scenario)


def _with(scenario: Scenario, seed: int | None, duration: float | str | None) -> Scenario:
    """The scenario as it is run, so that what a run folder holds is what was run."""
    if seed is not None:
        scenario = scenario.with_({"seed": seed})
    if duration is not None:
        shorter = scenario.with_({"duration": duration, "warmup": 0.0})
        fits = scenario.warmup < shorter.duration
        scenario = shorter.with_({"warmup": scenario.warmup}) if fits else shorter
    return scenario


def _check(out: Path | str | None) -> None:
    """Better now than when the run is done."""
    if out is not None:
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"out: cannot make the folder {out}: {error.strerror}") from None


class _Progress:
    """A progress bar, of which nothing is left; silent unless `shown`, and where there is no terminal."""

    def __init__(self, shown: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tqdm, about notebook widgets that are not installed
            from tqdm.auto import tqdm

        form = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}"
        self._bar: Any = tqdm(total=1.0, leave=False, disable=None if shown else True, bar_format=form)

    def __enter__(self) -> _Progress:
        return self

    def show(self, what: str, share: float) -> None:
        self._bar.set_description(what, refresh=False)
        self._bar.update(share - self._bar.n)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
