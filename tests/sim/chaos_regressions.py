"""Seeds that once broke something, as data: what has been mended, and what the core still has to mend."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from imsim.sim.chaos import case, world

#: seed -> what it once broke
REGRESSIONS: dict[int, str] = {
    188: "the search itself: a sender that gave up waits behind its own gap",
    289: "the search itself: heartbeats were taken for unrest",
}


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug of the core. `lets_happen`: what the search leaves out because of it, as (module, name, value)."""

    name: str
    seed: int
    text: str
    lets_happen: tuple[tuple[ModuleType, str, Any], ...]


OPEN: tuple[Bug, ...] = (
    Bug(
        "conflict taken for success",
        9,
        "A client takes any message of its user with the idClient of a send of its own for that send's success, "
        "whatever it says.",
        ((case, "CONFLICTS", 0.5),),
    ),
    Bug(
        "own message missing after a second login",
        905,
        "A message is pushed to no session of the device that sent it, not even to a later one, that lacks it.",
        ((world, "DEVICE_IS_ORIGIN", False),),
    ),
)
