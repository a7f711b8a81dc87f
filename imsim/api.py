"""The public API: the functions and classes of `import imsim`, for notebooks, scripts and the command line.

Importing this module loads no pandas, no matplotlib, no SimPy and no Locust. The arguments that several functions share
are described once, in `help(imsim)`.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imsim import disk, experiments, theory
from imsim.analysis import Budget, Metrics, Run, default_metrics, plot_cdf, read_run, run_table, save_cdf
from imsim.analysis.kinds import UTILISATIONS, WAITS
from imsim.analysis.report import Verdict
from imsim.analysis.run import listed_runs
from imsim.core.exceptions import ClientEnded, ClientError, ImsimError, RunError, SendError, UsageError
from imsim.experiments import (
    Capacity,
    Comparison,
    FolderStore,
    Over,
    Precision,
    Replications,
    Sampling,
    Sweep,
)
from imsim.experiments.capacity import FEWEST_PER_LOAD, MOST_PER_LOAD
from imsim.experiments.check.result import CheckResult
from imsim.experiments.live_capacity import MAX_TIME
from imsim.experiments.live_runs import FEWEST_RUNS, MOST_RUNS, LiveRun, RunStore
from imsim.keys import choose_key
from imsim.load import launch
from imsim.load.job import Job
from imsim.load.reset import reset as reset_server
from imsim.load.served import Served
from imsim.scenario import CustomDistribution, Empirical, Scenario
from imsim.scenario.quantities import parse_duration

if TYPE_CHECKING:
    import pandas as pd

    from imsim.live.client import Client, Conversation, Message

__all__ = [
    "Budget",
    "Capacity",
    "CheckResult",
    "Client",
    "ClientEnded",
    "ClientError",
    "Comparison",
    "Conversation",
    "CustomDistribution",
    "Empirical",
    "ImsimError",
    "Message",
    "Replications",
    "Run",
    "RunError",
    "Scenario",
    "SendError",
    "Served",
    "Sweep",
    "UsageError",
    "capacity",
    "check",
    "compare",
    "loadtest",
    "plot_cdf",
    "read_run",
    "replicate",
    "report",
    "runs",
    "save_cdf",
    "schema",
    "serve",
    "simulate",
    "summarize",
    "sweep",
    "theory",
]

if not TYPE_CHECKING:  # the client loads asyncio and websockets

    def __getattr__(name: str) -> Any:
        if name in ("Client", "Conversation", "Message"):
            value = globals()[name] = getattr(importlib.import_module("imsim.live.client"), name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


#: A scenario, the name of a preset, or the path of a TOML file.
AnyScenario = Scenario | str | PathLike[str]

AnyPath = str | PathLike[str]

#: The subject of a report: a run, its folder, or the result of an experiment.
Reportable = Run | Replications | Comparison | Sweep | Capacity | str | PathLike[str]


def simulate(
    scenario: AnyScenario = "office",
    *,
    seed: int | None = None,
    duration: float | str | None = None,
    spans: bool = False,
    out: AnyPath | None = None,
    progress: bool = True,
) -> Run:
    """Run a scenario once in simulated time.

    `help(imsim)` describes scenario, seed, duration, out and progress.

    Args:
        spans: also record where the time of each delivery went and how busy the nodes were, for `run.breakdown()` and
            `run.nodes`. The other rows stay the same. The simulation takes about twice as long.

    Returns:
        The run. With `out`, its rows are also in a new folder there, `run.path`.

    Raises:
        UsageError: a value is wrong, or the folder cannot be made.
        RunError: the run cannot be written, for example because no space is left.

    Example:
        >>> run = imsim.simulate("office", seed=1, duration="1s")
        >>> run.world, run.seed
        ('sim', 1)
        >>> run.summary().loc["delivery", "lost"]
        np.int64(0)
    """
    given = _scenario(scenario)
    chosen = _with(given, seed, duration)
    left_out = given.left_out(chosen)
    _make_folder(out)
    with ProgressBar(progress) as bar:
        label = f"simulating {chosen.name}"
        run = experiments.simulate_once(
            chosen, spans=spans, progress=lambda share: bar.show(label, share), warnings=left_out
        )
    if out is not None:
        run.write(Path(out))
    return run


def replicate(
    scenario: AnyScenario,
    *,
    replications: int | None = None,
    precision: Precision | None = None,
    max_replications: int | None = None,
    metrics: Metrics = (),
    keep: Literal["summary", "runs"] = "summary",
    seed: int | None = None,
    duration: float | str | None = None,
    jobs: int = -1,
    progress: bool = True,
) -> Replications:
    """Run a scenario several times under different seeds, so that each number has a 95 % interval.

    `help(imsim)` describes the other arguments. Without `replications` there are 20, or more if `precision` needs them,
    up to `max_replications` (200).

    Args:
        keep: "runs" keeps the rows of all runs in memory, as `replications.runs`; "summary" keeps only the metrics.

    Returns:
        The metrics of each replication, and their means with intervals.

    Raises:
        UsageError: a value is wrong.

    Example:
        >>> found = imsim.replicate("office", replications=3, duration="1s")
        >>> len(found), found["messages"].low < found["messages"].value
        (3, True)
    """
    given = _scenario(scenario)
    chosen = _with(given, seed, duration)
    sampling = Sampling.of(
        metrics,
        also=default_metrics(chosen),
        replications=replications,
        precision=precision,
        most=max_replications,
        jobs=jobs,
        keep=keep,
        series=True,
    )
    _warn(given.left_out(chosen))
    with ProgressBar(progress) as bar:
        return experiments.replicate([chosen], sampling, progress=bar.show)[0]


def compare(
    a: AnyScenario | Replications,
    b: AnyScenario | Replications,
    *,
    replications: int | None = None,
    precision: Precision | None = None,
    max_replications: int | None = None,
    metrics: Metrics = (),
    seed: int | None = None,
    duration: float | str | None = None,
    jobs: int = -1,
    progress: bool = True,
) -> Comparison:
    """Compare two designs, replication by replication, under the same seeds.

    Two scenarios are simulated; two `Replications` are compared as they are. `help(imsim)` describes the other
    arguments, which are for scenarios only. Without `replications` there are 20 of each design.

    Args:
        a: a scenario, or the replications of one.
        b: a scenario, or the replications of one, as `a` is.

    Returns:
        Each metric of both designs, and the difference with its 95 % interval.

    Raises:
        UsageError: a value is wrong, or the two do not have the same seeds. A `Run` is refused: one run of each design
            cannot tell a difference from chance. `imsim.summarize([a, b])` shows runs next to each other.

    Example:
        >>> office = imsim.Scenario.load("office", {"duration": "2s"})
        >>> slow = office.replace({"topology.storage.service.append": "80ms"})
        >>> imsim.compare(office, slow, replications=3)["ack.p50"].better
        'A'
    """
    for one in (a, b):
        if isinstance(one, Run):
            raise UsageError(
                "compare: one run of each design cannot tell a difference from chance: give two scenarios or two "
                "Replications, or see runs next to each other with imsim.summarize([a, b])"
            )
    if isinstance(a, Replications) and isinstance(b, Replications):
        options: dict[str, object] = {"replications": replications, "precision": precision, "seed": seed}
        options |= {"max_replications": max_replications, "metrics": metrics or None, "duration": duration}
        if ignored := [name for name, value in options.items() if value is not None]:
            raise UsageError(f"compare: {', '.join(ignored)}: for scenarios only; Replications have been run already")
        return Comparison(a, b)
    if isinstance(a, Replications) or isinstance(b, Replications):
        raise UsageError("compare: expected two scenarios or two Replications (got one of each)")
    given = [_scenario(a), _scenario(b)]
    first, second = (_with(one, seed, duration) for one in given)
    sampling = Sampling.of(
        metrics,
        also=default_metrics(first, second),
        replications=replications,
        precision=precision,
        most=max_replications,
        jobs=jobs,
    )
    _warn(line for one, short in zip(given, (first, second), strict=True) for line in one.left_out(short))
    with ProgressBar(progress) as bar:
        return experiments.compare(first, second, sampling, progress=bar.show)


def summarize(runs: Run | Iterable[Run]) -> pd.DataFrame:
    """Make a table with one row for each run, simulated or live.

    One run of each design says nothing about chance: use `imsim.compare` to decide which design is better. The warnings
    of the runs are passed on as Python warnings.

    Args:
        runs: a run, or several.

    Returns:
        A frame whose index (`run`) names each run by what distinguishes it: world, scenario, differing fields, seed.
        The columns are counts (`messages`, `delivered`, `lost`, `duplicates`) and latencies in ms (`delivery.p50` ...),
        NaN where a latency falls among messages that never arrived. The columns `absent`, `recalled`, `shed`,
        `shed_share`, `received_lost`, `last.*` and `confirmed.*` exist if some run has such messages.

    Raises:
        UsageError: an argument is not a run.

    Example:
        >>> runs = [imsim.simulate("office", seed=seed, duration="1s") for seed in (1, 2)]
        >>> imsim.summarize(runs)["lost"].to_dict()
        {'seed 1': 0, 'seed 2': 0}
    """
    found = listed_runs(runs, "summarize")
    table = run_table(found)
    for label, run in zip(table.index, found, strict=True):
        _warn(f"{label}: {line}" for line in run.warnings)
    return table


def runs(directory: AnyPath = "results") -> pd.DataFrame:
    """List the runs in a folder. Only their manifests are read, so a thousand runs take a moment.

    Damaged and unfinished folders of runs are passed on as Python warnings. Other folders and files are ignored.

    Args:
        directory: the folder that contains the folders of runs.

    Returns:
        A frame with a row for each run, the newest last. The index (`run`) has the names of the folders. The columns
        are `path`, `started` (UTC), `world`, `server` (missing if it is imsim's own), `scenario`, `seed`, `state`
        (valid, partial or invalid), `valid`, `partial`, `messages`, `lost`, `delivery.p50` and `delivery.p99` (ms),
        `digest` and `bytes` (on disk). A number is missing if it is undefined, or if the manifest does not have it.

    Raises:
        UsageError: the folder does not exist, cannot be read, or is a run itself.

    Example:
        >>> run = imsim.simulate("office", seed=4, duration="1s", out="results")
        >>> found = imsim.runs("results")
        >>> found.loc[run.id, "state"], found.loc[run.id, "messages"] == len(run.messages)
        ('valid', np.True_)
        >>> imsim.read_run(found["path"].iloc[-1]).seed
        4
    """
    import pandas as pd

    from imsim.results.folders import scan

    found, others = scan(_path(directory, "directory"))
    _warn(str(other) for other in others if other.kind != "foreign")
    kinds: dict[str, str] = {
        **dict.fromkeys(("path", "started", "world", "server", "scenario"), "object"),
        "seed": "Int64",
        "state": "object",
        **dict.fromkeys(("valid", "partial"), "bool"),
        **dict.fromkeys(("messages", "lost"), "Int64"),
        **dict.fromkeys(("delivery.p50", "delivery.p99"), "float64"),
        "digest": "object",
        "bytes": "Int64",
    }
    rows = [run.to_json_dict() for run in found]
    table = pd.DataFrame(rows, index=pd.Index([run.name for run in found], name="run"), columns=list(kinds))
    table["started"] = pd.to_datetime(table["started"], utc=True, format="ISO8601")
    return table.astype({name: kind for name, kind in kinds.items() if kind != "object"})


def sweep(
    scenario: AnyScenario,
    over: Over,
    *,
    replications: int | None = None,
    precision: Precision | None = None,
    max_replications: int | None = None,
    metrics: Metrics = (),
    seed: int | None = None,
    duration: float | str | None = None,
    jobs: int = -1,
    out: AnyPath | None = None,
    progress: bool = True,
) -> Sweep:
    """Simulate many designs under the same seeds.

    `help(imsim)` describes the other arguments. Without `replications` there are 20 of each design.

    Args:
        over: the designs, in one of two forms. A mapping of dotted paths to values stands for every combination of the
            values. Values may be a list, a range, a NumPy array, a pandas Series, or a mapping that names them:
            {"topology.storage.service.append": {"fast": "1ms", "slow": "5ms"}}. A list of designs has an entry for
            each: a mapping of paths to values, a scenario, or a function that makes a scenario from `scenario`.
        out: a folder that keeps each finished replication. If the sweep is interrupted or extended, the next call runs
            only the missing replications. Results of other code, designs or seeds are never reused: custom parts and
            metrics count by their code and everything it refers to (`imsim.experiments.fingerprint` says how). A
            warning names parts that cannot be compared; then nothing is kept. At the end the folder also has the frame,
            as `sweep.csv`.

    Returns:
        The metrics of each design, with intervals.

    Raises:
        UsageError: a value is wrong; raised before anything is run.

    Example:
        >>> over = {"topology.routers": [1, 2], "topology.storages": [1, 2]}
        >>> found = imsim.sweep("office", over, replications=1, duration="1s")
        >>> found.frame[["topology.routers", "topology.storages", "lost"]].shape
        (4, 3)
    """
    given = _scenario(scenario)
    base = _with(given, seed, duration)
    designs = experiments.variants(base, over)
    sampling = Sampling.of(
        metrics,
        also=default_metrics(*(design.scenario for design in designs)),
        replications=replications,
        precision=precision,
        most=max_replications,
        jobs=jobs,
    )
    store = None if out is None else FolderStore(_path(out, "out"), sampling.measures)
    _warn(given.left_out(base))
    with ProgressBar(progress) as bar:
        found = experiments.sweep(base, designs, sampling, store=store, progress=bar.show)
    if out is not None:
        disk.write(Path(out) / "sweep.csv", found.frame.to_csv(index=False).encode(), name="out")
    return found


def capacity(
    scenario: AnyScenario,
    budget: Budget | str,
    *,
    url: str | None = None,
    over: str = "workload.rate",
    low: float | None = None,
    high: float | None = None,
    tolerance: float | None = None,
    replications: int | None = None,
    max_replications: int | None = None,
    max_time: float | str | None = None,
    metrics: Metrics = (),
    seed: int | None = None,
    duration: float | str | None = None,
    jobs: int = -1,
    processes: int = 1,
    key: str | None = None,
    key_file: AnyPath | None = None,
    adapter: str = "imsim",
    options: Mapping[str, str] | None = None,
    reset: str | None = None,
    out: AnyPath | None = None,
    progress: bool = True,
) -> Capacity:
    """Find the highest load at which a simulated design, or a real server at `url`, keeps a budget.

    The search starts at the scenario's own load. It doubles or halves the load until the budget is kept at one load and
    broken at another, and then bisects. It assumes that more load is never better. `help(imsim)` describes the other
    arguments.

    Simulated: each load gets 5 replications (or more, as `replications` says), and up to `max_replications` (40) if
    their interval does not decide. A load that is still undecided is reported as such. If runs are too short for the
    budget's percentile and the load is even, they are made longer, up to 64 times.

    Live: each load gets 1 to 8 runs, one after the other under different seeds, until they decide. The two loads of the
    result get another run at the end (`replications` of them at least, 2). A run that breaks the budget because of the
    load generator is repeated. If that does not help, the generator has given way, not the server (`found.gave_way`),
    and the result is the highest load at which the server is known to keep the budget. Before each run, the server gets
    time to become idle.

    Args:
        budget: a `Budget` or its text. Its metric may be one of your own `metrics`.
        url: the address of a server, as in `imsim.loadtest`. None means a simulation.
        over: the dotted path of the load, a number above 0.
        low: the lowest load to try. None means 1/64 of the scenario's own.
        high: the highest load to try. None means 64 times the scenario's own, or 4096 times with a url.
        tolerance: how far apart the two loads may be at the end, as a share. None means 0.05, or 0.1 with a url.
        processes: with a url, the number of Locust's processes, as in `imsim.loadtest`.
        max_time: with a url, seconds (or a text, such as "10min") after which no further run starts. None means 15 min.
        key: with a url, the server's key, as in `imsim.loadtest`.
        key_file: with a url, a file with the key.
        adapter: with a url, the kind of server, as in `imsim.loadtest`.
        options: with a url, the adapter's options.
        reset: with a url, a command line that is run before each run, for example to restart the server. The search
            continues when the server accepts connections again.
        out: a folder that keeps each finished run. The same call continues an interrupted search.

    Returns:
        The two loads. For a simulation also the tier that gives way (`bottleneck`): messages wait longest there at the
        lowest load that breaks the budget. For a server, a `LiveCapacity` with all `runs`.

    Raises:
        UsageError: a value is wrong, or a run has nothing to measure the budget by.
        RunError: no server answers, the first live run fails, or the server does not come back after a run.

    Example:
        >>> imsim.capacity("office", "delivery.mean < 1s", high=0.3, duration="1s").keeps
        0.3
    """
    if not isinstance(budget, Budget | str):
        raise UsageError(f"budget: expected a Budget or a text such as 'delivery.p99 < 200ms' (got {budget!r})")
    chosen = Budget(budget) if isinstance(budget, str) else budget
    given = _scenario(scenario)
    base = _with(given, seed, duration)
    only_live: dict[str, object] = {"max_time": max_time, "key": key, "key_file": key_file, "options": options}
    only_live |= {"adapter": None if adapter == "imsim" else adapter, "reset": reset}
    only_live |= {"processes": None if processes == 1 else processes}
    if url is None and (ignored := [name for name, value in only_live.items() if value is not None]):
        raise UsageError(f"capacity: {', '.join(ignored)}: only with a url, for a real server")
    if url is not None and jobs != -1:
        raise UsageError("capacity: jobs: only without a url; the runs of a real server are one after the other")
    sampling = Sampling.of(
        metrics,
        also=(*default_metrics(base), *((*UTILISATIONS, *WAITS) if url is None else ())),
        needs=(chosen.metric,),
        replications=replications,
        most=max_replications,
        jobs=jobs,
        first=FEWEST_PER_LOAD if url is None else FEWEST_RUNS,
        limit=MOST_PER_LOAD if url is None else MOST_RUNS,
    )
    folder = None if out is None else _path(out, "out")
    _warn(given.left_out(base, live=url is not None))
    if url is None:
        store = None if folder is None else FolderStore(folder, sampling.measures)
        with ProgressBar(progress) as bar:
            return experiments.capacity(
                base,
                chosen,
                over,
                sampling,
                tolerance=0.05 if tolerance is None else tolerance,
                lowest=low,
                highest=high,
                store=store,
                progress=bar.show,
            )
    try:
        seconds = MAX_TIME if max_time is None else parse_duration(max_time)
    except ValueError as error:
        raise UsageError(f"max_time: {error}") from None
    own_key = choose_key(key, key_file)
    address = _text(url, "url")
    chosen_options = {} if options is None else dict(options)
    if reset is None:  # otherwise the command may start the server
        Job(base, address, "", own_key, adapter, chosen_options).probe()

    def measure(design: Scenario) -> LiveRun:
        run = launch.loadtest(
            design, address, key=own_key, adapter=adapter, options=chosen_options, processes=processes
        )
        return LiveRun.of(run, sampling.measures)

    setup = {"url": address, "adapter": adapter, "options": chosen_options, "processes": processes}
    with ProgressBar(progress) as bar:
        return experiments.live_capacity(
            base,
            chosen,
            over,
            measure,
            lambda: reset_server(address, reset),
            sampling.measures,
            url=address,
            tolerance=0.1 if tolerance is None else tolerance,
            lowest=low,
            highest=high,
            fewest=sampling.replications,
            most=sampling.most,
            max_time=seconds,
            store=RunStore(folder, sampling.measures, setup),
            progress=bar.show,
            line=bar.line,
        )


def check(
    file: AnyPath | None = None,
    *,
    baseline: AnyPath | None = None,
    base: str | None = None,
    base_command: str | None = None,
    jobs: int = -1,
    progress: bool = True,
) -> CheckResult:
    """Judge the latency budgets of a file, as `imsim check` does. `help(imsim)` describes the other arguments.

    Args:
        file: the file of budgets. None means imsim.toml, or [tool.imsim] in pyproject.toml, of the current folder.
        baseline: the results that relative budgets of simulated scenarios are compared with. None means
            imsim-baseline.json, beside the file.
        base: the git commit that servers are compared with.
        base_command: the command that starts the server to compare with, instead of `base`.

    Returns:
        A `CheckResult` with the `verdict` and a finding for each budget.

    Raises:
        UsageError: the file, the baseline or an argument is wrong.
        RunError: a server did not start, or a block of load could not be played.

    Example:
        >>> with open("imsim.toml", "w") as file:
        ...     print('budget = [{ scenario = "office", metric = "lost", max = 0 }]', file=file)
        >>> imsim.check().verdict
        'held'
    """
    from imsim.experiments.check import check as checks

    with ProgressBar(progress) as bar:
        return checks.check(file, baseline=baseline, base=base, base_command=base_command, jobs=jobs, progress=bar.show)


def serve(
    scenario: AnyScenario = "office",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    db: AnyPath | None = None,
    key: str | None = None,
    key_file: AnyPath | None = None,
) -> Served:
    """Start the server in a process of its own, so that a busy notebook does not delay it.

    Args:
        scenario: the policies and limits come from here; `help(imsim)` describes the forms it may have.
        host: the address to listen on. If other computers can reach it, the key must be your own, with at least 16
            characters.
        port: the port to listen on; 0 finds a free one.
        db: a SQLite file for the data. None keeps the data in memory only.
        key: the key with which clients get tokens. None means the environment variable IMSIM_KEY, or "imsim".
        key_file: a file with the key, instead of `key`.

    Returns:
        The running server: its address is `server.url`. `server.stop()`, the end of a `with` block or the end of this
        process stops it.

    Raises:
        UsageError: a value is wrong.
        RunError: the server does not start.

    Example:
        >>> with imsim.serve("office") as server:
        ...     server.url.rpartition(":")[0]
        'ws://127.0.0.1'
    """
    if isinstance(port, bool) or not isinstance(port, int):
        raise UsageError(f"port: expected a whole number from 0 to 65535 (got {port!r})")
    chosen = _scenario(scenario)
    return Served(chosen, _text(host, "host"), port, db if db is None else _path(db, "db"), choose_key(key, key_file))


def loadtest(
    scenario: AnyScenario,
    url: str,
    *,
    adapter: str = "imsim",
    options: Mapping[str, str] | None = None,
    key: str | None = None,
    key_file: AnyPath | None = None,
    seed: int | None = None,
    duration: float | str | None = None,
    processes: int = 1,
    out: AnyPath | None = None,
    progress: bool | Callable[[str, float], None] = True,
) -> Run:
    """Send a scenario's messages to a server in real time, with Locust in processes of its own.

    The messages and their times are the same as in `imsim.simulate`. The test ends when everything has arrived, or when
    the scenario's `drain` is over. `help(imsim)` describes the other arguments.

    Args:
        url: the server's address, ws://host:port or wss://host:port.
        adapter: the kind of server: "imsim", "websocket", "mqtt", "xmpp", "socketio", or the path of an adapter of your
            own, such as "my_adapter.py".
        options: the options of the adapter, by name.
        key: the server's key for tokens. None means the environment variable IMSIM_KEY, or "imsim".
        key_file: a file with the key, instead of `key`.
        progress: whether to show a progress bar, or a function that receives the current activity and the share of the
            duration that has passed (0 to 1), ten times a second.
        processes: the number of Locust's processes that send and receive, one for each core that the load needs.

    Returns:
        The run. With `out`, its rows are also in a new folder there, `run.path`. If the test ended early, for example
        because the server went away, the run is partial.

    Raises:
        UsageError: a value is wrong.
        RunError: no server answers at `url`, or the test failed before the first message.
        KeyboardInterrupt: the test was interrupted. Its attribute `run` has the run until then.

    Example:
        >>> with imsim.serve("office") as server:
        ...     run = imsim.loadtest("office", server.url, duration="1s")
        >>> run.world
        'live'
    """
    given = _scenario(scenario)
    if not isinstance(url, str):
        raise UsageError(f"url: expected the server's address, such as 'ws://127.0.0.1:8765' (got {url!r})")
    chosen = _with(given, seed, duration)
    own_key = choose_key(key, key_file)
    left_out = given.left_out(chosen, live=True)
    _make_folder(out)
    with ProgressBar(progress is True) as bar:
        return launch.loadtest(
            chosen,
            url,
            key=own_key,
            adapter=adapter,
            options={} if options is None else dict(options),
            out=None if out is None else Path(out),
            warnings=left_out,
            progress=progress if callable(progress) else bar.show,
            processes=processes,
        )


def report(
    subjects: Reportable | Iterable[Reportable],
    path: AnyPath,
    *,
    verdicts: Sequence[Verdict] = (),
    title: str | None = None,
    progress: bool = True,
) -> Path:
    """Write one HTML page about runs and experiments. It needs no network and no script.

    One run gets its distribution, its course over time, losses, groups and the health of the load generator. Two runs
    are shown next to each other, more runs as designs with intervals over their runs. An experiment shows its answer,
    its table and its pictures.

    Args:
        subjects: a run, the path of a run's folder, the result of `replicate`, `compare`, `sweep` or `capacity`, or
            several of them. All runs become one part of the page.
        path: the file to write, whose name ends in .html.
        verdicts: verdicts on budgets (`imsim.analysis.report.Verdict`), which are shown first.
        title: the title of the page. None means the title of the scenario.
        progress: whether to show a progress bar on a terminal or in a notebook.

    Returns:
        The path of the file.

    Raises:
        UsageError: a subject is none of these, a folder is not a run, or the file cannot be written.
        RunError: no space is left.

    Example:
        >>> runs = [imsim.simulate("office", seed=seed, duration="1s") for seed in (1, 2)]
        >>> imsim.report(runs, "report.html").name
        'report.html'
    """
    from imsim.analysis.report.page import page
    from imsim.analysis.report.runs import part_of
    from imsim.experiments import reporting

    file = _path(path, "path")
    if file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"path: expected a name that ends in .html (got {os.fspath(file)})")
    given = [subjects] if isinstance(subjects, str | PathLike | Run | reporting.Experiment) else subjects
    if not isinstance(given, Iterable):
        raise UsageError(f"report: expected runs, their folders or results of experiments (got {_shown(given)})")
    runs: list[Run] = []
    experiments_given: list[reporting.Experiment] = []
    for one in given:
        if isinstance(one, str | PathLike):
            runs.append(read_run(one))
        elif isinstance(one, Run):
            runs.append(one)
        elif isinstance(one, reporting.Experiment):
            experiments_given.append(one)
        else:
            raise UsageError(f"report: expected runs, their folders or results of experiments (got {_shown(one)})")
    if not (runs or experiments_given or verdicts):
        raise UsageError("report: expected a run or several (got nothing)")
    disk.check_writable(file, name="path")
    with ProgressBar(progress) as bar:
        parts = [part_of(runs, bar.show)] if runs else []
        parts += [reporting.part_of(one) for one in experiments_given]
        bar.show("drawing the figures", 1.0)
        text = page(parts, verdicts=verdicts, title=title)
    return disk.write(file, text.encode(), name="path")


def schema(*, asyncapi: bool = False) -> dict[str, Any]:
    """Return a description of the wire protocol, for programs in other languages.

    Args:
        asyncapi: return the AsyncAPI 3.0 document of the whole server.

    Returns:
        The JSON Schema (2020-12) of every frame between clients and server, or the AsyncAPI document.

    Example:
        >>> imsim.schema(asyncapi=True)["asyncapi"]
        '3.0.0'
    """
    from imsim.wire import schema as documents

    return documents.asyncapi() if asyncapi else documents.json_schema()


def _scenario(scenario: AnyScenario) -> Scenario:
    if isinstance(scenario, Scenario):
        return scenario
    if isinstance(scenario, str | PathLike):
        return Scenario.load(scenario)
    raise UsageError(
        f"scenario: expected a Scenario, the name of a preset or the path of a TOML file (got {_shown(scenario)})"
    )


def _with(scenario: Scenario, seed: int | None, duration: float | str | None) -> Scenario:
    """Return the scenario as it is run, so that a run folder contains the scenario that was run."""
    if seed is not None:
        scenario = scenario.replace({"seed": seed})
    return scenario if duration is None else scenario.lasting(duration)


def _make_folder(out: AnyPath | None) -> None:
    """Make the folder before the run starts, so that an error comes early."""
    if out is not None:
        disk.make_folder(_path(out, "out"), name="out")


def _path(path: AnyPath, name: str) -> Path:
    if not isinstance(path, str | PathLike):
        raise UsageError(f"{name}: expected a path (got {_shown(path)})")
    if not os.fspath(path):
        raise UsageError(f"{name}: must not be empty")
    return Path(path)


def _text(value: str, name: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name}: expected a text (got {_shown(value)})")
    if not value:
        raise UsageError(f"{name}: must not be empty")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else type(value).__name__


def _warn(lines: Iterable[str]) -> None:
    for line in dict.fromkeys(lines):
        warnings.warn(line, stacklevel=3)


class ProgressBar:
    """A progress bar that leaves nothing behind. It is silent without a terminal, and if `shown` is false."""

    def __init__(self, shown: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tqdm warns if the notebook widgets are not installed
            from tqdm.auto import tqdm

        self._shown = shown
        form = "{desc}{percentage:3.0f}% |{bar}| {elapsed}"
        self._bar: Any = tqdm(total=1.0, leave=False, disable=None if shown else True, bar_format=form)

    def __enter__(self) -> ProgressBar:
        return self

    def show(self, what: str, share: float) -> None:
        """Show the activity and the share of it that is done."""
        self._bar.set_description(what, refresh=False)
        self._bar.update(share - self._bar.n)

    def line(self, text: str) -> None:
        """Write a line to stderr, above the bar, unless `shown` is false. It also appears without a terminal."""
        if self._shown:
            self._bar.write(text, file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
