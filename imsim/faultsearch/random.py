"""Random draws for plans, on top of one stream of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar
from zlib import crc32

from imsim.scenario import Stream

T = TypeVar("T")


#: Names that changed after streams had been derived from them. A stream keeps its first name, so that a seed keeps its
#: run, and a regression test keeps its case.
_FIRST_NAMES = {"op=state ": "op=placed ", "op=save_state ": "op=save_place "}
_NODE = re.compile(r"\b(gateway|router)(\d+)(  )?")  # with the padding of its column, which must keep its width


def stream_number(name: str) -> int:
    """Return the number of the stream with this name."""
    for now, first in _FIRST_NAMES.items():
        name = name.replace(now, first)
    return crc32(_NODE.sub(_first_name_of_node, name).encode())


def _first_name_of_node(found: re.Match[str]) -> str:
    tier, index, padding = found.groups()
    return tier[0] + index + (padding + " " * (len(tier) - 1) if padding else "")


class Random:
    """A source of random values. They depend on the stream alone: neither on Python's version nor on PYTHONHASHSEED."""

    __slots__ = ("_next",)

    def __init__(self, stream: Stream) -> None:
        self._next = stream.next

    def chance(self, probability: float) -> bool:
        return self._next() < probability

    def between(self, low: float, high: float) -> float:
        """Return a uniform number, rounded to a millionth, so that a printed value is exactly the drawn one."""
        return round(low + (high - low) * self._next(), 6)

    def around(self, low: float, high: float) -> float:
        """Return a log-uniform number: as often between 1 and 10 as between 10 and 100."""
        return round(float(low * (high / low) ** self._next()), 6)

    def whole(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return low + int(self._next() * (high - low + 1))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self._next() * len(choices))]

    def some(self, choices: Sequence[T], number: int) -> list[T]:
        """Return `number` different choices (all, if there are fewer), in their order."""
        chosen: set[int] = set()
        while len(chosen) < min(number, len(choices)):
            chosen.add(int(self._next() * len(choices)))
        return [choices[index] for index in sorted(chosen)]
