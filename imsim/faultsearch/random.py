"""Drawing plans: words for chance on top of one stream of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar
from zlib import crc32

from imsim.scenario import Stream

T = TypeVar("T")


#: Names that changed after streams had been named after them. A stream keeps its first name, so that a seed stays the
#: same run, and a case that is kept as a regression test stays that case.
_FIRST_NAMES = {"op=state ": "op=placed ", "op=save_state ": "op=save_place "}
_NODE = re.compile(r"\b(gateway|router)(\d+)(  )?")  # with what pads it to its column in a line, which stays as wide


def stream_number(name: str) -> int:
    """The number of the stream with this name."""
    for now, first in _FIRST_NAMES.items():
        name = name.replace(now, first)
    return crc32(_NODE.sub(_first_name_of_node, name).encode())


def _first_name_of_node(found: re.Match[str]) -> str:
    tier, index, padding = found.groups()
    return tier[0] + index + (padding + " " * (len(tier) - 1) if padding else "")


class Random:
    """What is drawn depends on the stream alone: neither on Python's version nor on PYTHONHASHSEED."""

    __slots__ = ("_next",)

    def __init__(self, stream: Stream) -> None:
        self._next = stream.next

    def chance(self, probability: float) -> bool:
        return self._next() < probability

    def between(self, low: float, high: float) -> float:
        """Uniform, rounded to a millionth, so that what is printed is what was drawn."""
        return round(low + (high - low) * self._next(), 6)

    def around(self, low: float, high: float) -> float:
        """Log-uniform: as often between 1 and 10 as between 10 and 100."""
        return round(float(low * (high / low) ** self._next()), 6)

    def whole(self, low: int, high: int) -> int:
        """Both ends included."""
        return low + int(self._next() * (high - low + 1))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self._next() * len(choices))]

    def some(self, choices: Sequence[T], number: int) -> list[T]:
        """`number` different ones (all, if there are fewer), in their order."""
        chosen: set[int] = set()
        while len(chosen) < min(number, len(choices)):
            chosen.add(int(self._next() * len(choices)))
        return [choices[index] for index in sorted(chosen)]
