"""Replications: designs run several times under different seeds, in parallel, until the metrics are precise enough.

The replications and their results depend on the designs and the `Sampling` only. They depend neither on the number of
workers nor on the order in which workers finish.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from imsim.analysis import warmup
from imsim.analysis.intervals import CONFIDENCE, ENOUGH, Estimate, estimate, is_precise, next_count
from imsim.analysis.kinds import kind_of
from imsim.analysis.labels import heading
from imsim.analysis.metrics import Measures, Metrics, check_measured, printed
from imsim.analysis.run import Run
from imsim.analysis.run_length import Behind, Flaw, behind, flaw, needed
from imsim.core.exceptions import UsageError
from imsim.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd

#: The default number of replications, and the default limit for a precision.
FIRST = 20
MOST = 200

#: The metric of a precision that is a plain number.
PRECISE = "delivery.p99"

Precision = float | Mapping[str, float]
Progress = Callable[[str, float], None]

_SPAWN = 0x7265706C  # "repl": keeps the spawn keys of replications apart from other uses of the seed


@dataclass(frozen=True)
class Sample:
    """The kept data of one replication.

    `values` are its metrics: infinite if one falls among messages that never arrived, nan without values. `behind` has
    the data behind percentiles, `steadiness` the data for notes about the warm-up and overload. `digest` is that of the
    rows. `series` and `run` exist only if `Sampling` requests them.
    """

    replication: int
    seed: int
    digest: str
    values: dict[str, float]
    behind: dict[str, Behind] = field(default_factory=dict)
    steadiness: warmup.Steadiness = field(default_factory=warmup.Steadiness)
    series: warmup.Series | None = None
    run: Run | None = None


class Replications:
    """The result of `imsim.replicate`: the metrics of several runs of one scenario under different seeds.

    `replications["delivery.p99"]` is the `Estimate` of one metric: its mean with its 95 % interval. Replication 0 has
    the scenario's own seed; the other seeds follow from it. `imsim.simulate(scenario, seed=...)` with a seed from
    `frame` runs a replication again. Iterating yields the runs, if they were kept.

    Attributes:
        scenario: the scenario that was run.
        precision: the requested precision of each metric.

    Example:
        >>> found = imsim.replicate("office", replications=2, duration="1s")
        >>> found.frame["seed"][0], found["lost"].value
        (np.int64(1), 0.0)
    """

    def __init__(
        self,
        scenario: Scenario,
        samples: Sequence[Sample],
        precision: Mapping[str, float] | None = None,
        asked: Sequence[str] = (),
    ) -> None:
        """asked: the metrics that the user named."""
        self.scenario = scenario
        self.asked = tuple(asked)
        self.samples = tuple(samples)
        self.precision = dict(precision or {})

    def __dir__(self) -> list[str]:
        return [
            "flaw", "frame", "is_precise", "metrics", "notes", "precision", "runs", "scenario", "suggest_warmup",
            "summary", "to_json_dict", "values",
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, metric: str) -> Estimate:
        """Return the estimate of a metric. A percentile has no interval if the runs are too short, see `flaw`."""
        found = estimate(self.values(metric), *kind_of(metric).limits)
        return replace(found, low=None, high=None) if self.flaw(metric) else found

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @property
    def metrics(self) -> list[str]:
        """The names of the measured metrics."""
        return list(self.samples[0].values)

    @property
    def printed(self) -> list[str]:
        """The metrics of the printed table. It leaves out metrics that always equal another one."""
        return printed(self.metrics, [self.scenario], self.asked)

    def values(self, metric: str) -> list[float]:
        """Return a metric of each replication.

        Args:
            metric: the name of a measured metric.

        Returns:
            One number for each replication: infinite if it falls among messages that never arrived, nan without values.

        Raises:
            UsageError: the metric was not measured.
        """
        check_measured(metric, self.metrics)
        return [sample.values[metric] for sample in self.samples]

    @property
    def runs(self) -> list[Run]:
        """The runs, if they were kept with `keep="runs"`.

        Raises:
            UsageError: they were not kept.
        """
        if any(sample.run is None for sample in self.samples):
            raise UsageError(
                "runs: the rows of replications were not kept; use replicate(..., keep='runs'), or run one again with "
                "simulate(scenario, seed=...) and a seed of frame.seed"
            )
        return [sample.run for sample in self.samples if sample.run is not None]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row for each replication: its number, its seed, the digest of its rows, and its metrics.

        A metric is null if it falls among messages that never arrived, or has no values.
        """
        import pandas as pd

        rows = [
            {"replication": sample.replication, "seed": sample.seed, "digest": sample.digest, **_shown(sample.values)}
            for sample in self.samples
        ]
        return pd.DataFrame(rows)

    def row(self) -> dict[str, object]:
        """Return one row of a table with a row for each design.

        It has each metric's mean with the ends of its 95 % interval (`delivery.p99`, `delivery.p99.low`,
        `delivery.p99.high`; nan if undefined), the number of `replications`, and the number of replications in which
        some metric is `null`.
        """
        row: dict[str, object] = {}
        undefined = [0]
        for metric in self.metrics:
            found = self[metric]
            for end, value in (("", found.value), (".low", found.low), (".high", found.high)):
                row[metric + end] = math.nan if value is None else value
            undefined.append(found.undefined)
        return {**row, "replications": len(self), "null": max(undefined)}

    def summary(self) -> pd.DataFrame:
        """Return a row for each metric over all replications.

        Returns:
            A frame with the `mean`, its 95 % t-interval from `low` to `high`, `relative` (half the width of the
            interval as a share of the mean), and the `smallest` and `largest` value of a replication. `null` counts the
            replications in which the metric is null. Then the mean is null, too, because the mean of the others would
            leave out the worst.
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
        return table.astype({**dict.fromkeys(table.columns, float), "null": int}).rename_axis("metric")

    @property
    def is_precise(self) -> bool:
        """Whether every requested precision is reached (True if none was requested).

        A percentile is not precise if the runs are too short for it, even if its interval is narrow.
        """
        return all(
            is_precise(self[metric], share) and self.flaw(metric) is None for metric, share in self.precision.items()
        )

    def flaw(self, metric: str) -> Flaw | None:
        """Return why a percentile has no interval: "few" latencies in a run, "short" runs, or None.

        `imsim.analysis.run_length` has the rules.

        Args:
            metric: the name of a measured metric.
        """
        return flaw(metric, self.values(metric), [sample.behind for sample in self.samples])

    @cached_property
    def notes(self) -> list[str]:
        """Facts to know before the numbers are used, one sentence each."""
        notes = []
        if len(self) < 2:
            notes.append("one replication gives no interval: use two or more, preferably 20")
        elif len(self) < ENOUGH:
            notes.append(
                f"an interval from {len(self)} replications assumes that the metric is about normally distributed over "
                f"runs; with {ENOUGH} or more this hardly matters"
            )
        null = {metric: self[metric].undefined for metric in self.printed if self[metric].undefined}
        if null:
            which = ", ".join(f"{metric} in {count}" for metric, count in null.items())
            notes.append(
                f"null in some of {len(self)} replications, which therefore have no mean: {which}; a metric is null if "
                "it falls among messages that never arrived, or has no values"
            )
        notes += self.unsteady_notes
        notes += flaw_notes({metric: self.flaw(metric) for metric in self.printed}, self.scenario.duration)
        for metric, share in self.precision.items():
            if self.flaw(metric):
                notes.append(f"{metric} is not precise, because the runs are too short for it")
            elif not is_precise(self[metric], share):
                notes.append(
                    f"{metric} has not reached the requested precision ({share:.3g} of its value) after {len(self)} "
                    "replications"
                )
        return notes

    @property
    def unsteady_notes(self) -> list[str]:
        """Sentences about an overloaded service, an unsteady beginning of the measured part, and dropped jobs."""
        found = [sample.steadiness for sample in self.samples]
        return [*warmup.notes(found, has_faults=bool(self.scenario.faults)), *warmup.drop_notes(found)]

    def suggest_warmup(self) -> float | None:
        """Return a value for the scenario's `warmup` in seconds, by MSER-5 on the mean delivery latencies.

        Returns:
            The seconds to cut; None, with a warning, if the runs show no steady state.
        """
        series = [sample.series for sample in self.samples if sample.series is not None]
        seconds = warmup.suggest(series) if series else None
        if seconds is None:
            warnings.warn(
                "suggest_warmup: the runs show no steady state within half of the duration; use a longer duration, or "
                "check whether the service can keep up with the load",
                stacklevel=2,
            )
        return seconds

    def to_json_dict(self) -> dict[str, Any]:
        """Return the object that `imsim replicate --json` prints."""
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
        table = self.summary().loc[self.printed].rename_axis(None).astype(object)
        text: str = table.where(table.notna(), "-").to_string(float_format=lambda value: f"{value:,.4g}")
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        title = f"<b>{escape(heading(self.scenario))}</b> · {len(self)} replications from seed {self.scenario.seed}"
        table = self.summary().loc[self.printed].rename_axis(None).astype(object)
        html = table.where(table.notna(), "–").to_html(float_format=lambda value: f"{value:,.4g}", border=0)
        notes = "".join(f"<br><small>{escape(note)}</small>" for note in self.notes)
        return f"<div>{title}{html}<small>mean over replications, 95 % interval</small>{notes}</div>"


class Store(Protocol):
    """A store of samples that outlives the process."""

    def get(self, scenario: Scenario, replication: int) -> Sample | None:
        """Return a replication's sample, or None if the store does not have it."""

    def put(self, scenario: Scenario, sample: Sample) -> None:
        """Store a sample."""


