"""Pictures of frames and plain values. This package imports matplotlib; it is imported when a picture is drawn."""

from imsim.analysis.plots.breakdown import breakdown
from imsim.analysis.plots.capacity import capacity
from imsim.analysis.plots.cdf import STYLES, cdf
from imsim.analysis.plots.comparison import comparison
from imsim.analysis.plots.curves import Curve, courses, percentiles, shares, tail
from imsim.analysis.plots.designs import tradeoff, trend
from imsim.analysis.plots.figures import save, save_pair, save_rows, save_side_by_side
from imsim.analysis.plots.live_capacity import live_capacity
from imsim.analysis.plots.nodes import nodes
from imsim.analysis.plots.replications import replications
from imsim.analysis.plots.style import COLORS, SIZE
from imsim.analysis.plots.timeline import timeline

__all__ = [
    "COLORS",
    "SIZE",
    "STYLES",
    "Curve",
    "breakdown",
    "capacity",
    "cdf",
    "comparison",
    "courses",
    "live_capacity",
    "nodes",
    "percentiles",
    "replications",
    "save",
    "save_pair",
    "save_rows",
    "save_side_by_side",
    "shares",
    "tail",
    "timeline",
    "tradeoff",
    "trend",
]
