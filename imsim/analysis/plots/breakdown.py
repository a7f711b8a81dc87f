"""Where the time of deliveries goes, as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from imsim.analysis.breakdown import counted_spans, tier_of
from imsim.analysis.plots.style import legend_below, ms, new_axes
from imsim.results import RunData

if TYPE_CHECKING:
    import pandas as pd

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


def breakdown(run: RunData, ax: Axes | None = None) -> Axes:
    """Stacked bars of where the time went: of all deliveries to recipients after the warm-up, of the half in the middle
    (a quarter on either side of the median) and of the slowest hundredth, by the latency that is reported.

    Raises: UsageError if the run recorded no spans.
    """
    spans, count = counted_spans(run)
    table = spans["ms"].groupby([spans["delivery"], _stage(spans)], observed=True).sum().unstack(fill_value=0)
    total = table.sum(axis=1).sort_values()
    slowest = total.index[-max(count // 100, 1) :]
    middle = total.index[count // 4 : max(count - count // 4, count // 4 + 1)]
    bars = dict(zip(("all", "middle half", "slowest 1 %"), (total.index, middle, slowest), strict=True))
    ax = new_axes() if ax is None else ax
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
        ax.text(1.01, number, ms(totals[name]), va="center", fontsize=9, color="#555555")
    ax.set_yticks(list(place.values()), labels=list(place))
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_xlabel("share of the latency; at the right, its mean")
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_title(f"Where the time of a delivery goes, {run.scenario.name}, seed {run.seed}", loc="left", fontsize=11)
    legend_below(ax, gap=0.16)
    return ax


def _stage(spans: pd.DataFrame) -> pd.Series[str]:
    """Which of the picture's parts a span belongs to."""
    tier, kind = tier_of(spans["where"]), spans["kind"]
    stage = kind.where(~kind.isin(["queue", "service"]), tier + " " + kind)
    is_client = tier.isin(["uplink", "downlink"])
    is_link = kind == "link"
    is_backend = kind.isin(["link", "link_queue"]) & ~is_client
    found: pd.Series[str] = stage.where(~is_link, tier).where(~is_backend, "backend")
    return found
