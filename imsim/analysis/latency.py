"""How late messages were, and how many never came.

Three rules, kept everywhere:

- Latency counts from `intended_at`, so that a late generator cannot hide waiting. A device that was offline then, by
  plan, waits from its return on; one that is offline at the end for nothing (outcome absent).
- What never came is infinitely late. It takes part in every statistic; one that would be infinite is None. Only what
  nobody waits for by declared policy (outcomes absent, recalled and shed) is left out, and counted apart.
- The p-th percentile of n latencies has the rank (n + 1/3) p / 100 + 1/3 among them, if need be between two: the
  median-unbiased quantile, 8th in R. J. Hyndman and Y. Fan, "Sample quantiles in statistical packages" (1996). Between
  a latency and one that never came it is infinite. The nearest rank would be a latency that was seen, but as a p99 it
  is too small on average, and so are intervals over replications: of an M/M/1 with 2,000 messages by 0.6 %, with a
  coverage of 92 % in place of 93 %; with 300 messages by 9 % in place of 6 %.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imsim.analysis.availability import waits_since, was_offline_at_end
from imsim.analysis.labels import run_labels
from imsim.core.model import Route, Scene
from imsim.results import DeliveryOutcome, Outcome, Role, RunData

if TYPE_CHECKING:
    import pandas as pd

_NS_PER_MS = 1_000_000
_THIRD = Fraction(1, 3)
_APART = (
    "absent",
    "recalled",
    "shed",
    "shed share",
    "received_lost",
)  # rows of a comparison, where there is anything to say


@dataclass(frozen=True)
class Latency:
    """Milliseconds, to the nanosecond; None where it falls among what never came (or there is nothing at all)."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    mean: float | None

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Latency:
        """Of latencies in ms in ascending order, inf for what never came."""
        return cls(
            p50=percentile(values, 50),
            p95=percentile(values, 95),
            p99=percentile(values, 99),
            max=percentile(values, 100),
            mean=_finite(float(values.mean())) if len(values) else None,
        )


@dataclass(frozen=True)
class Counts:
    """Of all rows, those of the warm-up included."""

    messages: int  # intended
    stored: int
    deliveries: int  # (message, entitled device) pairs, except for messages that were rejected
    delivered: int
    lost: int  # not there when the run ended
    duplicates: int  # arrivals beyond the first
    absent: int = 0  # not there as a device was offline when the run ended; neither lost nor late, as those below
    recalled: int = 0  # taken back before the device had shown it
    received_lost: int = 0  # messages that their senders were told the router has, and that were never stored
    shed: int = 0  # left out on purpose by a server under load (chatrooms only)

    @property
    def shed_share(self) -> float:
        """Of all deliveries."""
        return self.shed / self.deliveries if self.shed else 0.0


@dataclass(frozen=True)
class Summary:
    """What `summarize` finds."""

    counts: Counts
    delivery_ms: Latency
    ack_ms: Latency
    confirmed_ms: Latency
    last_ms: Latency  # of messages to groups and chatrooms: until the last recipient has it


def summarize(run: RunData) -> Summary:
    """Counts over all rows; latencies (see `LATENCIES`) after the warm-up."""
    messages, deliveries = run.messages, run.deliveries
    return Summary(
        Counts(
            messages=len(messages),
            stored=int((messages["outcome"] == Outcome.STORED).sum()),
            deliveries=len(deliveries),
            delivered=int((deliveries["outcome"] == DeliveryOutcome.DELIVERED).sum()),
            lost=int((deliveries["outcome"] == DeliveryOutcome.LOST).sum()),
            duplicates=int(deliveries["duplicates"].sum()),
            absent=int((deliveries["outcome"] == DeliveryOutcome.ABSENT).sum()),
            recalled=int((deliveries["outcome"] == DeliveryOutcome.RECALLED).sum()),
            received_lost=int((messages["received_at"].notna() & (messages["outcome"] != Outcome.STORED)).sum()),
            shed=int((deliveries["outcome"] == DeliveryOutcome.SHED).sum()),
        ),
        Latency.of(delivery_latencies(run)),
        Latency.of(ack_latencies(run)),
        Latency.of(confirmed_latencies(run)),
        Latency.of(last_latencies(run)),
    )


