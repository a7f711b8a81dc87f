"""Where the time of deliveries went, and how busy the nodes were: of runs that recorded it (`spans=True`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from imsim.analysis.away import had_left
from imsim.analysis.latency import counted_deliveries, quantile
from imsim.results import RunData

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: In the order in which a message meets them; links by where they are, the other kinds by themselves.
_STAGES = (
    ("left", "its device had left, by plan", "#CFCFCF"),
    ("disconnected", "not connected", "#8C8C8C"),
    ("retry", "sent or pushed again", "#000000"),
    ("uplink", "client link up", "#56B4E9"),
    ("link_queue", "behind other frames on a client link", "#2F4B7C"),
    ("retransmit", "lost on a link, and sent again", "#B10026"),
    ("gateway queue", "gateway: queue", "#E69F00"),
    ("gateway service", "gateway: service", "#F0C75E"),
    ("backend", "links between servers", "#CC79A7"),
    ("router queue", "router: queue", "#009E73"),
    ("router service", "router: service", "#7CCBB0"),
    ("storage queue", "storage: queue", "#D55E00"),
    ("storage service", "storage: service", "#F0996B"),
    ("commit", "storage: commit", "#A04600"),
    ("hold", "held: a turn, a stall, a gap", "#6A4C93"),
    ("downlink", "client link down", "#0072B2"),
)


_LEAST = 0.004  # of a bar: what is shorter than that in all of them is no part of its own


def breakdown(run: RunData, by: str = "where") -> pd.DataFrame:
    """Where the time of the deliveries to recipients went, after the warm-up: one row for each kind of span and place.

    `by`: "where" (tiers and links), "node" (each node by itself) or "op" (tiers, by operation). Columns: `mean`, `p50`,
    `p99` and `max` in ms over all these deliveries, those that had none of it included; `share` of all their time. The
    means add up to the mean latency of `summary()` (of what was delivered); percentiles do not add up. Ordered by the
    mean.

    As there, the time of a device that was away by plan begins with its return. What is left of the spans' `offline`
    is told apart: `left`, if the device left by plan with the message on its way, and `disconnected`.

    Raises: UsageError if the run recorded no spans; ValueError for another `by`.
    """
    import pandas as pd

    if by not in ("where", "node", "op"):
        raise ValueError(f"by: expected 'where', 'node' or 'op', got {by!r}")
    spans, count = _counted(run)
    where = spans["where"] if by == "node" else _tier(spans["where"])
    keys = {"kind": spans["kind"], "where": where, **({"op": spans["op"]} if by == "op" else {})}
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


def utilisation(run: RunData) -> pd.DataFrame:
    """How busy each node was: `busy`, the share of its workers' time. That is from the first login to the end of the
    drain; where spans were recorded, from time 0, and with `peak` (of the busiest bucket), `queue` (jobs that waited,
    on average), `jobs` and `drops`.

    Raises: UsageError for a run that tells nothing of its nodes (a live one, say).
    """
    if run.tables.nodes is None and "busy" in run.manifest:
        import pandas as pd

        busy = run.manifest["busy"]
        tiers = [node.rstrip("0123456789") for node in busy]
        return pd.DataFrame({"tier": tiers, "busy": busy.values()}, index=pd.Index(busy, name="node"))
    nodes = run.nodes
    grouped = nodes.groupby(["tier", "node"], sort=True)
    table = grouped.agg(
        busy=("busy", "mean"),
        peak=("busy", "max"),
        queue=("queue", "mean"),
        jobs=("jobs", "sum"),
        drops=("drops", "sum"),
    )
    return table.reset_index("tier")


def plot_breakdown(run: RunData, ax: Axes | None = None) -> Axes:
    """Stacked bars of where the time went: of all deliveries to recipients after the warm-up, of the half in the middle
    (a quarter on either side of the median) and of the slowest hundredth."""
    spans, count = _counted(run)
    stages = _stage(spans)
    table = spans["ms"].groupby([spans["delivery"], stages], observed=True).sum().unstack(fill_value=0)
    total = table.sum(axis=1).sort_values()
    slowest = total.index[-max(count // 100, 1) :]
    middle = total.index[count // 4 : max(count - count // 4, count // 4 + 1)]
    bars = dict(zip(("all", "middle half", "slowest 1 %"), (total.index, middle, slowest), strict=True))
    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
    place = {name: number for number, name in enumerate(reversed(list(bars)))}
    means = {name: table.loc[members].mean() for name, members in bars.items()}
    totals = {name: float(mean.sum()) for name, mean in means.items()}
    shares = {name: mean / max(totals[name], 1e-12) for name, mean in means.items()}
    left = dict.fromkeys(bars, 0.0)
    for stage, label, color in _STAGES:
        widths = [float(shares[name].get(stage, 0.0)) for name in bars]
        if max(widths) >= _LEAST:
            ax.barh(list(place.values())[::-1], widths, left=list(left.values()), color=color, label=label, height=0.62)
            left = {name: left[name] + width for name, width in zip(bars, widths, strict=True)}
    rest = [1 - width for width in left.values()]
    if max(rest) > 1e-9:
        heights = list(place.values())[::-1]
        ax.barh(heights, rest, left=list(left.values()), color="#eeeeee", label="the rest", height=0.62)
    for name, number in place.items():
        ax.text(1.01, number, _ms(totals[name]), va="center", fontsize=9, color="#555555")
    ax.set_yticks(list(place.values()), labels=list(place))
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_xlabel("share of the time since the intended time; at the right, its mean")
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_title(f"Where the time of a delivery goes, {run.scenario.name}, seed {run.seed}", loc="left", fontsize=11)
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=3, frameon=False, fontsize=9, columnspacing=1.5)
    return ax


def plot_nodes(run: RunData, ax: Axes | None = None) -> Axes:
    """How busy the nodes were over time: a line for each node, a colour for each tier; dots where a queue of one job or
    more stood, on average. Faults of the scenario are shaded."""
    nodes = run.nodes
    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
    colors = {"gateway": "#E69F00", "router": "#009E73", "storage": "#D55E00"}
    for tier, of_tier in nodes.groupby("tier", sort=True):
        label: str | None = str(tier)
        for _, series in of_tier.groupby("node", sort=True):
            seconds, busy = series["at"].to_numpy(float) / 1e9, series["busy"].to_numpy(float)
            ax.plot(
                seconds, busy, color=colors[str(tier)], linewidth=1.2, alpha=0.8, label=label, drawstyle="steps-post"
            )
            waits = series["queue"].to_numpy(float) >= 1
            ax.plot(seconds[waits], busy[waits], "o", color=colors[str(tier)], markersize=3)
            label = None
    for fault in run.scenario.faults:
        ax.axvspan(fault.at, fault.at + getattr(fault, "duration", 0.05), color="#bbbbbb", alpha=0.35, linewidth=0)
        ax.annotate(
            fault.kind.replace("_", " "),
            (fault.at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, -10),
            textcoords="offset points",
            fontsize=8,
            color="#555555",
        )
    ax.axvline(run.scenario.duration, color="#555555", linewidth=0.8, linestyle=":")
    ax.set_xlim(left=0)
    ax.set_ylim(0, max(1.02, float(nodes["busy"].max()) * 1.05) if float(nodes["busy"].max()) > 0.5 else None)
    ax.set_xlabel("seconds (dotted: nobody sends any more)")
    ax.set_ylabel("share of the workers busy")
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(f"How busy the nodes are, {run.scenario.name}, seed {run.seed}", loc="left", fontsize=11)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False, fontsize=9)
    return ax


def _counted(run: RunData) -> tuple[pd.DataFrame, int]:
    """The spans that count, as far as they are in the latency, with `delivery` (its number) and `ms`; and how many
    deliveries there are."""
    spans = run.spans
    rows = counted_deliveries(run)
    rows = rows[rows["delivered_at"].notna()][["intent", "recipient", "device", "since"]].reset_index(drop=True)
    rows["delivery"] = np.arange(len(rows))
    counted = spans.merge(rows, on=["intent", "recipient", "device"])
    counted["start"] = counted[["start", "since"]].max(axis=1)
    counted = counted[counted["start"] < counted["end"]].reset_index(drop=True)
    counted["ms"] = (counted["end"] - counted["start"]).astype(float) / 1e6
    counted["kind"] = _told_apart(run, counted)
    return counted, len(rows)


def _told_apart(run: RunData, spans: pd.DataFrame) -> pd.Series[str]:
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
    told: pd.Series[str] = spans["kind"].mask(is_offline & left, "left").mask(is_offline & ~left, "disconnected")
    return told


def _tier(where: pd.Series[str]) -> pd.Series[str]:
    return where.str.rstrip("0123456789")


def _stage(spans: pd.DataFrame) -> pd.Series[str]:
    """Which of the picture's parts a span belongs to."""
    tier, kind = _tier(spans["where"]), spans["kind"]
    stage = kind.where(~kind.isin(["queue", "service"]), tier + " " + kind)
    is_client = tier.isin(["uplink", "downlink"])
    is_link = kind == "link"
    is_backend = kind.isin(["link", "link_queue"]) & ~is_client
    found: pd.Series[str] = stage.where(~is_link, tier).where(~is_backend, "backend")
    return found


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"
