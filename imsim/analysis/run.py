"""`Run`: the rows of a run with all their tables, numbers and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imsim.analysis import breakdown, latency, recovery, timeline, warmup
from imsim.analysis.cost import Cost, Storage, cost_of, storage_of
from imsim.analysis.labels import heading, run_labels, status_lines, status_mark, title_of_all
from imsim.core.exceptions import UsageError
from imsim.results import RunData

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class Run(RunData):
    """One run of a scenario, simulated or live.

    `imsim.simulate` and `imsim.loadtest` make runs, `imsim.read_run` reads one.

    Attributes:
        scenario: the scenario that was run.
        seed: the seed that was used.
        world: "sim" or "live".
        id: the name of the run and of its folder.
        path: the run's folder; None if the run is in memory only.
        digest: a hash of the rows: runs with equal digests have equal rows.
        manifest: where the rows come from: versions, machine, times.
        valid: whether the measurement can be trusted; if not, `invalid_because` has the reason.
        partial: whether the run ended early, so that its rows cover only a part of the scenario.
        server: the kind or name of the server of a live run, if it is not imsim's own.
        messages: a DataFrame with one row for each intended message.
        deliveries: a DataFrame with one row for each message and receiving device.
        spans: a DataFrame of where the time went; only with `spans=True`.
        nodes: a DataFrame of how busy the nodes were; only with `spans=True`.
        withdrawals: a DataFrame of the periods in which the tester had taken devices out of a live run.
        plot: the pictures of the run, such as `run.plot.cdf()`.

    Example:
        >>> run = imsim.simulate("office", seed=1, duration="1s")
        >>> run.scenario.name, run.messages.index.is_unique
        ('office', True)
        >>> run.summary().columns.tolist()
        ['count', 'lost', 'mean', 'p50', 'p95', 'p99', 'max']
    """

    def __dir__(self) -> list[str]:
        return [
            "breakdown", "cost", "deliveries", "digest", "id", "invalid_because", "manifest", "messages", "nodes",
            "partial", "path", "plot", "recovery", "save_plot", "scenario", "seed", "server", "spans", "storage",
            "summary", "to_json_dict", "utilisation", "valid", "warnings", "where", "withdrawals", "world", "write",
        ]  # fmt: skip

    @property
    def warnings(self) -> list[str]:
        """Facts to know before the numbers are used, one sentence each.

        A live run reports what disturbed it. A simulated run reports unusual relations between fields of its scenario,
        and nodes that dropped operations. Both report a service that cannot keep up, and a measured part that does not
        begin in steady state.
        """
        return [*super().warnings, *self._unsteady]

    @cached_property
    def _unsteady(self) -> list[str]:
        return warmup.notes([warmup.Steadiness.of(self)], has_faults=bool(recovery.faults_of(self)))

    def summary(self) -> pd.DataFrame:
        """Return the latencies after the warm-up: a row for each kind, in ms.

        Returns:
            A frame with the rows `delivery` and `ack` (if the server sends acks); `delivery_push` and `delivery_sync`
            if devices go offline by plan; `last` (until the last recipient has the message) if messages went to groups
            or chatrooms; `confirmed` if senders got `received` before messages were stored. Columns: `count`, `lost`,
            `mean`, `p50`, `p95`, `p99`, `max`; also `shed` and `shed_share` if deliveries were shed. A statistic that
            falls among messages that never arrived is NaN.
        """
        return latency.summary_table(self)

    def breakdown(self, by: str = "where") -> pd.DataFrame:
        """Return where the time of deliveries went, for a run with `spans=True`.

        Args:
            by: "where" (tiers and links), "node", "op" or "policy".

        Returns:
            A frame with a row for each kind and place of spans: `mean`, `p50`, `p99`, `max` in ms, and `share`. See
            `imsim.analysis.breakdown`.

        Raises:
            UsageError: the run recorded no spans, or `by` has another value.
        """
        return breakdown.breakdown(self, by)

    def utilisation(self) -> pd.DataFrame:
        """Return how busy each node of a simulated run was between the end of the warm-up and `duration`.

        Returns:
            A frame with a row for each node: `tier`, `busy` (share of its workers' time), `jobs` and `drops`; with
            `spans=True` also `queue` and `peak`. See `imsim.analysis.breakdown`.

        Raises:
            UsageError: the run is live.
        """
        return breakdown.utilisation(self)

    def recovery(
        self,
        *,
        window: float | str | None = None,
        factor: float = recovery.FACTOR,
        faults: Sequence[recovery.Fault] | None = None,
    ) -> pd.DataFrame:
        """Return how long after each fault deliveries were as fast as before it.

        Args:
            window: the seconds over which the p95 is taken, or a duration such as "2s". None means a round number of
                seconds for which the scenario plans 60 messages or a little less, but at most a tenth of the duration.
            factor: a window has recovered if its p95 is at most this factor times the p95 before the first fault.
            faults: [(since, until, name)], in seconds or durations from the run's start, instead of the run's own
                faults; for a live run.

        Returns:
            A frame with a row for each fault, in the order of time: `fault`, `at_seconds`, `until_seconds`, `before_ms`
            and `limit_ms` (of p95), `recovery_seconds` (from `at_seconds`; infinite if the run never recovered, NaN if
            too few deliveries arrived before the fault or the run ends too soon after it), `slow` (the number of
            deliveries beyond the limit until the recovery) and `waited_for` (their longest wait after the fault: a
            policy, as in `breakdown("policy")`, or a stage; None without spans). `imsim.analysis.recovery` has the
            definition. The metric `recovery.time` is the longest recovery.

        Raises:
            UsageError: the window, the factor or a fault is wrong.
        """
        return recovery.frame(recovery.recoveries(self, window=window, factor=factor, faults=faults))

    def __str__(self) -> str:
        """Return what `imsim simulate` prints: whether the run is invalid or partial, counts, summary, recoveries."""
        table = self.summary().round(3).astype(object)
        text = table.where(table.notna(), "-").rename_axis("ms after warm-up").reset_index().to_string(index=False)
        return "\n".join([*self.status, latency.totals(self), "", text, *map(str, recovery.recoveries(self))])

    def to_json_dict(self) -> dict[str, Any]:
        """Return the object that `imsim simulate --json` prints."""
        found = [recovery.to_json(one) for one in recovery.recoveries(self)]
        return latency.to_json_dict(self) | ({"recovery": found} if found else {})

    def _summary(self) -> dict[str, Any]:
        return latency.brief(self)

    def cost(self) -> Cost:
        """Return the cost of the service per hour, per million messages and per month.

        Raises:
            UsageError: the scenario's section `cost` has no prices.
        """
        return cost_of(self)

    def storage(self) -> Storage:
        """Return how fast stored data grow, and how large they become with `cost.retention_days`."""
        return storage_of(self)

    def save_plot(self, path: str | PathLike[str]) -> Path:
        """Write the pictures of this run to one file and return its path.

        The file shows latencies and their course over time; with spans also where the time went, and the nodes.

        Args:
            path: the file; its suffix chooses the format (.png, .svg, .pdf).

        Raises:
            UsageError: the file cannot be written.
        """
        from imsim.analysis import plots

        rows = [(self.plot.cdf, self.plot.timeline)]
        if self.has("spans"):
            rows.append((self.plot.breakdown, self.plot.nodes))
        return plots.save_rows(rows, path)

    @property
    def plot(self) -> Plots:
        """The pictures of this run: `run.plot.cdf()`, `.timeline()`, `.breakdown()` and `.nodes()`."""
        return Plots(self)

    def _repr_html_(self) -> str:
        place = f"{self.world} · {self.server}" if self.server else self.world
        title = f"<b>{escape(place)}</b> · {escape(heading(self.scenario))} · seed {self.seed}"
        summary = self.summary()
        rows = [_row("th", ["ms after warm-up", *summary.columns])]
        for name, row in summary.iterrows():
            rows.append(_row("td", [str(name), *(_cell(str(column), value) for column, value in row.items())]))
        return (
            f"<div>{title}{''.join(f'<p><b>{escape(line)}</b></p>' for line in self.status)}<br>{latency.totals(self)}"
            f"<table>{''.join(rows)}</table>"
            f"{''.join(f'<p>{escape(str(one))}</p>' for one in recovery.recoveries(self))}"
            f"{''.join(f'<p>{escape(warning)}</p>' for warning in self.warnings[len(self.status) :])}"
            f"<small>digest <code>{escape(self.digest[:16])}</code> · run <code>{escape(self.id)}</code></small></div>"
        )


class Plots:
    """The pictures of one run. Each is drawn in a new figure, or in the given axes."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __dir__(self) -> list[str]:
        return ["breakdown", "cdf", "nodes", "timeline"]

    def cdf(self, ax: Axes | None = None) -> Axes:
        """Draw the cumulative distribution of delivery and ack latencies."""
        return plot_cdf(self._run, ax=ax)

    def timeline(self, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
        """Draw delivery latencies (p50, p95, max) over time, above the offered and delivered messages per second.

        Faults and the recovery from them are marked.
        """
        from imsim.analysis import plots

        time = timeline.TimeAxis.of(self._run)
        windows = timeline.windows(self._run, time.end)
        return plots.timeline(windows, time, axes, title=self._title("Latency and load over time"))

    def breakdown(self, ax: Axes | None = None) -> Axes:
        """Draw where the time of deliveries went, as bars: all, the middle half, the slowest hundredth."""
        from imsim.analysis import plots

        title = self._title("Where the time of a delivery goes")
        return plots.breakdown(breakdown.stages(self._run), ax, title=title)

    def nodes(self, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
        """Draw how busy the nodes were over time, above the numbers of waiting and dropped jobs."""
        from imsim.analysis import plots

        time = timeline.TimeAxis.of(self._run)
        return plots.nodes(self._run.nodes, time, axes, title=self._title("How busy the nodes are"))

    def _title(self, text: str) -> str:
        title = title_of_all(text, [self._run.scenario], f"seed {self._run.seed}")
        return "\n".join([title, *self._run.status])


def listed_runs(runs: Run | Iterable[Run], function: str) -> list[Run]:
    """Return one run or several as a list. Raises: UsageError for anything else, in the function's name."""
    if isinstance(runs, Run):
        return [runs]
    found = list(runs) if isinstance(runs, Iterable) and not isinstance(runs, str) else [runs]
    if not found or not all(isinstance(run, Run) for run in found):
        names = ", ".join(type(run).__name__ for run in found) or "nothing"
        raise UsageError(f"{function}: expected a run or several, such as {function}([run, other]) (got {names})")
    return found


def plot_cdf(runs: Run | Iterable[Run], *, ax: Axes | None = None) -> Axes:
    """Draw the cumulative distribution of the latencies of one or more runs.

    One run shows every kind of latency that `summary()` has; several runs show deliveries and acks, and
    `confirmed` if one of them acknowledged a message before it was stored.

    Args:
        runs: a run, or several.
        ax: the axes to draw in; None makes a new figure.

    Raises:
        UsageError: an argument is not a run.

    Example:
        >>> runs = [imsim.simulate("office", seed=seed, duration="1s") for seed in (1, 2)]
        >>> imsim.plot_cdf(runs).get_ylabel()
        'share of all due messages'
    """
    from imsim.analysis import plots

    runs = listed_runs(runs, "plot_cdf")
    several = ["delivery", *(["confirmed"] if any(map(latency.has_early_acks, runs)) else []), "ack"]
    kinds = latency.rows_of(runs[0]) if len(runs) == 1 else several
    latencies = {}
    for label, run in zip(run_labels(runs), runs, strict=True):
        mark = status_mark(run)
        offered = [kind for kind in kinds if run.has_acks or kind not in ("confirmed", "ack")]
        latencies[f"{label} ({mark})" if mark else label] = dict(latency.latencies(run, offered))
    seeds = {run.seed for run in runs}
    seed = f"seed {runs[0].seed}" if len(seeds) == 1 else ""
    title = "\n".join([title_of_all("Latency", [run.scenario for run in runs], seed), *status_lines(runs)])
    comes_back = any(run.scenario.population.sessions is not None for run in runs)
    since = "the intended time, or the device's return" if comes_back else "the intended time"
    return plots.cdf(latencies, ax, title=title, since=since)


def save_cdf(runs: Run | Iterable[Run], path: str | PathLike[str]) -> Path:
    """Write the picture that `plot_cdf` draws to a file and return its path.

    Args:
        runs: a run, or several.
        path: the file; its suffix chooses the format (.png, .svg, .pdf).

    Raises:
        UsageError: an argument is not a run, or the file cannot be written.

    Example:
        >>> imsim.save_cdf(imsim.simulate("office", duration="1s"), "latency.png").name
        'latency.png'
    """
    from imsim.analysis import plots

    found = listed_runs(runs, "save_cdf")
    return plots.save(lambda ax: plot_cdf(found, ax=ax), path)


make_run = Run.make


def read_run(folder: str | PathLike[str], *, verify: bool = False) -> Run:
    """Read a run from its folder.

    Args:
        folder: the folder that `out=` or `run.write(...)` made.
        verify: compute the digest of the rows again and compare it (about a second for a million rows).

    Raises:
        UsageError: the folder or one of its files is missing or broken, or has another schema version or digest.

    Example:
        >>> run = imsim.simulate("office", duration="1s", out="results")
        >>> imsim.read_run(run.path).digest == run.digest
        True
    """
    if not isinstance(folder, str | PathLike):
        raise UsageError(f"read_run: expected the path of a run's folder (got {type(folder).__name__})")
    return Run.open(Path(folder), verify=verify)


def _row(tag: str, cells: list[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _cell(column: str, value: float) -> str:
    if column == "shed_share":
        return f"{value:.1%}"
    return f"{value:,.0f}" if column in ("count", "lost", "shed") else _ms(value)


def _ms(value: float) -> str:
    return "–" if value != value else f"{value:,.3f}"