def counted_deliveries(run: RunData, *, since: int | None = None, until: int | None = None) -> pd.DataFrame:
    """The rows of `run.deliveries` that latencies are of, with two more columns, ns from the run's start: `intended_at`
    of the message, and `since`, from when on the device waited for it.

    That is: for each device of each other member (the sender's own devices excepted) and each message that was intended
    after the warm-up, those rejected excepted. A device that was offline at the intended time waits from its return on.
    What is absent, recalled or shed is left out. `since`, `until`: only what was intended from then on, and before then
    (ns), in place of the warm-up's end and the run's."""
    intents = run.messages["intent"].to_numpy(np.int64)
    intended = run.messages["intended_at"].to_numpy(np.int64)
    waited_for = run.deliveries["outcome"].isin([DeliveryOutcome.DELIVERED, DeliveryOutcome.LOST])
    rows = run.deliveries[(run.deliveries["role"] == Role.RECIPIENT) & waited_for]
    intended = intended[np.searchsorted(intents, rows["intent"].to_numpy(np.int64))]
    waited = waits_since(run, rows, intended)
    return rows.assign(intended_at=intended, since=waited)[_counts(run, intended, since, until)]


def delivery_latencies(
    run: RunData, route: str | None = None, *, since: int | None = None, until: int | None = None
) -> NDArray[np.float64]:
    """Of the deliveries that count, from when the device waited (the intended time, unless it was offline by plan) to
    shown, in ms, ascending, inf where it never was. `route`: only of what came by push, or by sync. `since`, `until`:
    as of `counted_deliveries`."""
    rows = counted_deliveries(run, since=since, until=until)
    if route is not None:
        rows = rows[(rows["route"] == route).fillna(False)]
    return _latencies(rows["since"].to_numpy(np.int64), rows["delivered_at"])


def last_latencies(run: RunData, *, since: int | None = None, until: int | None = None) -> NDArray[np.float64]:
    """Until the last recipient has it: for each message to a group or a chatroom the longest of its deliveries that
    count, in ms, ascending, inf where one never came. Devices that were offline by plan at the intended time are not
    waited for. `since`, `until`: as of `counted_deliveries`."""
    rows = counted_deliveries(run, since=since, until=until)
    to_many = run.messages["intent"][run.messages["scene"] != Scene.P2P]
    rows = rows[(rows["since"] == rows["intended_at"]) & rows["intent"].isin(to_many)]
    latencies = (rows["delivered_at"] - rows["since"]).to_numpy(np.float64, na_value=np.inf) / _NS_PER_MS
    longest = rows.assign(latency=latencies).groupby("intent")["latency"].max()
    return np.sort(longest.to_numpy(np.float64))


def ack_latencies(run: RunData, *, since: int | None = None, until: int | None = None) -> NDArray[np.float64]:
    """From intended to the stored-ack at the sender, in ms, ascending, inf where it never came: for each message that
    was intended after the warm-up, those never sent included, those rejected excepted (they were answered), and those
    without an answer whose sender was offline at the end. `since`, `until`: as of `counted_deliveries`."""
    return _answer_latencies(run, run.messages["acked_at"], since, until)


def confirmed_latencies(run: RunData, *, since: int | None = None, until: int | None = None) -> NDArray[np.float64]:
    """The same to whatever the sender takes for success, and so comparable across ack policies: the stored-ack, or
    under `after_receive` the word that the router has it, if that comes first."""
    first = run.messages[["received_at", "acked_at"]].min(axis=1)
    return _answer_latencies(run, first, since, until)


def _answer_latencies(
    run: RunData, answered_at: pd.Series[int], since: int | None, until: int | None
) -> NDArray[np.float64]:
    rows = run.messages.assign(answered_at=answered_at)
    rows = rows[rows["outcome"] != Outcome.REJECTED]
    rows = rows[rows["answered_at"].notna() | ~was_offline_at_end(run, rows)]
    meant = rows["intended_at"].to_numpy(np.int64)
    counts = _counts(run, meant, since, until)
    return _latencies(meant[counts], rows["answered_at"][counts])


