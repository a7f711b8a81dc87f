"""Several runs of one scenario under different seeds, as one answer: what `imsim.simulate(..., replications=20)`
returns."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from imsim.analysis import warmup
from imsim.analysis.intervals import CONFIDENCE, ENOUGH, Estimate, estimate, is_precise
from imsim.analysis.metrics import least_of
from imsim.analysis.run import Run
from imsim.analysis.run_length import Behind, Flaw, flaw, needed
from imsim.core.exceptions import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from imsim.scenario import Scenario


@dataclass(frozen=True)
class Sample:
    """What is kept of one replication: its numbers (infinite where one falls among what never came, nan of nothing),
    what stands behind the percentiles among them, and the digest of the rows that they are of. `series` and `run` only
    where they were asked for."""

    replication: int
    seed: int
    digest: str
    values: dict[str, float]
    behind: dict[str, Behind] = field(default_factory=dict)
    series: warmup.Series | None = None
    run: Run | None = None


class Replications:
    """`summary()`: each number's mean over the replications with its 95 % interval; `frame`: one row a replication;
    `replications["delivery.p99"]`: one estimate.

    Replication 0 has the scenario's own seed, the others have seeds that follow from it: `imsim.simulate(scenario,
    seed=...)` with a seed of `frame` runs that one again.
    """

    def __init__(
        self, scenario: Scenario, samples: Sequence[Sample], precision: Mapping[str, float] | None = None
    ) -> None:
        self.scenario = scenario
        self.samples = tuple(samples)
        self.precision = dict(precision or {})

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, metric: str) -> Estimate:
        return estimate(self.values(metric), least_of(metric))

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @property
    def metrics(self) -> list[str]:
        """The names of the numbers that each replication gave."""
        return list(self.samples[0].values)

    def values(self, metric: str) -> list[float]:
        """A number of each replication: infinite where it falls among what never came, nan where there was nothing."""
        if metric not in self.metrics:
            raise UsageError(
                f"metric {metric!r} was not measured; name it in metrics=[...]. Measured: {', '.join(self.metrics)}"
            )
        return [sample.values[metric] for sample in self.samples]

    @property
    def runs(self) -> list[Run]:
        """The runs themselves. Raises: UsageError unless they were kept (`keep="runs"`)."""
        if any(sample.run is None for sample in self.samples):
            raise UsageError(
                "the rows of replications are not kept, as they are large; simulate(..., keep='runs') keeps them, and "
                "simulate(scenario, seed=one of frame.seed) runs one again"
            )
        return [sample.run for sample in self.samples if sample.run is not None]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a replication: its number, its seed, the digest of its rows, and its numbers; null where a number
        falls among what never came, or of nothing."""
        import pandas as pd

        rows = [
            {"replication": sample.replication, "seed": sample.seed, "digest": sample.digest, **_shown(sample.values)}
            for sample in self.samples
        ]
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """A row for each number: its mean over the replications, its 95 % t-interval `low` to `high`, `relative` (half
        the interval's width as a share of the mean), and the smallest and the largest of any replication.

        `null` counts the replications in which the number is null. The mean over all is then null, too: leaving those
        out would be leaving out the worst.
        """
        import pandas as pd

        rows = {}
        for metric in self.metrics:
            found = self[metric]
            known = [value for value in self.values(metric) if math.isfinite(value)]
            rows[metric] = {
                "mean": found.value,
                "low": found.low,
                "high": found.high,
                "relative": found.relative,
                "smallest": min(known, default=None),
                "largest": max(known, default=None) if len(known) == len(self) else None,
                "null": found.undefined,
            }
        table = pd.DataFrame.from_dict(rows, orient="index")
        return table.astype({**dict.fromkeys(table.columns, float), "null": int})

    @property
    def is_precise(self) -> bool:
        """Whether every precision that was asked for is reached (True if none was). A percentile of runs that are too
        short for it is not precise, however narrow its interval is."""
        return all(
            is_precise(self[metric], share) and self.flaw(metric) is None for metric, share in self.precision.items()
        )

    def flaw(self, metric: str) -> Flaw | None:
        """What is wrong with a percentile's interval, if anything: see `imsim.analysis.run_length`."""
        return flaw(metric, self.values(metric), [sample.behind for sample in self.samples])

    @property
    def notes(self) -> list[str]:
        """What to know before these numbers are used, one sentence each."""
        notes = []
        if len(self) < 2:
            notes.append("one replication gives no interval: ask for two or more, better for 20")
        elif len(self) < ENOUGH:
            notes.append(
                f"an interval from {len(self)} replications is right only if the number is about normal from run to "
                f"run; with {ENOUGH} or more that matters little"
            )
        null = {metric: self[metric].undefined for metric in self.metrics if self[metric].undefined}
        if null:
            told = ", ".join(f"{metric} in {count}" for metric, count in null.items())
            notes.append(
                f"null in some of {len(self)} replications, because it falls among what never came or there was "
                f"nothing to measure: {told}; there is no mean over all then"
            )
        notes += flaw_notes({metric: self.flaw(metric) for metric in self.metrics}, self.scenario.duration)
        for metric, share in self.precision.items():
            if self.flaw(metric):
                notes.append(f"{metric} does not count as precise, as the runs are too short for it")
            elif not is_precise(self[metric], share):
                notes.append(f"{metric} is not as precise as asked ({share:.3g} of its value) after {len(self)}")
        return notes

    def suggest_warmup(self) -> float | None:
        """Seconds to give the scenario as `warmup`, by MSER-5 on the delivery latencies averaged over the replications.

        None, with a warning, if no steady state shows in the scenario's duration.
        """
        series = [sample.series for sample in self.samples if sample.series is not None]
        seconds = warmup.suggest(series) if series else None
        if seconds is None:
            warnings.warn(
                "suggest_warmup: no steady state shows within half of the scenario's duration; make it longer, or ask "
                "whether the service can keep up at all",
                stacklevel=2,
            )
        return seconds

    def to_json_dict(self) -> dict[str, Any]:
        """What `imsim simulate --replications --json` prints."""
        return {
            "scenario": self.scenario.name,
            "seed": self.scenario.seed,
            "replications": len(self),
            "confidence": CONFIDENCE,
            "precise": self.is_precise if self.precision else None,
            "metrics": {metric: to_json(self[metric]) for metric in self.metrics},
            "digests": [sample.digest for sample in self.samples],
            "notes": self.notes,
        }

    def __repr__(self) -> str:
        return f"<Replications of {self.scenario.name}: {len(self)} from seed {self.scenario.seed}>"

    def __str__(self) -> str:
        table = self.summary().astype(object)
        text: str = table.where(table.notna(), "-").to_string(float_format=lambda value: f"{value:,.4g}")
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        title = f"<b>{escape(self.scenario.name)}</b> · {len(self)} replications from seed {self.scenario.seed}"
        table = self.summary().astype(object)
        html = table.where(table.notna(), "–").to_html(float_format=lambda value: f"{value:,.4g}", border=0)
        notes = "".join(f"<br><small>{escape(note)}</small>" for note in self.notes)
        return f"<div>{title}{html}<small>mean over replications, 95 % interval</small>{notes}</div>"


def flaw_notes(flaws: Mapping[str, Flaw | None], duration: float) -> list[str]:
    """A sentence for each kind of flaw, with the metrics that have it. `duration`: of the runs, seconds."""
    notes = []
    if few := [f"{metric} ({needed(metric):,})" for metric, found in flaws.items() if found == "few"]:
        notes.append(
            f"a run has fewer latencies than a percentile takes: {', '.join(few)}. With fewer it may be "
            "off, and its interval miss it: lengthen `duration`"
        )
    if short := [metric for metric, found in flaws.items() if found == "short"]:
        notes.append(
            f"runs of {duration:g} s are too short for {', '.join(short)}: halves of them give clearly less, so it is "
            "too low, and its interval misses. Lengthen `duration` (unless the service cannot keep up); more "
            "replications do not help"
        )
    return notes


def to_json(found: Estimate) -> dict[str, Any]:
    return {"mean": found.value, "low": found.low, "high": found.high, "null": found.undefined}


def _shown(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else math.nan for name, value in values.items()}
