"""Pictures. Matplotlib is imported with this package, and this package only when a picture is asked for."""

from imsim.analysis.plots.breakdown import breakdown
from imsim.analysis.plots.cdf import cdf, save_cdf
from imsim.analysis.plots.comparison import comparison
from imsim.analysis.plots.figures import save_axes, save_comparison, save_run
from imsim.analysis.plots.nodes import nodes
from imsim.analysis.plots.style import COLORS, GREY, SIZE, log_latency, new_axes, save
from imsim.analysis.plots.timeline import timeline

__all__ = [
    "COLORS",
    "GREY",
    "SIZE",
    "breakdown",
    "cdf",
    "comparison",
    "log_latency",
    "new_axes",
    "nodes",
    "save",
    "save_axes",
    "save_cdf",
    "save_comparison",
    "save_run",
    "timeline",
]
