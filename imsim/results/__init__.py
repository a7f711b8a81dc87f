"""Rows: what a run leaves behind, whichever world it ran in.

Read in this order: `schema` (the tables), `observer` (events become facts while a world runs), `recorder` (which keeps
the facts), `tables` (facts become rows), `run` (rows with their manifest, and the folder that holds them).
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