def has_early_acks(run: RunData) -> bool:
    """Whether senders heard of messages that were not stored yet: else `confirmed` is `ack`."""
    return bool(run.messages["received_at"].notna().any())


#: Which there are, by name. `last` is of nothing where all messages are p2p.
LATENCIES = {
    "delivery": delivery_latencies,
    "last": last_latencies,
    "confirmed": confirmed_latencies,
    "ack": ack_latencies,
}


#: What is asked of latencies.
STATISTIC = re.compile(r"mean|max|p(\d{1,2}(?:\.\d{1,4})?)")


def is_latency(metric: str) -> bool:
    """Whether this is the name of a latency's metric, which is in ms: delivery.p99."""
    what, _, statistic = metric.partition(".")
    return what in LATENCIES and STATISTIC.fullmatch(statistic) is not None


#: The rows of a summary.
ROWS: dict[str, Callable[[RunData], NDArray[np.float64]]] = {
    "delivery": delivery_latencies,
    **{f"delivery by {route}": partial(delivery_latencies, route=route) for route in Route},
    "last recipient": last_latencies,
    "confirmed": confirmed_latencies,
    "ack": ack_latencies,
}


def rows_of(run: RunData) -> list[str]:
    """Those that say something about this run. Push and sync have rows of their own where devices come and leave,
    or where each brought one in a hundred, as after a broken connection."""
    names = ["delivery"]
    routes = run.deliveries["route"].value_counts()
    if run.scenario.population.sessions is not None or min(routes.get(route, 0) for route in Route) * 100 >= max(
        len(run.deliveries), 1
    ):
        names += [f"delivery by {route}" for route in Route]
    if (run.messages["scene"] != Scene.P2P).any():
        names.append("last recipient")
    if has_early_acks(run):
        names.append("confirmed")
    return [*names, "ack"]


def percentile(values: NDArray[np.float64], percent: int) -> float | None:
    """The percentile of `values` (ascending, inf for what never came); None if infinite or of nothing."""
    return _finite(quantile(values, percent)) if len(values) else None


def quantile(values: NDArray[np.float64], percent: int | Fraction) -> float:
    """The same of one value or more, and infinite where it is."""
    rank = ((len(values) + _THIRD) * percent / 100) + _THIRD  # from 1, and exact: 0.07 * 100 is not 7
    below = min(max(math.floor(rank), 1), len(values))
    value = float(values[below - 1])
    if rank <= below or below == len(values):
        return value
    above = float(values[below])
    return value + float(rank - below) * (above - value) if math.isfinite(above) else above


def to_json_dict(run: RunData) -> dict[str, Any]:
    """What `--json` prints: plain values, None where a statistic is not defined."""
    summary = summarize(run)
    counts = summary.counts
    return {
        "run": run.id if run.path is None else str(run.path),
        "world": run.world,
        "scenario": run.scenario.name,
        "seed": run.seed,
        "digest": run.digest,
        "messages": counts.messages,
        "deliveries": counts.deliveries,
        "delivered": counts.delivered,
        "lost": counts.lost,
        "absent": counts.absent,
        "recalled": counts.recalled,
        "shed": counts.shed,
        "received_lost": counts.received_lost,
        "duplicates": counts.duplicates,
        "warnings": run.warnings,
        "delivery_ms": asdict(summary.delivery_ms),
        "ack_ms": asdict(summary.ack_ms),
        "confirmed_ms": asdict(summary.confirmed_ms),
        "last_ms": asdict(summary.last_ms),
    }


