"""`Run`: the rows with everything that can be asked of them, at home in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imsim.analysis import breakdown, latency, recovery, timeline, warmup
from imsim.analysis.cost import Cost, Storage, cost_of, storage_of
from imsim.analysis.labels import heading, run_labels, title_of_all
from imsim.core.exceptions import UsageError
from imsim.results import RunData

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class Run(RunData):
    """One run of a scenario, simulated or live: `messages` and `deliveries` (DataFrames), `summary()`, `plot.cdf()`."""

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before using these numbers, a line each.

        Live: what disturbed the run. Simulated: odd relations between fields of the scenario, and nodes that dropped
        operations. Both: a service that cannot keep up, and a run that does not begin in steady state.
        """
        return [*super().warnings, *self._unsteady]

    @cached_property
    def _unsteady(self) -> list[str]:
        return warmup.notes([warmup.Steadiness.of(self)], has_faults=bool(recovery.faults_of(self)))

    def summary(self) -> pd.DataFrame:
        """Return a table of latencies after the warm-up: count, lost, mean, p50, p95, p99 and max, in ms.

        Rows: `delivery` and `ack`; `confirmed` (when the sender sees success) if a message was acknowledged before it
        was stored; `last recipient` if messages went to groups or chatrooms; `delivery by push` and `delivery by sync`
        if devices come and leave. NaN if a statistic falls among deliveries that never came.
        """
        return latency.summary_table(self)

    def breakdown(self, by: str = "where") -> pd.DataFrame:
        """Where the time of deliveries went: mean, p50, p99, max (ms) and share, by kind and node of spans. Needs
        `simulate(..., spans=True)`; see `imsim.analysis.breakdown`."""
        return breakdown.breakdown(self, by)

    def utilisation(self) -> pd.DataFrame:
        """How busy each node of a simulated run was between warm-up and `duration`, and what it took on and dropped;
        with `simulate(..., spans=True)` also its queue and its peak. See `imsim.analysis.breakdown`."""
        return breakdown.utilisation(self)

    def recovery(
        self,
        *,
        window: float | str | None = None,
        factor: float = recovery.FACTOR,
        faults: Sequence[recovery.Fault] | None = None,
    ) -> pd.DataFrame:
        """How long after each fault deliveries were as fast again as before it: a row for each, in the order of time.

        window: seconds, or a duration such as "2s", over which the p95 is taken. None: a round number of seconds for
            which the scenario plans 60 messages or a little less, but at most a tenth of the duration.
        factor: a window has recovered if its p95 is at most this factor times the p95 before the first fault.
        faults: [(since, until, name)], in seconds or durations from the run's start, instead of the run's: for a
            live run.

        Columns: `fault`, `at` and `until` (s), `before` and `limit` (p95, ms), `time` (s from `at`; infinite if it
        never recovered; nan if too few deliveries arrived before it, or the run ends too soon after it), `slow`
        (deliveries beyond the limit until the recovery), `waited_for` (their longest wait after the fault's end: the
        policy that sets it, as in `breakdown("policy")`, or a stage; None without spans). The definition is in
        `imsim.analysis.recovery`. The metric `recovery.time` is the longest of all faults.

        Raises: UsageError for a bad window, factor or fault.
        """
        return recovery.frame(recovery.recoveries(self, window=window, factor=factor, faults=faults))

    def __str__(self) -> str:
        """What `imsim simulate` prints: how many there were, the summary, and the recovery from each fault."""
        table = self.summary().round(3).astype(object)
        text = table.where(table.notna(), "-").rename_axis("ms after warm-up").reset_index().to_string(index=False)
        return "\n".join([latency.totals(self), "", text, *map(str, recovery.recoveries(self))])

    def to_json_dict(self) -> dict[str, Any]:
        """What `imsim simulate --json` prints."""
        found = [recovery.to_json(one) for one in recovery.recoveries(self)]
        return latency.to_json_dict(self) | ({"recovery": found} if found else {})

    def cost(self) -> Cost:
        """What the service costs at this load and by the month, by the prices of the scenario's section `cost`."""
        return cost_of(self)

    def storage(self) -> Storage:
        """How many bytes a day storage grows by, and how large it becomes with `cost.retention_days`."""
        return storage_of(self)

    def save_plot(self, path: Path | str) -> Path:
        """The pictures of this run in one file, whose suffix chooses the format (.png, .svg, .pdf): latencies, and over
        time; with spans also where the time went, and the nodes. Raises: UsageError if it cannot be written."""
        from imsim.analysis import plots

        rows = [(self.plot.cdf, self.plot.timeline)]
        if self.tables.spans is not None:
            rows.append((self.plot.breakdown, self.plot.nodes))
        return plots.save_rows(rows, path)

    @property
    def plot(self) -> Plots:
        """Pictures of this run: `run.plot.cdf()`."""
        return Plots(self)

    def _repr_html_(self) -> str:
        title = f"<b>{escape(self.world)}</b> · {escape(heading(self.scenario))} · seed {self.seed}"
        summary = self.summary()
        rows = [_row("th", ["ms after warm-up", *summary.columns])]
        for name, row in summary.iterrows():
            rows.append(_row("td", [str(name), *(_cell(str(column), value) for column, value in row.items())]))
        return (
            f"<div>{title}<br>{latency.totals(self)}"
            f"<table>{''.join(rows)}</table>"
            f"{''.join(f'<p>{escape(str(one))}</p>' for one in recovery.recoveries(self))}"
            f"{''.join(f'<p>{escape(warning)}</p>' for warning in self.warnings)}"
            f"<small>digest <code>{escape(self.digest[:16])}</code> · run <code>{escape(self.id)}</code></small></div>"
        )