@dataclass(frozen=True)
class Sampling:
    """The number of runs of each design, and the data to keep. `of` checks a user's values."""

    replications: int
    measures: Measures
    asked: tuple[str, ...] = ()  # the metrics in `measures` that the user requested
    precision: dict[str, float] = field(default_factory=dict)
    most: int = MOST
    jobs: int = -1
    keep: Literal["summary", "runs"] = "summary"
    series: bool = False  # keep the series of latencies, for the warm-up

    @classmethod
    def of(
        cls,
        metrics: Metrics = (),
        *,
        also: Sequence[str] = (),
        needs: Sequence[str] = (),
        replications: int | None = None,
        precision: Precision | None = None,
        most: int | None = None,
        jobs: int = -1,
        keep: str = "summary",
        series: bool = False,
        first: int = FIRST,
        limit: int = MOST,
    ) -> Sampling:
        """Return the sampling that a user requested.

        Args:
            metrics: the metrics that the user requested in addition to `also`, the default ones.
            also: the default metrics.
            needs: further metrics that must be measured, which may be among `metrics`.
            replications: the requested number of runs, or None.
            precision: the requested precision, or None.
            most: the requested limit of replications, or None.
            jobs: the number of processes.
            keep: "summary" or "runs".
            series: keep the series of latencies.
            first: the default number of replications.
            limit: the default limit of replications.

        Raises:
            UsageError: a value is wrong.
        """
        count = first if replications is None else _whole(replications, "replications")
        if count < 1:
            raise UsageError(f"replications: must be at least 1 (got {count})")
        jobs = _whole(jobs, "jobs")
        wanted = _precision(precision)
        given = Measures.of(metrics).all
        asked = tuple(dict.fromkeys((*given, *wanted, *needs)))
        measures = Measures.of(metrics, also=(*also, *(name for name in (*wanted, *needs) if name not in given)))
        if wanted and count < 2:
            raise UsageError("replications: must be at least 2 with a precision (got 1)")
        if most is not None and _whole(most, "max_replications") < count:
            raise UsageError(f"max_replications: must be at least {count}, the number of replications (got {most})")
        if jobs == 0:
            raise UsageError("jobs: expected a number of processes, or -1 for one for each core (got 0)")
        if keep not in ("summary", "runs"):
            raise UsageError(f"keep: expected 'summary' or 'runs' (got {keep!r})")
        kept: Literal["summary", "runs"] = "runs" if keep == "runs" else "summary"
        return cls(count, measures, asked, wanted, max(limit, count) if most is None else most, jobs, kept, series)

    def wants_more(self, samples: Sequence[Sample]) -> bool:
        """Return whether the precision is not reached yet, but can be."""
        all_behind = [sample.behind for sample in samples]
        wanting = False
        for name, share in self.precision.items():
            values = [sample.values[name] for sample in samples]
            found = estimate(values)
            if found.undefined:
                return False
            # More replications do not help a percentile of runs that are too short.
            wanting = wanting or not (is_precise(found, share) or flaw(name, values, all_behind))
        return wanting


