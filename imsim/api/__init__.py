"""The public face: what `import imsim` offers, for notebooks, scripts and the command line alike.

Heavy libraries are imported inside the functions that need them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from imsim.analysis import (
    Budget,
    Capacity,
    Comparison,
    Metrics,
    Replications,
    Run,
    Sweep,
    compare_table,
    default_metrics,
    open_run,
    theory,
)
from imsim.api.progress import Progress
from imsim.api.served import Served
from imsim.core.exceptions import ImsimError, RunError, UsageError
from imsim.scenario import CustomDistribution, Empirical, Scenario

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from imsim.experiments import Over, Precision

__all__ = [
    "Budget",
    "Capacity",
    "Comparison",
    "CustomDistribution",
    "Empirical",
    "ImsimError",
    "Replications",
    "Run",
    "RunError",
    "Scenario",
    "Served",
    "Sweep",
    "UsageError",
    "capacity",
    "compare",
    "loadtest",
    "open_run",
    "plot_cdf",
    "save_cdf",
    "schema",
    "serve",
    "simulate",
    "sweep",
    "theory",
]

#: The key with which clients get tokens, unless another is given: for trials on one's own machine.
DEFAULT_KEY = "imsim"

#: What a sweep measures of each design, besides what is asked for.
SWEPT = ("delivery.p50", "delivery.p95", "delivery.p99", "ack.p99", "lost")


@overload
def simulate(
    scenario: Scenario | str = ...,
    *,
    seed: int | None = ...,
    duration: float | str | None = ...,
    out: Path | str | None = ...,
    progress: bool = ...,
    spans: bool = ...,
) -> Run: ...


@overload
def simulate(
    scenario: Scenario | str = ...,
    *,
    seed: int | None = ...,
    duration: float | str | None = ...,
    progress: bool = ...,
    replications: int,
    precision: Precision | None = ...,
    max_replications: int | None = ...,
    jobs: int = ...,
    metrics: Metrics = ...,
    keep: Literal["summary", "runs"] = ...,
) -> Replications: ...


@overload
def simulate(
    scenario: Scenario | str = ...,
    *,
    seed: int | None = ...,
    duration: float | str | None = ...,
    progress: bool = ...,
    precision: Precision,
    max_replications: int | None = ...,
    jobs: int = ...,
    metrics: Metrics = ...,
    keep: Literal["summary", "runs"] = ...,
) -> Replications: ...


def simulate(
    scenario: Scenario | str = "office",
    *,
    seed: int | None = None,
    duration: float | str | None = None,
    out: Path | str | None = None,
    progress: bool = False,
    spans: bool = False,
    replications: int | None = None,
    precision: Precision | None = None,
    max_replications: int | None = None,
    jobs: int = -1,
    metrics: Metrics = (),
    keep: Literal["summary", "runs"] = "summary",
) -> Run | Replications:
    """Run a scenario in simulated time, once or, with `replications` or `precision`, several times under other seeds.

    scenario: a Scenario, a preset's name or a TOML file's path.
    seed, duration (seconds, or "5s"): in place of the scenario's own. The same seed gives the same rows, everywhere.
        Faults, and moments of a replay, that would come after that duration are left out, and `run.warnings` says so.
    out: where to make the run's folder; None: the run is in memory only, until `run.write("results")`.
    progress: show a bar while it runs (on a terminal or in a notebook).
    spans: record also where the time of each delivery went, and how busy the nodes were: `run.breakdown()`,
        `run.nodes`. The other rows are the same; it takes about twice the time.

    replications: run it so often, and return what all of them say, with intervals. The first has `seed` itself, the
    others
        seeds that follow from it.
    precision: 0.05 goes on until delivery.p99 is known to 5 %, {"ack.p95": 0.02} until ack.p95 is to 2 %, or there
        are `max_replications` (200): the sequential procedure of Law and Kelton (see `imsim.analysis.intervals`), which
        starts with `replications` (20).
    jobs: processes, -1 for one on each core. Changes no result. `with joblib.parallel_config("dask"):` runs it
    elsewhere.
    metrics: what to measure besides latencies and counts: names ("delivery.p99.9"), or functions of a run of your own.
    keep: "runs" keeps all rows of all replications in memory, "summary" only what was measured.

    Raises: UsageError.
    """
    from imsim.sim import simulate as simulate_world

    given = _scenario(scenario)
    scenario = _with(given, seed, duration)
    left_out = given.left_out(scenario)
    if replications is not None or precision is not None:
        from imsim.experiments import Asked, replicate

        if out is not None:
            raise UsageError("out: replications make no folders; keep='runs' keeps the runs, and each can be written")
        if spans:
            raise UsageError("spans: of one run only; leave replications and precision out")
        asked = Asked.of(
            metrics,
            also=default_metrics(scenario),
            replications=replications,
            precision=precision,
            most=max_replications,
            jobs=jobs,
            keep=keep,
            series=True,
        )
        for line in left_out:
            warnings.warn(line, stacklevel=2)
        with Progress(progress) as bar:
            return replicate([scenario], asked, progress=bar.show)[0]
    started = datetime.now(UTC)
    _check(out)
    with Progress(progress) as bar:
        what = f"simulating {scenario.name}"
        tables = simulate_world(scenario, progress=lambda share: bar.show(what, share), spans=spans)
    noted = {"warnings": left_out} if left_out else None
    run = Run.make(tables, scenario, world="sim", seed=scenario.seed, started=started, extra=noted)
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

    given = _scenario(scenario)
    scenario = _with(given, seed, duration)
    left_out = given.left_out(scenario, live=True)
    _check(out)
    with Progress(progress) as bar:
        return launch(scenario, url, key=key, out=out, warnings=left_out, progress=bar.show)


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


@overload
def compare(*what: Run) -> pd.DataFrame: ...


@overload
def compare(
    *what: Scenario | str | Replications,
    replications: int | None = ...,
    precision: Precision | None = ...,
    max_replications: int | None = ...,
    metrics: Metrics = ...,
    seed: int | None = ...,
    jobs: int = ...,
    progress: bool = ...,
) -> Comparison: ...


def compare(
    *what: Run | Scenario | str | Replications,
    replications: int | None = None,
    precision: Precision | None = None,
    max_replications: int | None = None,
    metrics: Metrics = (),
    seed: int | None = None,
    jobs: int = -1,
    progress: bool = False,
) -> pd.DataFrame | Comparison:
    """By how much one design beats another; or, of runs, what they say side by side.

    Two scenarios (or names, or files), or the `Replications` of two: a `Comparison`, which holds the two replication by
    replication under the same seeds, with the interval of the paired difference. Scenarios are simulated for it:
    `replications` (20), `precision` (of each design), `metrics`, `jobs` as for `simulate`; `seed` in place of both's
    own.

    Runs, simulated or live: a table of what was sent, delivered and lost, and the latencies in ms. One run each tells
    nothing about chance.

    Raises: UsageError, also if the two were not run under the same seeds.
    """
    runs = [one for one in what if isinstance(one, Run)]
    if len(runs) == len(what):
        return compare_table(runs)
    given = [one for one in what if isinstance(one, Replications)]
    if runs or len(what) != 2 or len(given) == 1:
        raise UsageError("compare: expected two scenarios, or two Replications, or runs alone")
    if given:
        return Comparison(*given)

    from imsim.experiments import Asked, replicate

    designs = [_with(_scenario(one), seed, None) for one in what if isinstance(one, Scenario | str)]
    if designs[0].seed != designs[1].seed:
        raise UsageError(
            f"compare: the scenarios have different seeds ({designs[0].seed}, {designs[1].seed}); give seed=, for both"
        )
    asked = Asked.of(
        metrics,
        also=_default_metrics(designs),
        replications=replications,
        precision=precision,
        most=max_replications,
        jobs=jobs,
    )
    with Progress(progress) as bar:
        return Comparison(*replicate(designs, asked, progress=bar.show))


def sweep(
    scenario: Scenario | str,
    over: Over,
    *,
    replications: int | None = None,
    precision: Precision | None = None,
    max_replications: int | None = None,
    metrics: Metrics = (),
    seed: int | None = None,
    jobs: int = -1,
    out: Path | str | None = None,
    progress: bool = True,
) -> Sweep:
    """Many designs under the same luck: a row for each, with intervals.

        sweep = imsim.sweep("office", {"topology.routers": [1, 2, 4], "workload.rate": [0.3, 3.0]},
        out="results/routers") sweep.frame
        sweep.plot()

    over: dotted paths with their values, of which every combination is a design. Values may be Python objects; a
    mapping
        gives them names: {"topology.storage.service.append": {"fast": "1ms", "slow": "5ms"}}. Or a list of designs,
        each a mapping of paths to values, a scenario, or a function that makes a scenario from `scenario`.
    replications (20), precision (of each design), max_replications, metrics, jobs: as for `simulate`.
    seed: in place of the scenario's own; all designs have the same.
    out: a folder in which each replication of each design is kept as soon as it is finished: a sweep that was
    interrupted, or
        has grown, runs only what is missing. Another program, design or seed is not mixed up with it: custom parts and
        metrics count by their code and by all that it refers to (globals, closures, classes, helpers in your own
        modules, arrays by their content), installed packages by their versions. Not looked into are files that are
        read, environment variables, and names put together at run time; a warning says of what else it cannot tell, and
        then nothing is kept. At the end, `sweep.csv` there is the frame.
    progress: show a bar (on a terminal or in a notebook).

    Raises: UsageError, before anything is run.
    """
    from imsim.experiments import Asked, FolderStore, grid_points, replicate

    base = _with(_scenario(scenario), seed, None)
    found = grid_points(base, over)
    designs = [point.scenario for point in found]
    costs = [name for name in _default_metrics(designs) if name.startswith("cost.")]
    asked = Asked.of(
        metrics,
        also=(*SWEPT, *costs),
        replications=replications,
        precision=precision,
        most=max_replications,
        jobs=jobs,
    )
    store = None if out is None else FolderStore(Path(out), asked.measures)
    with Progress(progress) as bar:
        told = Sweep(base, [point.labels for point in found], replicate(designs, asked, store=store, progress=bar.show))
    if out is not None:
        told.frame.to_csv(Path(out) / "sweep.csv", index=False)
    return told


def capacity(
    scenario: Scenario | str,
    budget: Budget | str,
    *,
    over: str = "workload.rate",
    low: float | None = None,
    high: float | None = None,
    tolerance: float = 0.05,
    replications: int | None = None,
    max_replications: int | None = None,
    metrics: Metrics = (),
    seed: int | None = None,
    jobs: int = -1,
    out: Path | str | None = None,
    progress: bool = True,
) -> Capacity:
    """The highest load that keeps a budget: imsim.capacity("office", "delivery.p99 < 200ms").

    It starts at the scenario's own load, doubles or halves it until the budget is kept at one load and broken at
    another (not beyond `low` and `high`, or 64 times either way), and bisects until they are `tolerance` apart. More
    load is taken to be never better. At each load there are `replications` (5, and no fewer) at first, and up to
    `max_replications` (40) where the interval of their mean does not tell whether the budget is kept; where it still
    does not, the load is reported as undecided.

    budget: a `Budget` or its text; its metric may be one of your own `metrics`.
    over: the dotted path of the load.
    seed, jobs, out, progress: as for `sweep`.

    Raises: UsageError.
    """
    from imsim.experiments import Asked, FolderStore
    from imsim.experiments import capacity as searching

    chosen = Budget(budget) if isinstance(budget, str) else budget
    base = _with(_scenario(scenario), seed, None)
    asked = Asked.of(
        metrics,
        needs=(chosen.metric,),
        replications=searching.FIRST if replications is None else replications,
        most=max(searching.MOST, replications or 0) if max_replications is None else max_replications,
        jobs=jobs,
    )
    if asked.replications < searching.FIRST:
        raise UsageError(
            f"replications: a load is judged by the interval of {searching.FIRST} or more, got {asked.replications}"
        )
    store = None if out is None else FolderStore(Path(out), asked.measures)
    with Progress(progress) as bar:
        return searching.capacity(
            base,
            chosen,
            over,
            asked,
            tolerance=tolerance,
            lowest=low,
            highest=high,
            store=store,
            progress=bar.show,
        )


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


def _default_metrics(designs: Sequence[Scenario]) -> tuple[str, ...]:
    """Those that all of the designs have: what they cost only if all have prices."""
    common = [default_metrics(design) for design in designs]
    return tuple(name for name in common[0] if all(name in names for names in common))


def _scenario(scenario: Scenario | str) -> Scenario:
    return scenario if isinstance(scenario, Scenario) else Scenario.load(scenario)


def _with(scenario: Scenario, seed: int | None, duration: float | str | None) -> Scenario:
    """The scenario as it is run, so that what a run folder holds is what was run."""
    if seed is not None:
        scenario = scenario.with_({"seed": seed})
    return scenario if duration is None else scenario.lasting(duration)


def _check(out: Path | str | None) -> None:
    """Better now than when the run is done."""
    if out is not None:
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"out: cannot make the folder {out}: {error.strerror}") from None
