"""Scenarios for the tests of plans."""

import numpy as np

from imsim.scenario import Plan, Scenario

COLUMNS = ("at", "sender", "device", "conversation", "type", "size")
DTYPES = [np.int64, np.int32, np.int8, np.int32, np.int8, np.int32]
OFFICE = Scenario.load("office")
BUSY = OFFICE.replace({"workload.rate": 3.0, "population.devices": 3})
SOCIAL = {
    "conversations.churn": 0.5,
    "conversations.friend_requests": 0.2,
    "workload.types": {"text": 6, "image": 3, "geo": 1},
    "workload.recalls": 0.1,
    "workload.edits": 0.2,
    "workload.amended_after": {"kind": "exponential", "mean": "500ms"},
}
ROOMS = {"conversations.rooms": 3, "conversations.room_size": 60, "conversations.room_share": 0.2}
MIXED = BUSY.replace({**SOCIAL, **ROOMS})


def same(one: Plan, other: Plan, upto: int | None = None) -> bool:
    return all(np.array_equal(getattr(one, c)[:upto], getattr(other, c)[:upto]) for c in COLUMNS)
