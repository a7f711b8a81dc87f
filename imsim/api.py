"""The public API: what `import imsim` offers, for notebooks, scripts and the command line alike.

Importing it loads no pandas, no matplotlib, no SimPy and no Locust.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from imsim import experiments
from imsim.analysis import (
    Budget,
    Metrics,
    Run,
    compare_table,
    default_metrics,
    open_run,
    plot_cdf,
    save_cdf,
    theory,
)
from imsim.analysis.kinds import UTILISATIONS, WAITS
from imsim.core.exceptions import ImsimError, RunError, UsageError
from imsim.experiments import Capacity, Comparison, FolderStore, Over, Precision, Replications, Sampling, Sweep
from imsim.experiments.capacity import FEWEST_PER_LOAD, MOST_PER_LOAD
from imsim.load import launch
from imsim.load.served import Served
from imsim.scenario import CustomDistribution, Empirical, Scenario

if TYPE_CHECKING:
    import pandas as pd

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

#: The key with which clients get tokens, unless another is given: for trials on your own machine.
DEFAULT_KEY = "imsim"


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
        others seeds that follow from it.
    precision: 0.05 goes on until delivery.p99 is known to 5 %, {"ack.p95": 0.02} until ack.p95 is to 2 %, or there
        are `max_replications` (200): the sequential procedure of Law and Kelton (see `imsim.analysis.intervals`), which
        starts with `replications` (20).
    jobs: processes, -1 for one on each core. Changes no result. `with joblib.parallel_config("dask"):` runs it
        elsewhere.
    metrics: what to measure besides latencies, counts and costs (`imsim.analysis.default_metrics`): names
        ("delivery.p99.9"), or functions of a run of your own; one whose name ends in "share" gives 0 to 1.
    keep: "runs" keeps all rows of all replications in memory, "summary" only what was measured.

    Raises: UsageError.
    """
    given = _scenario(scenario)
    scenario = _with(given, seed, duration)
    left_out = given.left_out(scenario)
    if replications is None and precision is None:
        _check(out)
        with ProgressBar(progress) as bar:
            what = f"simulating {scenario.name}"
            run = experiments.simulate_once(
                scenario, spans=spans, progress=lambda share: bar.show(what, share), warnings=left_out
            )
        if out is not None:
            run.write(out)
        return run

    if out is not None:
        raise UsageError("out: replications make no folders; keep='runs' keeps the runs, and each can be written")
    if spans:
        raise UsageError("spans: of one run only; leave replications and precision out")
    sampling = Sampling.of(
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
    with ProgressBar(progress) as bar:
        return experiments.replicate([scenario], sampling, progress=bar.show)[0]


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
    given = _scenario(scenario)
    scenario = _with(given, seed, duration)
    left_out = given.left_out(scenario, live=True)
    _check(out)
    with ProgressBar(progress) as bar:
        return launch.loadtest(scenario, url, key=key, out=out, warnings=left_out, progress=bar.show)


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

    Runs, two or more, simulated or live: a table of what was sent, delivered and lost, and the latencies in ms. One run
    each says nothing about chance.

    Raises: UsageError, also for one alone, and if the two were not run under the same seeds.
    """
    runs = [one for one in what if isinstance(one, Run)]
    given = [one for one in what if isinstance(one, Replications)]
    scenarios = [one for one in what if isinstance(one, Scenario | str)]
    if not (len(what) == 2 in (len(given), len(scenarios)) or len(what) == len(runs) > 1):
        found = ", ".join(type(one).__name__ for one in what) or "nothing"
        alone = "; of one alone, summary() has the numbers" if len(what) == len(runs) + len(given) == 1 else ""
        raise UsageError(f"compare: expected two scenarios, two Replications, or two runs or more, got {found}{alone}")
    if not scenarios:
        options: dict[str, object] = {"replications": replications, "precision": precision, "seed": seed}
        options |= {"max_replications": max_replications, "metrics": metrics or None}
        if ignored := [name for name, value in options.items() if value is not None]:
            raise UsageError(f"compare: {', '.join(ignored)}: for scenarios only; what was run already stays as it is")
        return Comparison(*given) if given else compare_table(runs)

    a, b = (_with(_scenario(one), seed, None) for one in scenarios)
    sampling = Sampling.of(
        metrics,
        also=default_metrics(a, b),
        replications=replications,
        precision=precision,
        most=max_replications,
        jobs=jobs,
    )
    with ProgressBar(progress) as bar:
        return experiments.compare(a, b, sampling, progress=bar.show)


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
    """Many designs under the same seeds: a row for each, with intervals.

        over = {"topology.routers": [1, 2, 4], "workload.rate": [0.3, 3.0]}
        sweep = imsim.sweep("office", over, out="results/routers")
        sweep.frame
        sweep.plot()

    over: dotted paths with their values, of which every combination is a design. Values may be Python objects; a
        mapping gives them names: {"topology.storage.service.append": {"fast": "1ms", "slow": "5ms"}}. Or a list of
        designs, each a mapping of paths to values, a scenario, or a function that makes a scenario from `scenario`.
    replications (20), precision (of each design), max_replications, metrics, jobs: as for `simulate`.
    seed: in place of the scenario's own; all designs have the same.
    out: a folder in which each replication of each design is kept as soon as it is finished: a sweep that was
        interrupted, or has grown, runs only what is missing. Another program, design or seed is not mixed up with it:
        custom parts and metrics count by their code and by all that it refers to (globals, closures, classes, helpers
        in your own modules, arrays by their content), installed packages by their versions. Not looked into are files
        that are read, environment variables, and names put together at run time; a warning says what else it cannot
        compare, and then nothing is kept. At the end, `sweep.csv` there is the frame.
    progress: show a bar (on a terminal or in a notebook).

    Raises: UsageError, before anything is run.
    """
    base = _with(_scenario(scenario), seed, None)
    designs = experiments.variants(base, over)
    sampling = Sampling.of(
        metrics,
        also=default_metrics(*(design.scenario for design in designs)),
        replications=replications,
        precision=precision,
        most=max_replications,
        jobs=jobs,
    )
    store = None if out is None else FolderStore(Path(out), sampling.measures)
    with ProgressBar(progress) as bar:
        found = experiments.sweep(base, designs, sampling, store=store, progress=bar.show)
    if out is not None:
        found.frame.to_csv(Path(out) / "sweep.csv", index=False)
    return found


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
    `max_replications` (40) where the interval of their mean does not decide whether the budget is kept; where it still
    does not, the load is reported as undecided. The result names the tier that gives way, `bottleneck`: the one
    where messages wait longest at the lowest load that breaks the budget.

    budget: a `Budget` or its text; its metric may be one of your own `metrics`.
    metrics: what to measure besides, as for `simulate`; `frame` has all of it for each load that was tried.
    over: the dotted path of the load.
    seed, jobs, out, progress: as for `sweep`.

    Raises: UsageError.
    """
    chosen = Budget(budget) if isinstance(budget, str) else budget
    base = _with(_scenario(scenario), seed, None)
    sampling = Sampling.of(
        metrics,
        also=(*default_metrics(base), *UTILISATIONS, *WAITS),
        needs=(chosen.metric,),
        replications=replications,
        most=max_replications,
        jobs=jobs,
        first=FEWEST_PER_LOAD,
        limit=MOST_PER_LOAD,
    )
    store = None if out is None else FolderStore(Path(out), sampling.measures)
    with ProgressBar(progress) as bar:
        return experiments.capacity(
            base,
            chosen,
            over,
            sampling,
            tolerance=tolerance,
            lowest=low,
            highest=high,
            store=store,
            progress=bar.show,
        )


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
    return scenario if duration is None else scenario.lasting(duration)


def _check(out: Path | str | None) -> None:
    """Better now than when the run is done."""
    if out is not None:
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"out: cannot make the folder {out}: {error.strerror}") from None


class ProgressBar:
    """Shows progress and leaves nothing behind; silent unless `shown`, and without a terminal."""

    def __init__(self, shown: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tqdm, about notebook widgets that are not installed
            from tqdm.auto import tqdm

        form = "{desc}{percentage:3.0f}% |{bar}| {elapsed}"
        self._bar: Any = tqdm(total=1.0, leave=False, disable=None if shown else True, bar_format=form)

    def __enter__(self) -> ProgressBar:
        return self

    def show(self, what: str, share: float) -> None:
        self._bar.set_description(what, refresh=False)
        self._bar.update(share - self._bar.n)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