def replication_seed(seed: int, replication: int) -> int:
    """Return the seed of a replication.

    Replication 0 has the seed itself, so a single run equals the first replication. Seeds fit the numbers of JSON and
    TOML.
    """
    if replication == 0:
        return seed
    sequence = np.random.SeedSequence(seed, spawn_key=(_SPAWN, replication))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 11


def replicate(
    designs: Sequence[Scenario],
    sampling: Sampling,
    *,
    wants_more: Callable[[Sequence[Sample]], bool] | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> list[Replications]:
    """Run each design several times, and return the replications in the order of `designs`.

    The seed of replication r follows from the design's seed and r. So designs with the same seed get the same messages
    and service demands (common random numbers), and can be compared pair by pair.

    With a precision, a design gets more replications, in steps that are the same on every machine. It stops when the
    precision or `sampling.most` is reached, or when the precision cannot be reached: a metric is null, or the runs are
    too short for a percentile. `wants_more` replaces this rule by another one.
    """
    wants_more = wants_more or sampling.wants_more
    found: list[dict[int, Sample]] = [{} for _ in designs]
    counts = [sampling.replications] * len(designs)
    while True:
        pairs = [
            (number, replication)
            for number, count in enumerate(counts)
            for replication in range(count)
            if replication not in found[number]
        ]
        if not pairs:
            break
        _run(designs, pairs, sampling, found, store, progress)
        counts = [
            next_count(count, sampling.most) if wants_more(list(samples.values())) else count
            for samples, count in zip(found, counts, strict=True)
        ]
    return [
        Replications(
            design, [samples[replication] for replication in sorted(samples)], sampling.precision, sampling.asked
        )
        for design, samples in zip(designs, found, strict=True)
    ]


def _run(
    designs: Sequence[Scenario],
    pairs: Sequence[tuple[int, int]],
    sampling: Sampling,
    found: list[dict[int, Sample]],
    store: Store | None,
    progress: Progress | None,
) -> None:
    """Run these (design, replication) pairs, except for those that the store has."""
    missing = []
    for number, replication in pairs:
        kept = store.get(designs[number], replication) if store else None
        if kept is None:
            missing.append((number, replication))
        else:
            found[number][replication] = kept
    if not missing:
        return

    from joblib import Parallel, delayed

    done = sum(map(len, found))
    total = done + len(missing)
    # No backend is named, so `joblib.parallel_config("dask")` can choose another one. Each sample is stored at once.
    parallel = Parallel(n_jobs=sampling.jobs, return_as="generator_unordered", batch_size=1)
    tasks = (delayed(_one)(number, designs[number], replication, sampling) for number, replication in missing)
    with closing(parallel(tasks)) as results:
        for number, sample in results:
            found[number][sample.replication] = sample
            if store:
                store.put(designs[number], sample)
            done += 1
            if progress:
                progress(f"{done} of {total} runs", done / total)


def _one(number: int, design: Scenario, replication: int, sampling: Sampling) -> tuple[int, Sample]:
    """Run one replication, in any process."""
    seed = replication_seed(design.seed, replication)
    run = simulate_once(design.model_copy(update={"seed": seed}))
    sample = Sample(
        replication,
        seed,
        run.digest,
        sampling.measures(run),
        behind(run, sampling.measures.names),
        warmup.Steadiness.of(run),
        warmup.Series.of(run) if sampling.series else None,
        # A new object leaves out the DataFrames that the metrics have cached.
        Run(run.tables, run.scenario, run.manifest) if sampling.keep == "runs" else None,
    )
    return number, sample


def simulate_once(
    scenario: Scenario,
    *,
    spans: bool = False,
    progress: Callable[[float], None] | None = None,
    warnings: Sequence[str] = (),
) -> Run:
    """Run a scenario once in simulated time. `warnings` are added to the manifest."""
    from imsim.sim import simulate

    started = datetime.now(UTC)
    tables = simulate(scenario, progress=progress, spans=spans)
    extra = {"warnings": list(warnings)} if warnings else None
    return Run.make(tables, scenario, world="sim", seed=scenario.seed, started=started, extra=extra)


def _precision(precision: Precision | None) -> dict[str, float]:
    if precision is None:
        return {}
    wanted = dict(precision) if isinstance(precision, Mapping) else {PRECISE: precision}
    for metric, share in wanted.items():
        if not (isinstance(share, int | float) and 0 < share < 1):
            raise UsageError(
                f"precision: expected a share of {metric} above 0 and below 1, such as 0.05 for 5 % (got {share!r})"
            )
    return wanted


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{name}: expected a whole number (got {value!r})")
    return int(value)


def flaw_notes(flaws: Mapping[str, Flaw | None], duration: float) -> list[str]:
    """Return a sentence for each kind of flaw, with its metrics. `duration` is that of the runs, in seconds."""
    notes = []
    if few := [f"{metric} ({needed(metric):,})" for metric, found in flaws.items() if found == "few"]:
        notes.append(
            f"a run has fewer latencies than these percentiles need: {', '.join(few)}. They may be wrong, and an "
            "interval would miss the true value: lengthen `duration`"
        )
    if short := [metric for metric, found in flaws.items() if found == "short"]:
        notes.append(
            f"runs of {duration:g} s are too short for {', '.join(short)}: halves of the runs give clearly less, so "
            "the value is too low, and an interval would miss the true value. Lengthen `duration` (unless the service "
            "cannot keep up); more replications do not help"
        )
    return notes


def to_json(found: Estimate) -> dict[str, Any]:
    """Return an estimate as plain values."""
    return {"mean": found.value, "low": found.low, "high": found.high, "null": found.undefined}


def _shown(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else math.nan for name, value in values.items()}
