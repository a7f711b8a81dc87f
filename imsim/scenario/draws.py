"""Random numbers by name, not by turn: number (i, j) of a purpose is the same whenever it is asked for.

Generators consumed in the order of events tie every number to everything that happened before it: one more router, and
each message meets other luck. Here a service demand is `draws.at(message, station)`, so two designs compared under one
seed meet the same work (common random numbers), which cuts the variance of their difference by an order of magnitude.

The numbers come from a counter and a finaliser, as in SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014; the finaliser is Stafford's mix 13): nothing is kept but a 64-bit key, which numpy's
SeedSequence makes, once for each purpose.

Why not a SeedSequence and Generator for each entity and purpose: to make one takes 14 us and 900 bytes, a `Stream`
0.25 us and 90 bytes (perf_counter and tracemalloc over 20,000 made into a list; Python 3.11, numpy 2.4). For a million
entities that is 14 s and 900 MB against a quarter of a second and 90 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
# Odd increments for i and j. The shortest (i, j) at which i * _I + j * _J is 0 modulo 2**64 is 2.8e9 long (lattice
# reduction; tested), so no two pairs below 2**30 share a number.
_I = 0x9E3779B97F4A7C15
_J = 0xD1B54A32D192ED03
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
# 52 bits and a half step: never 0, never 1, and exact, so that scalar and array agree to the last bit.
_STEP = 2.0**-52
_BLOCK = 256  # numbers that are drawn at a time


class Draws:
    """The uniform numbers of one purpose: `Draws(seed, "service", "router")`.

    Two Draws are unrelated unless seed and purpose are equal; PYTHONHASHSEED plays no part.
    """

    __slots__ = ("key",)

    def __init__(self, seed: int, *purpose: str | int) -> None:
        plain = [part if isinstance(part, str) else int(part) for part in purpose]  # numpy's integers look different
        digest = hashlib.sha256(repr(plain).encode()).digest()
        spawn_key = tuple(np.frombuffer(digest, "<u4").tolist())
        sequence = np.random.SeedSequence(seed, spawn_key=spawn_key)
        self.key = int(sequence.generate_state(1, np.uint64)[0])

    def at(self, i: int, j: int = 0) -> float:
        """Number (i, j), uniform in (0, 1), both ends excluded. About 0.45 us."""
        z = (self.key + i * _I + j * _J) & _MASK
        z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
        z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
        return (((z ^ (z >> 31)) >> 12) + 0.5) * _STEP

    def array(self, i: npt.NDArray[np.integer], j: npt.NDArray[np.integer] | int = 0) -> npt.NDArray[np.float64]:
        """`at`, bit for bit, for whole arrays: shape as numpy broadcasts `i` and `j`. 20 to 60 ns each."""
        # Wrapping round is what is meant; numpy warns of it for single numbers, which 0-d arrays turn into.
        with np.errstate(over="ignore"):
            z = np.uint64(self.key) + _words(i) * np.uint64(_I) + _words(j) * np.uint64(_J)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
        uniform: npt.NDArray[np.float64] = (((z ^ (z >> np.uint64(31))) >> np.uint64(12)) + 0.5) * _STEP
        return uniform


class Stream:
    """The numbers (entity, 0), (entity, 1), ... of a purpose, one by one. For what one entity does in its own order,
    such as a client's reconnect jitter: the stream is the `draw()` that the core's machines take."""

    __slots__ = ("_state",)

    def __init__(self, draws: Draws, entity: int) -> None:
        self._state = draws.key + entity * _I

    def next(self) -> float:
        """The next number, uniform in (0, 1), both ends excluded."""
        z = self._state & _MASK
        self._state = z + _J
        z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
        z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
        return (((z ^ (z >> 31)) >> 12) + 0.5) * _STEP

    __call__ = next


def numbers(draws: Draws, entity: int) -> Iterator[float]:
    """The numbers of a `Stream`, for what draws very many: a tenth of the time each, as they come in blocks."""
    for first in count(0, _BLOCK):
        yield from draws.array(np.array([entity]), np.arange(first, first + _BLOCK)).tolist()


class Streams:
    """The streams of many entities, in 8 bytes each. `number`: of the entity, its position in `entities`."""

    __slots__ = ("_states",)

    def __init__(self, draws: Draws, entities: npt.NDArray[np.integer]) -> None:
        self._states = (np.uint64(draws.key) + _words(entities) * np.uint64(_I)).data

    def draw(self, number: int) -> tuple[int, float]:
        """The entity's next number, uniform in (0, 1), both ends excluded; before it, what stands for it: to draw, from
        a `Draws`, more about the same thing."""
        place: int = self._states[number]
        self._states[number] = (place + _J) & _MASK
        z = ((place ^ (place >> 30)) * _MIX_1) & _MASK
        z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
        return place, (((z ^ (z >> 31)) >> 12) + 0.5) * _STEP


def _words(numbers: npt.NDArray[np.integer] | int) -> npt.NDArray[np.uint64]:
    if isinstance(numbers, int):
        return np.asarray(numbers & _MASK, np.uint64)
    return np.asarray(numbers).astype(np.uint64)
