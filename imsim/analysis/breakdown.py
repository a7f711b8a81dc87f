"""Where the time of deliveries went, and how busy the nodes were: of runs that recorded it (`spans=True`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from imsim.analysis.availability import had_left
from imsim.analysis.latency import counted_deliveries, quantile
from imsim.core.exceptions import UsageError
from imsim.results import RunData

if TYPE_CHECKING:
    import pandas as pd


_BY = ("where", "node", "op", "policy")
_SAME = 1.0  # ms: a retry of this length more or less is the timeout's


def breakdown(run: RunData, by: str = "where") -> pd.DataFrame:
    """Where the time of the deliveries to recipients went, after the warm-up: one row for each kind and node of
    spans.

    `by`: "where" (tiers and links), "node" (each node by itself), "op" (tiers, by operation) or "policy" (the field of
    the scenario that sets the length of a wait, see `policy_of`). Columns: `mean`, `p50`, `p99` and `max` in ms over
    all these deliveries, those that had none of it included; `share` of all their time. The means add up to the mean
    latency of `summary()` (of what was delivered); percentiles do not add up. Ordered by the mean.

    As there, the time of a device that was offline by plan begins with its return. What is left of the spans' `offline`
    is split: `left`, if the device left by plan with the message on its way, and `disconnected`.

    Raises: UsageError if the run recorded no spans; ValueError for another `by`.
    """
    import pandas as pd

    if by not in _BY:
        raise ValueError(f"by: expected one of {', '.join(map(repr, _BY))}, got {by!r}")
    spans, count = counted_spans(run)
    where = spans["where"] if by == "node" else tier_of(spans["where"])
    keys = {"kind": spans["kind"], "where": where, **({"op": spans["op"]} if by == "op" else {})}
    if by == "policy":
        keys = {"kind": spans["kind"], "policy": policy_of(run, spans)}
    sums = spans["ms"].groupby([spans["delivery"], *keys.values()], observed=True).sum()
    rows: dict[Any, dict[str, float]] = {}
    for key, values in sums.groupby(level=list(range(1, len(keys) + 1)), observed=True):
        ms = np.zeros(count)
        ms[: len(values)] = values.to_numpy()
        ms.sort()
        p50, p99 = (quantile(ms, percent) for percent in (50, 99))
        rows[key] = {"mean": ms.mean(), "p50": p50, "p99": p99, "max": ms[-1]}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "p50", "p99", "max"], dtype=float)
    table.index = pd.MultiIndex.from_tuples(list(rows), names=list(keys)) if rows else table.index
    table["share"] = table["mean"] / table["mean"].sum()
    return table.sort_values("mean", ascending=False)


def stages(run: RunData) -> pd.DataFrame:
    """Where the time of the deliveries went by the stages of their way, in ms on average: of all deliveries to
    recipients after the warm-up, of the half in the middle (a quarter on either side of the median) and of the slowest
    hundredth, by the latency that is reported.

    Raises: UsageError if the run recorded no spans.
    """
    import pandas as pd

    spans, count = counted_spans(run)
    table = spans["ms"].groupby([spans["delivery"], stage_of(spans)], observed=True).sum().unstack(fill_value=0)
    order = table.sum(axis=1).sort_values().index
    groups = {
        "all": order,
        "middle half": order[count // 4 : max(count - count // 4, count // 4 + 1)],
        "slowest 1 %": order[-max(count // 100, 1) :],
    }
    return pd.DataFrame({name: table.loc[members].mean() for name, members in groups.items()}).T


def policy_of(run: RunData, spans: pd.DataFrame) -> pd.Series[str]:
    """The field of the scenario that sets how long each wait lasts, empty where none does (links and nodes):

    - `policies.send_timeout`: the sender had no answer for so long, and sent the message again.
    - `policies.reconnect_min`: a device was without a connection. Each failed try doubles the back-off up to
      `reconnect_max`, so a long wait is that field's. A message that a new connection sends again before `send_timeout`
      is over waited for the connection, too.
    - `policies.push_timeout`: the gateway pushed it again.
    - `policies.gap_wait`: the device held it back because one before it was missing.

    spans: of `counted_spans`.
    """
    import pandas as pd

    timeout = run.scenario.policies.send_timeout * 1000
    kind, is_at_client = spans["kind"], spans["where"] == "client"
    is_retry = kind == "retry"
    length = (spans["end"] - spans["began"]) / 1e6
    is_timeout = is_retry & is_at_client & ((length - timeout).abs() < _SAME)
    found = pd.Series("", index=spans.index, dtype=object)
    found[kind == "disconnected"] = "policies.reconnect_min"
    found[is_retry & is_at_client] = "policies.reconnect_min"
    found[is_timeout] = "policies.send_timeout"
    found[is_retry & ~is_at_client] = "policies.push_timeout"
    found[(kind == "hold") & is_at_client & (spans["op"] == "gap")] = "policies.gap_wait"
    return found


def stage_of(spans: pd.DataFrame) -> pd.Series[str]:
    """The stage that a span belongs to: what its kind or its tier is called, and `backend` for the links between
    servers."""
    tier, kind = tier_of(spans["where"]), spans["kind"]
    stage = kind.where(~kind.isin(["queue", "service"]), tier + " " + kind)
    is_client = tier.isin(["uplink", "downlink"])
    is_link = kind == "link"
    is_backend = kind.isin(["link", "link_queue"]) & ~is_client
    found: pd.Series[str] = stage.where(~is_link, tier).where(~is_backend, "backend")
    return found


def utilisation(run: RunData) -> pd.DataFrame:
    """How busy each node was: `busy`, the share of its workers' time between the end of the warm-up and `duration`, the
    window of the latencies. `waited`: the seconds that operations which came in that window waited for a worker, all
    together. `jobs` and `drops`, how many it took on and dropped, are counts, and so of the whole run,
    drain included. Where spans were recorded, also `queue` (jobs that waited, on average over that window) and `peak`
    (the busiest hundredth of the run).

    Raises: UsageError for a run without figures of its nodes (a live one).
    """
    import pandas as pd

    if "utilisation" not in run.manifest:
        raise UsageError(f"run {run.id} tells nothing of its nodes: only simulated runs do")
    table = pd.DataFrame.from_dict(run.manifest["utilisation"], orient="index").rename_axis("node")
    table = table.astype({"jobs": int, "drops": int})
    table.insert(0, "tier", table.index.str.rstrip("0123456789"))
    if run.tables.nodes is not None:
        table["peak"] = run.nodes.groupby("node")["busy"].max()
    return table


def tier_utilisation(run: RunData, tier: str) -> float:
    """How busy the busiest node of a tier was, in the same window, from 0 to 1; nan of a live run. A tier gives way as
    soon as one of its nodes does: what belongs to that node cannot go to another."""
    nodes = run.manifest.get("utilisation", {})
    return max((of["busy"] for node, of in nodes.items() if node.rstrip("0123456789") == tier), default=math.nan)


def tier_wait(run: RunData, tier: str) -> float:
    """Return how long the operations of a message waited for workers of a tier, all together: ms, on average over the
    messages that were intended in the window of `utilisation`; nan of a live run and if there were no messages."""
    waits = [
        node["waited"]
        for name, node in run.manifest.get("utilisation", {}).items()
        if name.rstrip("0123456789") == tier and "waited" in node
    ]
    count = int((run.messages["intended_at"] >= round(run.scenario.warmup * 1e9)).sum())
    return 1000 * float(sum(waits)) / count if waits and count else math.nan


def counted_spans(run: RunData) -> tuple[pd.DataFrame, int]:
    """The spans that count, as far as they are in the latency, with `delivery` (its number), `ms`, and `began` (the
    start of what is not in it, too); and how many deliveries there are."""
    spans = run.spans
    rows = counted_deliveries(run)
    rows = rows[rows["delivered_at"].notna()][["intent", "recipient", "device", "since"]].reset_index(drop=True)
    rows["delivery"] = np.arange(len(rows))
    counted = spans.merge(rows, on=["intent", "recipient", "device"])
    counted["began"] = counted["start"]
    counted["start"] = counted[["start", "since"]].max(axis=1)
    counted = counted[counted["start"] < counted["end"]].reset_index(drop=True)
    counted["ms"] = (counted["end"] - counted["start"]).astype(float) / 1e6
    counted["kind"] = _kinds(run, counted)
    return counted, len(rows)


def _kinds(run: RunData, spans: pd.DataFrame) -> pd.Series[str]:
    """The kinds, of which `offline` becomes `left` or `disconnected`. It is the sender that was offline, or the
    recipient."""
    senders = spans[["intent"]].merge(run.messages[["intent", "sender", "device"]], on="intent")
    is_sender = spans["op"] == "send"
    users = spans["recipient"].where(~is_sender, senders["sender"])
    devices = spans["device"].where(~is_sender, senders["device"])
    is_offline = spans["kind"] == "offline"
    left = np.zeros(len(spans), bool)
    left[is_offline] = had_left(
        run,
        users[is_offline],
        devices[is_offline],
        *(spans.loc[is_offline, name].to_numpy(np.int64) for name in ("start", "end")),
    )
    kinds: pd.Series[str] = spans["kind"].mask(is_offline & left, "left").mask(is_offline & ~left, "disconnected")
    return kinds


def tier_of(where: pd.Series[str]) -> pd.Series[str]:
    return where.str.rstrip("0123456789")
