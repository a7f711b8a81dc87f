"""The designs that the contract suite runs under.

A design is a set of policies. Every behaviour of the contract must hold under each design. Together the designs contain
every value of every policy.
"""

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
    "friends": {"strangers": "refuse"},  # all users are friends, unless a test sets this policy itself
    "single": {"sessions": "single"},
}

#: The worlds of a design, if not all. These policies take effect only in the core, which is the same in all worlds.
WORLDS_OF = {"friends": ["wired"], "single": ["wired"]}
