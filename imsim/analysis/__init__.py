"""Numbers from rows: latencies, tables and pictures. `Run` is the public class.

Importing this package loads neither pandas nor matplotlib nor scipy. They are loaded when they are first used.
"""

from imsim.analysis.budgets import Budget
from imsim.analysis.cost import Cost
from imsim.analysis.intervals import Estimate
from imsim.analysis.latency import Counts, Latency, Summary, run_table, summarize
from imsim.analysis.metrics import Measures, Metrics, default_metrics
from imsim.analysis.run import Run, make_run, plot_cdf, read_run, save_cdf
from imsim.analysis.run_length import few_notes

__all__ = [
    "Budget",
    "Cost",
    "Counts",
    "Estimate",
    "Latency",
    "Measures",
    "Metrics",
    "Run",
    "Summary",
    "default_metrics",
    "few_notes",
    "make_run",
    "plot_cdf",
    "read_run",
    "run_table",
    "save_cdf",
    "summarize",
]
