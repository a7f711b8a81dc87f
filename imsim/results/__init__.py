"""The results of a run, simulated or live, as tables of rows.

Read the modules in this order: `schema` (the tables), `observer` (turns events into facts during a run), `recorder`
(keeps the facts), `pieces` (the facts, piece by piece), `absences` (devices that were not there), `tables` (turns facts
into rows), `columns` and `digests` (numbers and digests of rows), `files` (rows on disk), `manifest` (where they come
from), `run` (the rows with their manifest and their folder), `folders` (the runs in a folder).
"""

from imsim.results.columns import Words
from imsim.results.digests import digest
from imsim.results.files import RowFiles, write_parts
from imsim.results.observer import Observer
from imsim.results.parts import check_where, part_of
from imsim.results.pieces import SpooledFacts
from imsim.results.recorder import Facts, Kind, Recorder, read_facts
from imsim.results.run import RunData
from imsim.results.schema import DELIVERIES, MESSAGES, NODES, SPANS, WITHDRAWALS, DeliveryOutcome, Outcome, Role, World
from imsim.results.tables import Assembly, Offers, Tables, assemble

__all__ = [
    "DELIVERIES",
    "MESSAGES",
    "NODES",
    "SPANS",
    "WITHDRAWALS",
    "Assembly",
    "DeliveryOutcome",
    "Facts",
    "Kind",
    "Observer",
    "Offers",
    "Outcome",
    "Recorder",
    "Role",
    "RowFiles",
    "RunData",
    "SpooledFacts",
    "Tables",
    "Words",
    "World",
    "assemble",
    "check_where",
    "digest",
    "part_of",
    "read_facts",
    "write_parts",
]
