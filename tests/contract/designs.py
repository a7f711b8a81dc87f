"""The designs that the contract suite runs under: policies that must not be seen from outside, so that each behaviour
holds under any of these. Together they have every value of every choice."""

from __future__ import annotations

DESIGNS = {
    "push": {},
    "notify": {
        "ack": "after_receive",
        "sessions": "one_per_kind",
        "fanout": "write",
        "delivery": "notify",
        "receipts": "delivered",
        "presence": "friends",
    },
    "friends": {"strangers": "refuse"},  # all users are friends, unless a test has a policy of its own
    "single": {"sessions": "single"},
}

#: In which worlds, if not in all of them: what these policies decide is decided in the core, the same for all.
WORLDS_OF = {"friends": ["wired"], "single": ["wired"]}
