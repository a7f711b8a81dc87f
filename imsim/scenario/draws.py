"""Random numbers that are found by name: number (i, j) of a purpose is always the same.

With a generator, each number depends on everything that was drawn before it: with one more router, each message has
other random numbers. Here a service demand is `draws.at(message, station)`. So two designs that are compared under one
seed have the same work (common random numbers). This reduces the variance of their difference by an order of magnitude.

The numbers come from a counter and a finaliser, as in SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014; the finaliser is Stafford's mix 13). The only state is a 64-bit key for each purpose,
which numpy's SeedSequence computes once.

A SeedSequence and a Generator for each entity and purpose would take 14 us and 900 bytes each, a `Stream` takes 0.25 us
and 90 bytes (perf_counter and tracemalloc over a list of 20,000; Python 3.11, numpy 2.4). For a million entities that
is 14 s and 900 MB against 0.25 s and 90 MB.
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
# 52 bits and a half step: never 0 or 1, and exact, so `at` and `array` are equal to the last bit.
_STEP = 2.0**-52
_BLOCK = 256  # the count of numbers that are drawn at once


class Draws:
    """The uniform numbers of one purpose: `Draws(seed, "service", "router")`.

    Two Draws are independent unless seed and purpose are equal. PYTHONHASHSEED has no effect.
    """

    __slots__ = ("key",)

    def __init__(self, seed: int, *purpose: str | int) -> None:
        # numpy's integers have another repr than Python's.
        plain = [part if isinstance(part, str) else int(part) for part in purpose]
        digest = hashlib.sha256(repr(plain).encode()).digest()
        spawn_key = tuple(np.frombuffer(digest, "<u4").tolist())
        sequence = np.random.SeedSequence(seed, spawn_key=spawn_key)
        self.key = int(sequence.generate_state(1, np.uint64)[0])

    def at(self, i: int, j: int = 0) -> float:
        """Return number (i, j), uniform in (0, 1), without 0 and 1. It takes about 0.45 us."""
        z = (self.key + i * _I + j * _J) & _MASK
        z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
        z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
        return (((z ^ (z >> 31)) >> 12) + 0.5) * _STEP

    def array(self, i: npt.NDArray[np.integer], j: npt.NDArray[np.integer] | int = 0) -> npt.NDArray[np.float64]:
        """Return the same numbers as `at` for arrays; `i` and `j` are broadcast. Each takes 20 to 60 ns."""
        # The overflow is intended. numpy warns of it for single numbers, to which it converts 0-d arrays.
        with np.errstate(over="ignore"):
            z = np.uint64(self.key) + _words(i) * np.uint64(_I) + _words(j) * np.uint64(_J)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
        uniform: npt.NDArray[np.float64] = (((z ^ (z >> np.uint64(31))) >> np.uint64(12)) + 0.5) * _STEP
        return uniform


class Stream:
    """The numbers (entity, 0), (entity, 1), ... of a purpose, one after another.

    It is for values that one entity needs in its own order, such as a client's reconnect jitter. The stream itself is
    the `draw()` that the core's machines take.
    """

    __slots__ = ("_state",)

    def __init__(self, draws: Draws, entity: int) -> None:
        self._state = draws.key + entity * _I

    def next(self) -> float:
        """Return the next number, uniform in (0, 1), without 0 and 1."""
        z = self._state & _MASK
        self._state = z + _J
        z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
        z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
        return (((z ^ (z >> 31)) >> 12) + 0.5) * _STEP

    __call__ = next


def numbers(draws: Draws, entity: int) -> Iterator[float]:
    """Yield the numbers of a `Stream` in blocks, for users of very many: each takes a tenth of the time."""
    for first in count(0, _BLOCK):
        yield from draws.array(np.array([entity]), np.arange(first, first + _BLOCK)).tolist()


class Streams:
    """The streams of many entities, in 8 bytes each. `number` is the position of an entity in `entities`."""

    __slots__ = ("_states",)

    def __init__(self, draws: Draws, entities: npt.NDArray[np.integer]) -> None:
        self._states = (np.uint64(draws.key) + _words(entities) * np.uint64(_I)).data

    def draw(self, number: int) -> tuple[int, float]:
        """Return a key of the entity's next number, and the number, uniform in (0, 1), without 0 and 1.

        Use the key with a `Draws`, to draw more numbers about the same event.
        """
        place: int = self._states[number]
        self._states[number] = (place + _J) & _MASK
        z = ((place ^ (place >> 30)) * _MIX_1) & _MASK
        z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
        return place, (((z ^ (z >> 31)) >> 12) + 0.5) * _STEP


def _words(numbers: npt.NDArray[np.integer] | int) -> npt.NDArray[np.uint64]:
    if isinstance(numbers, int):
        return np.asarray(numbers & _MASK, np.uint64)
    return np.asarray(numbers).astype(np.uint64)
