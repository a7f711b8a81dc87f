"""What the rows say: latencies, tables and pictures. `Run` is the class that users meet.

Importing this imports neither pandas nor matplotlib nor scipy; they come when first used.
"""

from imsim.analysis.budgets import Budget
from imsim.analysis.capacity import Capacity
from imsim.analysis.comparison import Comparison, Difference
from imsim.analysis.cost import Cost
from imsim.analysis.intervals import Estimate
from imsim.analysis.latency import Counts, Latency, Summary, compare_table, summarize
from imsim.analysis.metrics import Measures, Metrics, default_metrics
from imsim.analysis.replications import Replications, Sample
from imsim.analysis.run import Run, make_run, open_run
from imsim.analysis.run_length import few_notes
from imsim.analysis.sweep import Sweep

__all__ = [
    "Budget",
    "Capacity",
    "Comparison",
    "Cost",
    "Counts",
    "Difference",
    "Estimate",
    "Latency",
    "Measures",
    "Metrics",
    "Replications",
    "Run",
    "Sample",
    "Summary",
    "Sweep",
    "compare_table",
    "default_metrics",
    "few_notes",
    "make_run",
    "open_run",
    "summarize",
]
