"""A comparison of two designs under the same seeds: by how much one is better than the other."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imsim.analysis.intervals import CONFIDENCE, ENOUGH, Estimate, estimate, t_quantile
from imsim.analysis.kinds import kind_of
from imsim.analysis.labels import change_texts, changes, design_labels, heading, title_of_all
from imsim.analysis.latency import is_latency
from imsim.analysis.metrics import check_measured, printed
from imsim.core.exceptions import UsageError
from imsim.experiments.replicate import Progress, Replications, Sampling, flaw_notes, replicate, to_json
from imsim.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def compare(a: Scenario, b: Scenario, sampling: Sampling, *, progress: Progress | None = None) -> Comparison:
    """Simulate two scenarios under the same seeds. Raises: UsageError if their seeds differ."""
    if a.seed != b.seed:
        raise UsageError(
            f"compare: the scenarios have different seeds ({a.seed}, {b.seed}); set seed=, which is for both"
        )
    return Comparison(*replicate([a, b], sampling, progress=progress))


@dataclass(frozen=True)
class Difference:
    """One metric of two designs, and the difference b - a with its interval.

    Attributes:
        metric: the metric's name.
        a: the mean of A with its interval.
        b: the mean of B with its interval.
        absolute: the mean of b - a with its interval.
        relative: the difference as a share of a.
        saved: the factor by which independent seeds would increase the variance of the difference, and the number of
            replications: (var a + var b) / var(b - a). None if nothing varies.
    """

    metric: str
    a: Estimate
    b: Estimate
    absolute: Estimate
    relative: Estimate
    saved: float | None

    @property
    def better(self) -> str:
        """The better design by the interval: "A", "B", "=" (equal in every replication) or "?" (undecided).

        It is "" if the metric is null, or if neither more nor less of it is better.
        """
        if self.absolute.value is None or not kind_of(self.metric).less_is_better:
            return ""
        if self.absolute.low is None or self.absolute.high is None:
            return "?"
        if self.absolute.low == self.absolute.high == 0:
            return "="
        return "B" if self.absolute.high < 0 else "A" if self.absolute.low > 0 else "?"

    def __str__(self) -> str:
        unit = kind_of(self.metric).suffix
        if self.absolute.value is None:
            return f"{self.metric}: null in {self.absolute.undefined} of {self.absolute.replications} replications"
        if self.absolute.low == self.absolute.high == 0:
            return f"{self.metric}: equal in every replication"
        found = self.absolute
        interval = "" if found.low is None else f" [{found.low:+.4g}, {found.high:+.4g}]"
        share = "" if self.relative.value is None else f", {self.relative.value:+.1%}"
        if self.relative.low is not None:
            share += f" [{self.relative.low:+.1%}, {self.relative.high:+.1%}]"
        verdict = {"A": ": A is better", "B": ": B is better", "?": ": undecided"}.get(self.better, "")
        return f"{self.metric}: B - A is {found.value:+.4g}{unit}{interval}{share}{verdict}"


class Comparison:
    """The result of `imsim.compare`: two designs, replication by replication.

    `comparison["delivery.p99"]` is the `Difference` in one metric. Replication r of both designs has the same seed, so
    both get the same messages and the same service demands (common random numbers). The difference is due to the
    designs alone, and its interval is that of the paired differences.

    Attributes:
        a: the `Replications` of A.
        b: the `Replications` of B.
        pairs: the number of replications that both have.
        differences: the `Difference` in each metric.

    Raises:
        UsageError: the two were run under different seeds.

    Example:
        >>> office = imsim.Scenario.load("office", {"duration": "2s"})
        >>> found = imsim.compare(office, office.replace({"topology.routers": 4}), replications=2)
        >>> found.changes
        {'topology.routers': (2, 4)}
    """

    def __init__(self, a: Replications, b: Replications) -> None:
        self.a, self.b = a, b
        seeds = {sample.replication: sample.seed for sample in a.samples}
        both = [sample.replication for sample in b.samples if sample.replication in seeds]
        if not both or any(
            seeds[sample.replication] != sample.seed for sample in b.samples if sample.replication in seeds
        ):
            raise UsageError(
                "compare: the two were not run under the same seeds, so they have no pairs; use the same seed for both"
            )
        self.pairs = len(both)
        self.left_out = len(a) + len(b) - 2 * self.pairs
        metrics = [metric for metric in a.metrics if metric in b.metrics]
        self.differences = {metric: self._difference(metric, set(both)) for metric in metrics}

    def _difference(self, metric: str, both: set[int]) -> Difference:
        values = [
            [
                sample.values[metric]
                for sample in sorted(one.samples, key=lambda s: s.replication)
                if sample.replication in both
            ]
            for one in (self.a, self.b)
        ]
        is_flawed = any(one.flaw(metric) for one in (self.a, self.b))
        return difference(metric, *values, is_flawed=is_flawed)

    @property
    def _printed(self) -> list[str]:
        """The metrics of the printed table and of the picture."""
        return printed(self.differences, [self.a.scenario, self.b.scenario], (*self.a.asked, *self.b.asked))

    def __dir__(self) -> list[str]:
        return [
            "a", "b", "changes", "differences", "labels", "notes", "pairs", "plot", "save_plot", "summary",
            "to_json_dict",
        ]  # fmt: skip

    def __getitem__(self, metric: str) -> Difference:
        return self.differences[check_measured(metric, list(self.differences))]

    @cached_property
    def changes(self) -> dict[str, tuple[object, object]]:
        """The fields in which the two scenarios differ: dotted path -> (A's value, B's value)."""
        return changes(self.a.scenario, self.b.scenario)

    @cached_property
    def labels(self) -> tuple[str, str]:
        """The names of A and B: the names of their scenarios, or the differing fields (`routers = 1`)."""
        a, b = design_labels([self.a.scenario, self.b.scenario])
        return a, b

    @cached_property
    def _texts(self) -> dict[str, tuple[str, str]]:
        return change_texts(self.a.scenario, self.b.scenario)

    def summary(self) -> pd.DataFrame:
        """Return a row for each metric of both designs.

        Returns:
            A frame with the means `a` and `b`; the `difference` b - a, from `low` to `high` (95 % interval); the same
            as a share of a (`relative`, `relative_low`, `relative_high`); the `better` design; `variance_saved`, the
            factor by which common random numbers reduce the variance; and `null`, the number of pairs in which the
            metric is null.
        """
        import pandas as pd

        rows = {
            metric: {
                "a": one.a.value,
                "b": one.b.value,
                "difference": one.absolute.value,
                "low": one.absolute.low,
                "high": one.absolute.high,
                "relative": one.relative.value,
                "relative_low": one.relative.low,
                "relative_high": one.relative.high,
                "better": one.better,
                "variance_saved": one.saved,
                "null": one.absolute.undefined,
            }
            for metric, one in self.differences.items()
        }
        return _typed(pd.DataFrame.from_dict(rows, orient="index"))

    @cached_property
    def notes(self) -> list[str]:
        """Facts to know before the numbers are used, one sentence each."""
        notes = []
        if self.pairs < 2:
            notes.append("one pair gives no interval: use two or more replications, preferably 20")
        elif self.pairs < ENOUGH:
            notes.append(
                f"an interval from {self.pairs} pairs assumes that the difference is about normally distributed; with "
                f"{ENOUGH} or more this hardly matters"
            )
        if self.left_out:
            notes.append(f"{self.left_out} replications have no partner in the other design and are left out")
        a, b = self.a.unsteady_notes, self.b.unsteady_notes
        notes += [note for note in a if note in b]
        notes += [f"A: {note}" for note in a if note not in b] + [f"B: {note}" for note in b if note not in a]
        flaws = {metric: self.a.flaw(metric) or self.b.flaw(metric) for metric in self._printed}
        notes += flaw_notes(flaws, min(self.a.scenario.duration, self.b.scenario.duration))
        null = [metric for metric in self._printed if self.differences[metric].absolute.value is None]
        if null:
            notes.append(f"null, because they fall among messages that never arrived: {', '.join(null)}")
        return notes

    def plot(self, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
        """Draw the latencies of both designs, and beside them the differences, with intervals.

        Args:
            axes: two axes; None makes a new figure.

        Raises:
            UsageError: no latency was measured.
        """
        from imsim.analysis import plots

        scenarios = [self.a.scenario, self.b.scenario]
        # If the labels are the scenarios' names, the title names the differing fields.
        paths = list(self.changes) if self.labels[0] == scenarios[0].name else []
        differ = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        title = title_of_all("B against A, under the same seeds", scenarios, differ and f"which differ in {differ}")
        return plots.comparison(self._latencies(), axes, labels=self.labels, pairs=self.pairs, title=title)

    def save_plot(self, path: str | PathLike[str]) -> Path:
        """Write the picture that `plot` draws to a file and return its path.

        Args:
            path: the file; its suffix chooses the format (.png, .svg, .pdf).

        Raises:
            UsageError: the file cannot be written, or no latency was measured.
        """
        from imsim.analysis import plots

        return plots.save_side_by_side(self.plot, path)

    def _latencies(self) -> pd.DataFrame:
        """Return a row for each latency: a, b and their relative difference with intervals."""
        import pandas as pd

        rows = {
            metric: {
                **{
                    f"{name}{end}": value
                    for name, found in (("a", one.a), ("b", one.b), ("relative", one.relative))
                    for end, value in (("", found.value), ("_low", found.low), ("_high", found.high))
                },
                "better": one.better,
                "null": one.absolute.undefined,
            }
            for metric, one in ((metric, self.differences[metric]) for metric in self._printed)
            if is_latency(metric)
        }
        if not rows:
            raise UsageError("plot: no latency was measured in both designs; request one with metrics=[...]")
        return _typed(pd.DataFrame.from_dict(rows, orient="index"))

    def to_json_dict(self) -> dict[str, Any]:
        """Return the object that `imsim compare --json` prints."""
        return {
            "a": self.labels[0],
            "b": self.labels[1],
            "scenarios": {"a": self.a.scenario.name, "b": self.b.scenario.name},
            "changes": {path: [before, after] for path, (before, after) in self._texts.items()},
            "seed": self.a.scenario.seed,
            "replications": self.pairs,
            "confidence": CONFIDENCE,
            "metrics": {
                metric: {
                    "a": to_json(one.a),
                    "b": to_json(one.b),
                    "difference": to_json(one.absolute),
                    "relative": to_json(one.relative),
                    "better": one.better or None,
                    "variance_saved": one.saved,
                }
                for metric, one in self.differences.items()
            },
            "notes": self.notes,
        }

    def __str__(self) -> str:
        table = self.summary().loc[self._printed].rename_axis(None).astype(object)
        text = table.where(table.notna(), "-").to_string(float_format=lambda value: f"{value:,.4g}")
        return "\n".join([*self._heading(), "", text, *(f"note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<Comparison of {self.labels[0]} and {self.labels[1]}: {self.pairs} pairs>"

    def _repr_html_(self) -> str:
        table = self.summary().loc[self._printed].rename_axis(None).astype(object)
        html = table.where(table.notna(), "–").to_html(float_format=lambda value: f"{value:,.4g}", border=0)
        lines = "<br>".join(map(escape, self._heading()))
        notes = "".join(f"<br><small>{escape(note)}</small>" for note in self.notes)
        small = f"<small>means over {self.pairs} pairs, 95 % interval of the difference</small>"
        return f"<div>{lines}{html}{small}{notes}</div>"

    def _heading(self) -> list[str]:
        differ = ", ".join(f"{path}: {was} -> {now}" for path, (was, now) in self._texts.items())
        common = {heading(self.a.scenario), heading(self.b.scenario)}
        lines = [
            *(common if len(common) == 1 else ()),
            f"A: {self.labels[0]}",
            f"B: {self.labels[1]}",
            f"B differs from A in {differ or 'nothing'}",
        ]
        shown = ("delivery.p50", "delivery.p99", "confirmed.p99", "ack.p99")
        lines += [str(self[metric]) for metric in shown if metric in self._printed]
        saved = self.differences.get("delivery.mean")
        if saved and saved.saved:
            lines.append(
                f"common random numbers reduce the variance of the difference in delivery.mean {saved.saved:,.3g} times"
            )
        return lines


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    typed = table.astype({**dict.fromkeys(table.columns, float), "better": str, "null": int})
    return typed.rename_axis("metric")


def difference(metric: str, a: list[float], b: list[float], *, is_flawed: bool = False) -> Difference:
    """Return the difference in a metric. `a` and `b` are values of the same replications in the same order.

    is_flawed: the runs are too short for this percentile, so it has no interval.
    """
    paired = [after - before for before, after in zip(a, b, strict=True)]  # inf - inf is nan, which is undefined, too
    least, most = kind_of(metric).limits
    absolute = estimate(paired, -most, most)
    saved = None
    if absolute.value is not None and len(paired) > 1:
        variance, both = statistics.variance(paired), statistics.variance(a) + statistics.variance(b)
        # A difference that is constant except for rounding, such as that of a price, has no variance to compare with.
        if variance > both * sys.float_info.epsilon:
            saved = both / variance
    relative = _relative(a, b, absolute, -1.0 if least == 0 else -math.inf)
    found = [estimate(a, least, most), estimate(b, least, most), absolute, relative]
    if is_flawed:
        found = [replace(one, low=None, high=None) for one in found]
    return Difference(metric, found[0], found[1], found[2], found[3], saved)


def _relative(a: list[float], b: list[float], absolute: Estimate, least: float) -> Estimate:
    """Return mean(b) / mean(a) - 1 with the ratio estimator's interval.

    The interval follows from the variance of b - ratio x a, which is linear in both. `least` is -1 if neither is ever
    negative.
    """
    count = len(a)
    if absolute.value is None or not (mean := statistics.fmean(a)):
        return Estimate(None, None, None, count, absolute.undefined)
    ratio = statistics.fmean(b) / mean
    if count < 2:
        return Estimate(ratio - 1, None, None, count)
    rest = statistics.stdev([after - ratio * before for before, after in zip(a, b, strict=True)])
    half = t_quantile((1 + CONFIDENCE) / 2, count - 1) * rest / (math.sqrt(count) * abs(mean))
    return Estimate(ratio - 1, max(ratio - 1 - half, least), ratio - 1 + half, count)