class Plots:
    """The pictures of one run; `plot_cdf` draws several in one."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def cdf(self, ax: Axes | None = None) -> Axes:
        """Delivery and ack latencies as shares of all that were due, in a new figure or in `ax`."""
        return plot_cdf(self._run, ax=ax)

    def timeline(self, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
        """Over time: delivery latency (p50, p95, max), and messages offered and delivered a second, in a new figure or
        in two `axes`; with each fault, and when the run recovered from it."""
        from imsim.analysis import plots

        time = timeline.TimeAxis.of(self._run)
        windows = timeline.windows(self._run, time.end)
        return plots.timeline(windows, time, axes, title=self._title("Latency and load over time"))

    def breakdown(self, ax: Axes | None = None) -> Axes:
        """Where the time of deliveries went, as stacked bars: all, the middle half, the slowest hundredth."""
        from imsim.analysis import plots

        title = self._title("Where the time of a delivery goes")
        return plots.breakdown(breakdown.stages(self._run), ax, title=title)

    def nodes(self, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
        """Over time: how busy the nodes were, and how many jobs waited and were dropped, in a new figure or in two
        `axes`."""
        from imsim.analysis import plots

        time = timeline.TimeAxis.of(self._run)
        return plots.nodes(self._run.nodes, time, axes, title=self._title("How busy the nodes are"))

    def _title(self, text: str) -> str:
        return title_of_all(text, [self._run.scenario], f"seed {self._run.seed}")


def plot_cdf(*runs: Run, ax: Axes | None = None) -> Axes:
    """Draw the latency CDFs of several runs in one picture, in a new figure or in `ax`.

    One run: every row of its `summary()`. Several: deliveries and acks, and `confirmed` if one of them acknowledged a
    message before it was stored. Raises: UsageError if an argument is not a run.
    """
    from imsim.analysis import plots

    if not runs or not all(isinstance(run, Run) for run in runs):
        found = ", ".join(type(run).__name__ for run in runs) or "nothing"
        raise UsageError(f"plot_cdf: expected runs, as in plot_cdf(run, other), got {found}")
    several = ["delivery", *(["confirmed"] if any(map(latency.has_early_acks, runs)) else []), "ack"]
    kinds = latency.rows_of(runs[0]) if len(runs) == 1 else several
    latencies = {
        label: {kind: latency.ROWS[kind](run) for kind in kinds}
        for label, run in zip(run_labels(runs), runs, strict=True)
    }
    seeds = {run.seed for run in runs}
    seed = f"seed {runs[0].seed}" if len(seeds) == 1 else ""
    title = title_of_all("Latency", [run.scenario for run in runs], seed)
    comes_back = any(run.scenario.population.sessions is not None for run in runs)
    since = "the intended time, or since the device was back" if comes_back else "the intended time"
    return plots.cdf(latencies, ax, title=title, since=since)


def save_cdf(runs: Sequence[Run], path: Path | str) -> Path:
    """The same as a file, whose suffix chooses the format (.png, .svg, .pdf). Raises: UsageError if it cannot be
    written."""
    from imsim.analysis import plots

    return plots.save(lambda ax: plot_cdf(*runs, ax=ax), path)


make_run = Run.make
open_run = Run.open


def _row(tag: str, cells: list[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _cell(column: str, value: float) -> str:
    if column == "shed share":
        return f"{value:.1%}"
    return f"{value:,.0f}" if column in ("count", "lost", "shed") else _ms(value)


def _ms(value: float) -> str:
    return "–" if value != value else f"{value:,.3f}"
