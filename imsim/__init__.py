"""Simulate an instant-messaging system, load-test the same code over WebSockets, and compare the two.

Functions:
    simulate: run a scenario once in simulated time -> `Run`
    replicate: run it under several seeds, for intervals -> `Replications`
    compare: two designs under the same seeds -> `Comparison`
    sweep: many designs under the same seeds -> `Sweep`
    capacity: the highest load at which a budget is kept -> `Capacity`
    check: judge the latency budgets of a file -> `CheckResult`
    serve: start the server in a process of its own -> `Served`
    loadtest: send a scenario's messages to a server, in real time -> `Run`
    Client: a user's device in an asyncio program, such as a chat bot
    read_run: read a run from its folder -> `Run`
    runs: a table of the runs in a folder, from their manifests -> `pandas.DataFrame`
    summarize: a table with one row for each run -> `pandas.DataFrame`
    plot_cdf, save_cdf: draw the latencies of runs
    report: write one HTML page about runs or the result of an experiment
    schema: the wire protocol as JSON Schema or AsyncAPI -> `dict`

Arguments that mean the same in every function:
    scenario: a `Scenario`, the name of a preset ("office"), or the path of a TOML file.
    seed: the seed of all random numbers, instead of the scenario's own. The same seed gives the same rows on every
        machine.
    duration: how long messages are sent, instead of the scenario's own duration: seconds, or a text such as "5s".
        Faults and replayed messages after its end are left out, with a warning.
    replications: the number of runs of each design. The first run has `seed`; the other seeds follow from it.
    precision: run more replications until the result is this precise. 0.05 means 5 % of the value of delivery.p99;
        {"ack.p95": 0.02} means 2 % of ack.p95. The rule is the sequential procedure of Law and Kelton, see
        `imsim.analysis.intervals`.
    max_replications: the largest number of replications that a precision or a capacity may take.
    metrics: further metrics to measure: names ("delivery.p99.9"), functions of a `Run`, or a mapping of names to
        functions. A function whose name ends in "share" must return a number from 0 to 1.
    jobs: the number of processes; -1 means one for each core. It changes no result. Within
        `joblib.parallel_config("dask")` the runs are executed on that cluster.
    out: the folder for results. It is created if it does not exist. None keeps the results in memory only.
    progress: show a progress bar on a terminal or in a notebook.

Properties and methods:
    A property is a fact that the object holds: it takes no arguments and no noticeable time (`run.seed`,
    `sweep.frame`). A method computes, takes arguments, draws or writes (`run.summary()`, `sweep.save_plot(path)`).

Units:
    Latencies are in milliseconds, other times in seconds, times in rows (columns that end in `_at`) in nanoseconds from
    the start of the run. A share is a number from 0 to 1.

Errors:
    `UsageError`: the request is wrong; nothing was started. `RunError`: the request was right, but the run failed. Both
    are `ImsimError`.

Example:
    >>> import imsim
    >>> office = imsim.Scenario.load("office", {"duration": "2s"})
    >>> run = imsim.simulate(office, seed=1)
    >>> run.summary().index.tolist()
    ['delivery', 'last', 'ack']
    >>> imsim.compare(office, office.replace({"topology.routers": 4}), replications=2).pairs
    2

`import imsim` itself loads neither pandas nor matplotlib, SimPy or Locust: a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imsim.api import *  # noqa: F403

# The same list as in imsim.api, for `from imsim import *` and `dir(imsim)` before that module is loaded.
__all__ = [  # noqa: F405
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


if not TYPE_CHECKING:  # or type checkers would accept every name

    def __getattr__(name: str) -> Any:
        if name == "theory":
            return importlib.import_module("imsim.theory")
        if name in __all__:
            value = globals()[name] = getattr(importlib.import_module("imsim.api"), name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
