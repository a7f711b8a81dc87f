"""Latencies of messages, and the number of messages that never arrived.

Three rules hold everywhere:

- Latency counts from `intended_at`, so that a late generator cannot hide waiting. If a device was offline by plan at
  that time, its latency counts from its return. A device that is offline at the end waits for nothing (outcome absent).
- A message that never arrived is infinitely late. It takes part in every statistic, and an infinite statistic is None.
  Only messages that nobody waits for by a declared policy (outcomes absent, recalled and shed) are left out and counted
  separately.
- The p-th percentile of n latencies has the rank (n + 1/3) p / 100 + 1/3, interpolated between two latencies: the
  median-unbiased quantile, the 8th in R. J. Hyndman and Y. Fan, "Sample quantiles in statistical packages" (1996).
  Between a latency and a message that never arrived it is infinite. The nearest rank would be an observed latency, but
  its p99 is too small on average, and intervals over replications miss more often: for an M/M/1 queue with 2,000
  messages p99 is 0.6 % too small, with a coverage of 92 % instead of 93 %; with 300 messages 9 % instead of 6 %.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imsim.analysis.availability import NEVER, is_excused, waits_since
from imsim.analysis.labels import run_labels
from imsim.core.exceptions import UsageError
from imsim.core.model import Route, Scene
from imsim.results import DeliveryOutcome, Outcome, Role, RunData, check_where

if TYPE_CHECKING:
    import pandas as pd

_NS_PER_MS = 1_000_000
_THIRD = Fraction(1, 3)
#: Columns of `run_table` that exist only if some run has a value other than 0.
_APART = ("absent", "recalled", "shed", "shed_share", "received_lost")


@dataclass(frozen=True)
class Latency:
    """Statistics of latencies in ms, to the nanosecond.

    A statistic is None if it falls among messages that never arrived, or if there are no latencies.
    """

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    mean: float | None

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Latency:
        """Return the statistics of latencies in ms, ascending; inf for messages that never arrived."""
        return cls(
            p50=percentile(values, 50),
            p95=percentile(values, 95),
            p99=percentile(values, 99),
            max=percentile(values, 100),
            mean=_finite(float(values.mean())) if len(values) else None,
        )


@dataclass(frozen=True)
class Counts:
    """The counts of all rows of a run, its warm-up included."""

    messages: int  # intended
    stored: int
    deliveries: int  # (message, entitled device) pairs, except for messages that were rejected
    delivered: int
    lost: int  # not delivered when the run ended
    duplicates: int  # arrivals beyond the first
    absent: int = 0  # not delivered because the device was offline at the end of the run; not lost, like those below
    recalled: int = 0  # recalled before the device had shown it
    received_lost: int = 0  # messages that the router acknowledged as received, but that were never stored
    shed: int = 0  # left out on purpose by a server under load (chatrooms only)

    @property
    def shed_share(self) -> float:
        """The share of all deliveries that was shed, 0 to 1."""
        return self.shed / self.deliveries if self.shed else 0.0


@dataclass(frozen=True)
class Summary:
    """The counts and latencies of a run, as `summarize` returns them."""

    counts: Counts
    delivery_ms: Latency
    ack_ms: Latency
    confirmed_ms: Latency
    last_ms: Latency  # of messages to groups and chatrooms, until the last recipient has the message


def summarize(run: RunData) -> Summary:
    """Return the counts of all rows, and the latencies (see `LATENCIES`) after the warm-up."""
    found = {name: Latency.of(values) for name, values in latencies(run, LATENCIES)}
    return Summary(counts_of(run), found["delivery"], found["ack"], found["confirmed"], found["last"])


def counts_of(run: RunData) -> Counts:
    """Return the counts of all rows."""
    message, delivery = run.words("messages", "outcome"), run.words("deliveries", "outcome")
    is_received = run.integers("messages", "received_at", NEVER) != NEVER
    return Counts(
        messages=len(message),
        stored=message.count(Outcome.STORED),
        deliveries=len(delivery),
        delivered=delivery.count(DeliveryOutcome.DELIVERED),
        lost=delivery.count(DeliveryOutcome.LOST),
        duplicates=int(run.integers("deliveries", "duplicates").sum()),
        absent=delivery.count(DeliveryOutcome.ABSENT),
        recalled=delivery.count(DeliveryOutcome.RECALLED),
        received_lost=int((is_received & ~message.equal(Outcome.STORED)).sum()),
        shed=delivery.count(DeliveryOutcome.SHED),
    )


@dataclass(frozen=True)
class Waits:
    """The deliveries that have a latency. Times are in ns from the run's start.

    row: the positions in `deliveries`. since: when the device began to wait. delivered_at: NEVER if it never arrived.
    """

    row: NDArray[np.int64]
    intent: NDArray[np.int64]
    intended: NDArray[np.int64]
    since: NDArray[np.int64]
    delivered_at: NDArray[np.int64]

    @classmethod
    def of(cls, run: RunData, since: int | None = None, until: int | None = None) -> Waits:
        """Return the deliveries of messages that were intended after the warm-up and not rejected, to each device of
        each other member. Deliveries that are absent, recalled or shed are left out.

        since, until: bounds of the intended time in ns, instead of the end of the warm-up and the end of the run.
        """
        is_due = run.words("deliveries", "outcome").equal(DeliveryOutcome.DELIVERED, DeliveryOutcome.LOST)
        row = np.flatnonzero(is_due & run.words("deliveries", "role").equal(Role.RECIPIENT))
        intent = run.integers("deliveries", "intent")[row]
        intended = intended_at(run, intent)
        if not (counts := _counts(run, intended, since, until)).all():
            row, intent, intended = row[counts], intent[counts], intended[counts]
        delivered_at = run.integers("deliveries", "delivered_at", NEVER)[row]
        return cls(row, intent, intended, waits_since(run, row, delivered_at, intended), delivered_at)

    @classmethod
    def last(cls, run: RunData, since: int | None = None, until: int | None = None) -> Waits:
        """Return the delivery of each message to a group or a chatroom that arrived last, or one that never arrived.

        Devices that were offline by plan at the intended time do not count. since, until: as for `of`.
        """
        return cls.of(run, since, until).of_last(run)

    def of_last(self, run: RunData) -> Waits:
        """Return the last delivery of each message to a group or a chatroom, as `last` does."""
        to_many = ~run.words("messages", "scene").equal(Scene.P2P)
        counts = np.flatnonzero((self.since == self.intended) & to_many[_rows_of(run, self.intent)])
        order = counts[np.lexsort((self.delivered_at[counts], self.intent[counts]))]
        return self.part(order[np.flatnonzero(np.diff(self.intent[order], append=-1))])

    def part(self, rows: NDArray[np.int64]) -> Waits:
        """Return the deliveries at these positions."""
        columns = self.row, self.intent, self.intended, self.since, self.delivered_at
        return Waits(*(column[rows] for column in columns))

    @property
    def ms(self) -> NDArray[np.float64]:
        """The latencies in ms; inf for messages that never arrived."""
        return _ms_between(self.since, self.delivered_at)


@dataclass(frozen=True)
class Answers:
    """The messages that have a latency until an answer arrived at the sender. Times are in ns from the run's start.

    row: the positions in `messages`. answered_at: NEVER if no answer arrived.
    """

    row: NDArray[np.int64]
    intended: NDArray[np.int64]
    answered_at: NDArray[np.int64]

    @classmethod
    def of(
        cls, run: RunData, *, is_confirmed: bool = False, since: int | None = None, until: int | None = None
    ) -> Answers:
        """Return the messages that `ack_latencies` covers, or those of `confirmed_latencies` if `is_confirmed`.

        since, until: as for `Waits.of`.
        """
        answered_at = run.integers("messages", "acked_at", NEVER)
        if is_confirmed:
            answered_at = np.minimum(answered_at, run.integers("messages", "received_at", NEVER))
        intended = run.integers("messages", "intended_at")
        is_due = _counts(run, intended, since, until) & ~run.words("messages", "outcome").equal(Outcome.REJECTED)
        row = np.flatnonzero(is_due) if run.has_acks else np.empty(0, np.int64)
        intended, answered_at = intended[row], answered_at[row]
        is_left_out = answered_at == NEVER
        is_left_out[is_left_out] = is_excused(run, row[is_left_out], intended[is_left_out])
        return cls(row[~is_left_out], intended[~is_left_out], answered_at[~is_left_out])

    @property
    def ms(self) -> NDArray[np.float64]:
        """The latencies in ms; inf for messages without an answer."""
        return _ms_between(self.intended, self.answered_at)


def counted_deliveries(run: RunData, *, since: int | None = None, until: int | None = None) -> pd.DataFrame:
    """Return the rows of `run.deliveries` that have a latency: those of `Waits`.

    Two more columns are in ns from the run's start: the message's `intended_at`, and `since`, when the device began to
    wait for it. A device that was offline at the intended time waits from its return on.
    """
    waits = Waits.of(run, since, until)
    return run.deliveries.iloc[waits.row].assign(intended_at=waits.intended, since=waits.since)


def intended_at(run: RunData, intent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the intended time in ns of each of these messages."""
    return run.integers("messages", "intended_at")[_rows_of(run, intent)]


