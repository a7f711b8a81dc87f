"""Where the time of deliveries went and how busy the nodes were, for runs that recorded spans (`spans=True`)."""

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
_SAME = 1.0  # ms: a retry whose length differs from the timeout by less than this was caused by the timeout


def breakdown(run: RunData, by: str = "where") -> pd.DataFrame:
    """Return where the time of the deliveries to recipients went, after the warm-up.

    The frame has a row for each kind and place of spans, ordered by the mean. Its columns are `mean`, `p50`, `p99` and
    `max` in ms, and `share`, the part of the total time. They cover all deliveries; a delivery without such a span
    counts with 0. The means add up to the mean latency of the delivered messages in `summary()`. Percentiles do not add
    up.

    The time of a device that was offline by plan begins with its return, as in `summary()`. The rest of a span
    `offline` is called `left` if the device left by plan while the message was on its way, and else `disconnected`.

    Args:
        run: a simulated run with spans.
        by: "where" (tiers and links), "node" (single nodes), "op" (tiers, by operation) or "policy" (the field of the
            scenario that sets the length of a wait, see `policy_of`).

    Raises:
        UsageError: the run recorded no spans, or `by` has another value.
    """
    import pandas as pd

    if by not in _BY:
        raise UsageError(f"by: expected one of {', '.join(map(repr, _BY))} (got {by!r})")
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
    """Return the mean time of each stage of a delivery, in ms, for three groups of deliveries to recipients.

    The groups are `all` deliveries after the warm-up, the `middle_half` by latency (a quarter on either side of the
    median) and the `slowest_hundredth`.

    Raises: UsageError if the run recorded no spans.
    """
    import pandas as pd

    spans, count = counted_spans(run)
    table = spans["ms"].groupby([spans["delivery"], stage_of(spans)], observed=True).sum().unstack(fill_value=0)
    order = table.sum(axis=1).sort_values().index
    groups = {
        "all": order,
        "middle_half": order[count // 4 : max(count - count // 4, count // 4 + 1)],
        "slowest_hundredth": order[-max(count // 100, 1) :],
    }
    return pd.DataFrame({name: table.loc[members].mean() for name, members in groups.items()}).T


def policy_of(run: RunData, spans: pd.DataFrame) -> pd.Series[str]:
    """Return the field of the scenario that sets the length of each wait; "" for links and nodes.

    - `policies.send_timeout`: the sender got no answer for this long, and sent the message again. The timeouts of the
      next attempts, which grow with `send_backoff`, count as well.
    - `policies.reconnect_min`: a busy server refused the message, or a device had no connection. Each failed attempt
      doubles the backoff, up to `reconnect_max`; so a long wait depends on that field. A message that a new connection
      resends before `send_timeout` is over also waited for the connection.
    - `policies.push_timeout`: the gateway pushed the message again.
    - `policies.gap_wait`: the device held the message back because an earlier one was missing.

    spans: as `counted_spans` returns them.
    """
    import pandas as pd

    policies = run.scenario.core_policies()
    timeouts = {policies.timeout_of(attempt) * 1000 for attempt in range(1, min(policies.send_attempts, 32) + 1)}
    kind, is_at_client = spans["kind"], spans["where"] == "client"
    is_retry = kind == "retry"
    length = (spans["end"] - spans["began"]) / 1e6
    is_repeat = sum(((length - timeout).abs() < _SAME for timeout in timeouts), pd.Series(False, index=spans.index))
    is_timeout = is_retry & is_at_client & is_repeat.astype(bool)
    found = pd.Series("", index=spans.index, dtype=object)
    found[kind == "disconnected"] = "policies.reconnect_min"
    found[is_retry & is_at_client] = "policies.reconnect_min"
    found[is_timeout] = "policies.send_timeout"
    found[is_retry & ~is_at_client] = "policies.push_timeout"
    found[(kind == "hold") & is_at_client & (spans["op"] == "gap")] = "policies.gap_wait"
    return found


def stage_of(spans: pd.DataFrame) -> pd.Series[str]:
    """Return the stage of each span: the name of its kind or tier, or `backend` for links between servers."""
    tier, kind = tier_of(spans["where"]), spans["kind"]
    stage = kind.where(~kind.isin(["queue", "service"]), tier + " " + kind)
    is_client = tier.isin(["uplink", "downlink"])
    is_link = kind == "link"
    is_backend = kind.isin(["link", "link_queue"]) & ~is_client
    found: pd.Series[str] = stage.where(~is_link, tier).where(~is_backend, "backend")
    return found


def utilisation(run: RunData) -> pd.DataFrame:
    """Return how busy each node was: a row for each.

    `busy` is the share of the workers' time between the end of the warm-up and `duration`, the window of the latencies.
    `waited_seconds` is the total time that operations which arrived in this window waited for a worker. `jobs` and
    `drops` count the accepted and the dropped jobs of the whole run, drain included. If spans were recorded,
    `queue` is the mean number of waiting jobs over the window, and `peak` is `busy` in the busiest hundredth of the
    run.

    Raises: UsageError for a live run, which has no data about nodes.
    """
    import pandas as pd

    if "utilisation" not in run.manifest:
        raise UsageError(f"run {run.id} has no data about nodes: only simulated runs have them")
    table = pd.DataFrame.from_dict(run.manifest["utilisation"], orient="index").rename_axis("node")
    table = table.astype({"jobs": int, "drops": int}).rename(columns={"waited": "waited_seconds"})
    table.insert(0, "tier", table.index.str.rstrip("0123456789"))
    if run.has("nodes"):
        table["peak"] = run.nodes.groupby("node")["busy"].max()
    return table


def tier_utilisation(run: RunData, tier: str) -> float:
    """Return the utilisation of the busiest node of a tier, 0 to 1; nan for a live run.

    The window is that of `utilisation`. The busiest node limits its tier, because its work cannot move to another node.
    """
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
    """Return the parts of spans that belong to a latency, and the number of deliveries.

    The frame has three more columns: `delivery` (its number), `ms`, and `began`, the start of the whole span.
    """
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
    """Return the kinds of the spans; `offline`, of a sender or a recipient, becomes `left` or `disconnected`."""
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
    """Return the tier or link of each place: `gateway` for gateway1."""
    return where.str.rstrip("0123456789")
