"""What the rows say: latencies, tables and pictures. `Run` is the class that users meet.

Importing this imports neither pandas nor matplotlib; they come when first used.
"""

from imsim.analysis.latency import Counts, Latency, Summary, compare_table, summarize
from imsim.analysis.run import Run, make_run, open_run

__all__ = [
    "Counts",
    "Latency",
    "Run",
    "Summary",
    "compare_table",
    "make_run",
    "open_run",
    "summarize",
]