def _rows_of(run: RunData, intent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position in `messages` of each of these messages."""
    intents = run.integers("messages", "intent")
    # They ascend, so these are the numbers from 0 on if the first and the last are.
    is_numbered = not len(intents) or (intents[0] == 0 and intents[-1] == len(intents) - 1)
    return intent if is_numbered else np.searchsorted(intents, intent)


def delivery_latencies(
    run: RunData, route: str | None = None, *, since: int | None = None, until: int | None = None
) -> NDArray[np.float64]:
    """Return the latencies of deliveries in ms, ascending; inf for messages that were never shown.

    A latency lasts from the time at which the device began to wait until the device shows the message.

    route: only deliveries by push, or by sync. since, until: as for `Waits.of`.
    """
    waits = Waits.of(run, since, until)
    ms = waits.ms
    return np.sort(ms if route is None else ms[run.words("deliveries", "route").equal(route)[waits.row]])


def last_latencies(run: RunData, *, since: int | None = None, until: int | None = None) -> NDArray[np.float64]:
    """Return the longest latency of each message to a group or a chatroom: until the last recipient has it.

    In ms, ascending; inf if a delivery never arrived. Devices that were offline by plan at the intended time do not
    count. since, until: as for `Waits.of`.
    """
    return np.sort(Waits.last(run, since, until).ms)


def ack_latencies(run: RunData, *, since: int | None = None, until: int | None = None) -> NDArray[np.float64]:
    """Return the times from the intended time to the stored-ack at the sender, in ms, ascending.

    They cover each message that was intended after the warm-up, sent or not; inf if no ack arrived. Rejected messages
    do not count, because they were answered. Neither do messages without an answer that the server is not to blame for,
    for example if the sender was offline at the end. There are no latencies if the server sends no acks.

    since, until: as for `Waits.of`.
    """
    return np.sort(Answers.of(run, since=since, until=until).ms)


def confirmed_latencies(run: RunData, *, since: int | None = None, until: int | None = None) -> NDArray[np.float64]:
    """Return the times from the intended time until the sender sees success, in ms, ascending.

    Success is the stored-ack or, under the policy `after_receive`, the frame `received` if it arrives first. So these
    latencies can be compared across ack policies. Otherwise they are as `ack_latencies`.
    """
    return np.sort(Answers.of(run, is_confirmed=True, since=since, until=until).ms)


def has_early_acks(run: RunData) -> bool:
    """Return whether senders got `received` for messages; if not, `confirmed` equals `ack`."""
    return bool((run.integers("messages", "received_at", NEVER) != NEVER).any())


def has_groups(run: RunData) -> bool:
    """Return whether messages went to groups or chatrooms."""
    return not run.words("messages", "scene").equal(Scene.P2P).all()


#: The kinds of latency by name. `last` has no values if all messages are p2p.
LATENCIES = {
    "delivery": delivery_latencies,
    "last": last_latencies,
    "confirmed": confirmed_latencies,
    "ack": ack_latencies,
}


#: The statistics of latencies.
STATISTIC = re.compile(r"mean|max|p(\d{1,2}(?:\.\d{1,4})?)")


_OF_PART = re.compile(r"([^\[\]]*)\[([^\[\]]*)\]")


def split(metric: str) -> tuple[str, dict[str, str]]:
    """Return the name of a metric, and the part of the run that it is of: `delivery.p99[scene=group]`.

    Raises:
        UsageError: the part is not one. `RunData.where` has the columns.
    """
    match = _OF_PART.fullmatch(metric)
    if match is None:
        return metric, {}
    where = {}
    for text in match[2].split(","):
        column, equals, value = (one.strip() for one in text.partition("="))
        if not equals:
            raise UsageError(f"metric {metric!r}: expected column=value in the brackets, as in [scene=group]")
        where[column] = value
    check_where(where)
    return match[1].strip(), where


def of_part(metric: str, where: Mapping[str, str]) -> str:
    """Return the metric of a part of the run."""
    return metric if not where else f"{metric}[{','.join(f'{name}={value}' for name, value in where.items())}]"


def is_latency(metric: str) -> bool:
    """Return whether this is the name of a latency metric, such as delivery.p99, which is in ms."""
    what, _, statistic = split(metric)[0].partition(".")
    return what in LATENCIES and STATISTIC.fullmatch(statistic) is not None


#: The rows of a summary by name.
ROWS: dict[str, Callable[[RunData], NDArray[np.float64]]] = {
    "delivery": delivery_latencies,
    **{f"delivery_{route}": partial(delivery_latencies, route=route) for route in Route},
    "last": last_latencies,
    "confirmed": confirmed_latencies,
    "ack": ack_latencies,
}


def latencies(run: RunData, names: Iterable[str]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the name and the values of several of `ROWS`. The deliveries are read once for all."""
    waits: Waits | None = None
    for name in names:
        what, _, route = name.partition("_")
        if what not in ("delivery", "last"):
            yield name, ROWS[name](run)
            continue
        waits = Waits.of(run) if waits is None else waits
        ms = waits.of_last(run).ms if what == "last" else waits.ms
        if route:
            ms = ms[run.words("deliveries", "route").equal(route)[waits.row]]
        ms.sort()
        yield name, ms


def rows_of(run: RunData) -> list[str]:
    """Return the names of the rows that a summary of this run has. A server that sends no acks has no row `ack`.

    Push and sync have separate rows if devices go offline by plan, or if each carried at least one delivery in a
    hundred, as after broken connections.
    """
    names = ["delivery"]
    routes = run.words("deliveries", "route")
    fewest = min(routes.count(route) for route in Route)
    if run.scenario.population.sessions is not None or fewest * 100 >= max(len(routes), 1):
        names += [f"delivery_{route}" for route in Route]
    if has_groups(run):
        names.append("last")
    if has_early_acks(run):
        names.append("confirmed")
    return [*names, "ack"] if run.has_acks else names


def percentile(values: NDArray[np.float64], percent: int) -> float | None:
    """Return a percentile of ascending values, or None if it is infinite or there are no values."""
    return _finite(quantile(values, percent)) if len(values) else None


def quantile(values: NDArray[np.float64], percent: int | Fraction) -> float:
    """Return a percentile of one or more ascending values; it may be infinite."""
    rank = ((len(values) + _THIRD) * percent / 100) + _THIRD  # from 1, and exact: 0.07 * 100 is not 7
    below = min(max(math.floor(rank), 1), len(values))
    value = float(values[below - 1])
    if rank <= below or below == len(values):
        return value
    above = float(values[below])
    return value + float(rank - below) * (above - value) if math.isfinite(above) else above


def to_json_dict(run: RunData) -> dict[str, Any]:
    """Return the object that `--json` prints: plain values, None for an undefined statistic."""
    summary = summarize(run)
    counts = summary.counts
    return {
        "run": run.id if run.path is None else str(run.path),
        "world": run.world,
        "server": run.server,
        "valid": run.valid,
        "invalid_because": run.invalid_because,
        "partial": run.partial,
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


def brief(run: RunData) -> dict[str, Any]:
    """Return the numbers that a list of runs shows: plain values, None for an undefined statistic."""
    counts = counts_of(run)
    found = {name: Latency.of(values) for name, values in latencies(run, ("delivery", "ack"))}
    return {
        **{name: getattr(counts, name) for name in ("messages", "deliveries", "delivered", "lost", "duplicates")},
        **{f"{name}_ms": {p: getattr(one, p) for p in ("p50", "p95", "p99")} for name, one in found.items()},
    }


def summary_table(run: RunData) -> pd.DataFrame:
    """Return a row for each kind of latency, in ms, NaN if a statistic is undefined.

    There are rows `delivery` and `ack`; `last` if messages went to groups or chatrooms; `confirmed` if senders got
    `received` before messages were stored; `delivery_push` and `delivery_sync` as in `rows_of`.

    `count` is the number of latencies after the warm-up, `lost` the number of infinite ones. If deliveries were shed,
    `shed` is their number in addition to `count`, and `shed_share` their share of both.
    """
    import pandas as pd

    rows = {}
    for name, values in latencies(run, rows_of(run)):
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
        table.insert(3, "shed_share", table["shed"] / (table["count"] + table["shed"]).clip(lower=1))
    table = table.rename_axis("latency")
    return table.astype(dict.fromkeys(("mean", "p50", "p95", "p99", "max"), float))


def totals(run: RunData) -> str:
    """Return the counts of a run in one line."""
    counts = counts_of(run)
    return (
        f"{counts.messages:,} messages, {counts.deliveries:,} deliveries: {counts.delivered:,} delivered, "
        f"{counts.lost:,} lost, {f'{counts.absent:,} absent, ' if counts.absent else ''}"
        f"{f'{counts.recalled:,} recalled, ' if counts.recalled else ''}"
        f"{f'{counts.shed:,} shed ({counts.shed_share:.1%}), ' if counts.shed else ''}"
        f"{f'{counts.received_lost:,} received and never stored, ' if counts.received_lost else ''}"
        f"{counts.duplicates:,} duplicates"
    )


def run_table(runs: Sequence[RunData]) -> pd.DataFrame:
    """Return a row for each run: counts, then latencies in ms, to the microsecond; NaN if undefined.

    The index has the labels of the runs. The columns `valid` and `partial` exist if a run is invalid or partial. The
    columns `absent`, `recalled`, `shed`, `shed_share` and `received_lost`
    exist if some run has a value other than 0; the columns `last.*` if messages went to groups or chatrooms; the
    columns `confirmed.*` if senders got `received` before messages were stored.
    """
    import pandas as pd

    rows: list[dict[str, float]] = []
    for run in runs:
        summary = summarize(run)
        counts = summary.counts
        row: dict[str, float] = {
            "valid": run.valid,
            "partial": run.partial,
            "messages": counts.messages,
            "delivered": counts.delivered,
            "lost": counts.lost,
            **{name: getattr(counts, name) for name in _APART},
            "duplicates": counts.duplicates,
        }
        row["shed_share"] = round(row["shed_share"], 4)
        for name in LATENCIES:
            for statistic, value in asdict(getattr(summary, f"{name}_ms")).items():
                row[f"{name}.{statistic}"] = math.nan if value is None else round(value, 3)
        rows.append(row)
    table = pd.DataFrame(rows, index=pd.Index(run_labels(runs), name="run"))
    unused = [name for name in _APART if not table[name].any()]
    if not any(run.status for run in runs):
        unused += ["valid", "partial"]
    if not any(map(has_groups, runs)):
        unused += [name for name in rows[0] if name.startswith("last.")]
    if not any(map(has_early_acks, runs)):
        unused += [name for name in rows[0] if name.startswith("confirmed.")]
    return table.drop(columns=unused)


def table_text(table: pd.DataFrame) -> str:
    """Return what `run_table` returns as a text with a column for each run, "-" for an undefined value."""
    cells = table.map(_cell_text)
    text: str = cells.T.rename_axis(columns=None).to_string()
    return text


def _cell_text(value: float | bool) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return "-" if value != value else f"{value:,.10g}"


def _shed_of_recipients(run: RunData) -> int:
    """Return the number of deliveries to recipients that were shed after the warm-up."""
    is_shed = run.words("deliveries", "outcome").equal(DeliveryOutcome.SHED)
    if not is_shed.any():
        return 0
    is_shed &= run.words("deliveries", "role").equal(Role.RECIPIENT)
    intended = intended_at(run, run.integers("deliveries", "intent")[is_shed])
    return int(_counts(run, intended, None, None).sum())


def _counts(run: RunData, meant: NDArray[np.int64], since: int | None, until: int | None) -> NDArray[np.bool_]:
    counts = meant >= (round(run.scenario.warmup * 1e9) if since is None else since)
    return counts if until is None else counts & (meant < until)


def _ms_between(since: NDArray[np.int64], until: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return until - since in ms; inf if `until` is NEVER. The difference is taken between integers."""
    return np.where(until == NEVER, np.inf, (until - since).astype(np.float64) / _NS_PER_MS)


def _finite(value: float) -> float | None:
    """Return the value in ms, rounded to the nanosecond; None for infinity."""
    return round(value, 6) if math.isfinite(value) else None
