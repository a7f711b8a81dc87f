"""The results of a run, simulated or live, as tables of rows.

Read the modules in this order: `schema` (the tables), `observer` (turns events into facts during a run), `recorder`
(keeps the facts), `tables` (turns facts into rows), `run` (the rows with their manifest and their folder).
"""

from imsim.results.observer import Observer
from imsim.results.recorder import Facts, Kind, Recorder, read_facts
from imsim.results.run import RunData
from imsim.results.schema import DELIVERIES, MESSAGES, NODES, SPANS, DeliveryOutcome, Outcome, Role, World
from imsim.results.tables import Tables, assemble, digest

__all__ = [
    "DELIVERIES",
    "MESSAGES",
    "NODES",
    "SPANS",
    "DeliveryOutcome",
    "Facts",
    "Kind",
    "Observer",
    "Outcome",
    "Recorder",
    "Role",
    "RunData",
    "Tables",
    "World",
    "assemble",
    "digest",
    "read_facts",
]