def summary_table(run: RunData) -> pd.DataFrame:
    """Rows `delivery` and `ack`, `last recipient` where messages went to groups or chatrooms, and `confirmed` where
    senders heard of messages before they were stored; latencies in ms, NaN
    where not defined.

    `count` is the number of latencies (after the warm-up), `lost` how many of them are infinite. Where anything was
    shed, which has no latency, `shed` is how many deliveries that is on top of `count`, and `shed share` their share of
    both. See `rows_of` for what else has rows of its own.
    """
    import pandas as pd

    rows = {}
    for name in rows_of(run):
        values = ROWS[name](run)
        latency = Latency.of(values)
        rows[name] = {
            "count": len(values),
            "lost": int(np.isinf(values).sum()),
            "mean": latency.mean,
            "p50": latency.p50,
            "p95": latency.p95,
            "p99": latency.p99,
            "max": latency.max,
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    if shed := _shed_of_recipients(run):
        table.insert(2, "shed", [shed, *[0] * (len(table) - 1)])
        table.insert(3, "shed share", table["shed"] / (table["count"] + table["shed"]).clip(lower=1))
    return table.astype(dict.fromkeys(("mean", "p50", "p95", "p99", "max"), float))


def totals(run: RunData) -> str:
    """How many there were, in one line."""
    counts = summarize(run).counts
    return (
        f"{counts.messages:,} messages, {counts.deliveries:,} deliveries: {counts.delivered:,} delivered, "
        f"{counts.lost:,} lost, {f'{counts.absent:,} absent, ' if counts.absent else ''}"
        f"{f'{counts.recalled:,} recalled, ' if counts.recalled else ''}"
        f"{f'{counts.shed:,} shed ({counts.shed_share:.1%}), ' if counts.shed else ''}"
        f"{f'{counts.received_lost:,} received and never stored, ' if counts.received_lost else ''}"
        f"{counts.duplicates:,} duplicates"
    )


def compare_table(runs: Sequence[RunData]) -> pd.DataFrame:
    """Return a table with a column for each run: counts, then latencies in ms, to the microsecond (None where not
    defined).

    Columns hold objects, so that counts stay whole numbers. Some rows are there only if a run has something to show:
    `absent`, `recalled`, `shed` and its share of all deliveries, `received_lost`; the latencies `last` if messages went
    to groups or chatrooms, and `confirmed` if a message was acknowledged before it was stored.
    """
    import pandas as pd

    latencies = [f"{name} {field.name} (ms)" for name in LATENCIES for field in fields(Latency)]
    columns: dict[str, list[object]] = {}
    for label, run in zip(run_labels(runs), runs, strict=True):
        summary = summarize(run)
        counts = summary.counts
        values = [value for name in LATENCIES for value in astuple(getattr(summary, f"{name}_ms"))]
        columns[label] = [
            counts.messages,
            counts.delivered,
            counts.lost,
            counts.absent,
            counts.recalled,
            counts.shed,
            round(counts.shed_share, 4),
            counts.received_lost,
            counts.duplicates,
            *(None if value is None else round(value, 3) for value in values),
        ]
    index = ["messages", "delivered", "lost", *_APART, "duplicates", *latencies]
    table = pd.DataFrame(columns, index=index, dtype=object)
    unused = [name for name in _APART if not table.loc[name].any()]
    if not any((run.messages["scene"] != Scene.P2P).any() for run in runs):
        unused += [name for name in latencies if name.startswith("last ")]
    if not any(map(has_early_acks, runs)):
        unused += [name for name in latencies if name.startswith("confirmed ")]
    return table.drop(index=unused)


def _shed_of_recipients(run: RunData) -> int:
    """After the warm-up, as the latencies are."""
    rows = run.deliveries[run.deliveries["outcome"] == DeliveryOutcome.SHED]
    rows = rows[rows["role"] == Role.RECIPIENT]
    intended = run.messages.set_index("intent")["intended_at"]
    return int(_counts(run, intended.loc[rows["intent"]].to_numpy(np.int64), None, None).sum())


def _counts(run: RunData, meant: NDArray[np.int64], since: int | None, until: int | None) -> NDArray[np.bool_]:
    counts = meant >= (round(run.scenario.warmup * 1e9) if since is None else since)
    return counts if until is None else counts & (meant < until)


def _latencies(since: NDArray[np.int64], until: pd.Series[int]) -> NDArray[np.float64]:
    """until - since, subtracted as integers, in ms, ascending; inf where `until` is null."""
    return np.sort((until - since).to_numpy(np.float64, na_value=np.inf) / _NS_PER_MS)


def _finite(value: float) -> float | None:
    """`value`, to the nanosecond where it is in ms; None for infinity."""
    return round(value, 6) if math.isfinite(value) else None
