"""The facts of a run in pieces, so that a run of any length is assembled in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from imsim import disk
from imsim.results.recorder import FACT_BYTES, Facts, decode_facts

_PIECE = 1 << 18  # facts

_Int64s = NDArray[np.int64]


class SpooledFacts(Sequence[Facts]):
    """The facts of spools, as a sequence of pieces. Each is read from its file when it is needed.

    spools: the path of each spool, and the ns to add to the times of its facts.
    translate: changes the facts of each piece, for example their intents, or leaves some of them out.

    Raises: UsageError, also from reading a piece, if a spool cannot be read.
    """

    def __init__(
        self, spools: Iterable[tuple[Path, int]], translate: Callable[[Facts], Facts] = lambda facts: facts
    ) -> None:
        self._translate = translate
        self._pieces: list[tuple[Path, int, int]] = []  # path, first fact, ns to add
        for path, ns in spools:
            with disk.errors("read the spool", path):
                count = path.stat().st_size // FACT_BYTES  # a truncated last fact is ignored
            self._pieces += [(path, first, ns) for first in range(0, count, _PIECE)]

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, number: int) -> Facts: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Facts]: ...
    def __getitem__(self, number: int | slice) -> Facts | Sequence[Facts]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        path, first, ns = self._pieces[number]
        with disk.errors("read the spool", path), path.open("rb") as file:
            file.seek(first * FACT_BYTES)
            facts = decode_facts(bytearray(file.read(_PIECE * FACT_BYTES)))
        facts["at"] += ns
        return self._translate(facts)


def pieces_of(facts: Facts | Sequence[Facts]) -> Sequence[Facts]:
    """Return facts in memory as a sequence of pieces, without copies. Pieces are returned unchanged."""
    if isinstance(facts, np.ndarray):
        return [facts[first : first + _PIECE] for first in range(0, max(1, len(facts)), _PIECE)]
    return facts


class Partition:
    """Facts by ranges of intents. `starts` are the first intents of the ranges; the last range ends before `end`.

    of_devices: the facts with a negative intent, which are about devices only.
    unknown: the facts with an intent from `end` on.
    """

    def __init__(self, pieces: Sequence[Facts], starts: Sequence[int], end: int) -> None:
        self._pieces = pieces
        self._starts = [*starts, end]
        # A piece is read again for each range that it touches. Facts are recorded about in the order of the intents,
        # so that most pieces touch one or two.
        self._touching: list[list[int]] = [[] for _ in starts]
        of_devices, unknown = [], []
        for number, piece in enumerate(pieces):
            intent = piece["intent"]
            if (intent < 0).any():
                of_devices.append(piece[intent < 0])
            if (intent >= end).any():
                unknown.append(piece[intent >= end])
            known = intent[(intent >= 0) & (intent < end)]
            for touched in np.unique(np.searchsorted(self._starts, known, side="right")):
                self._touching[touched - 1].append(number)
        self.of_devices = _joined(of_devices)
        self.unknown = _joined(unknown)

    def of(self, number: int) -> Facts:
        """Return the facts of a range. Their intents count from the start of the range."""
        start, end = self._starts[number], self._starts[number + 1]
        found = []
        for piece in (self._pieces[nth] for nth in self._touching[number]):
            is_inside = (piece["intent"] >= start) & (piece["intent"] < end)
            found.append(piece if is_inside.all() else piece[is_inside])
        facts = _joined(found)
        if start:
            facts = facts.copy() if len(found) == 1 else facts
            facts["intent"] -= start
        return facts


def _joined(found: list[Facts]) -> Facts:
    return found[0] if len(found) == 1 else np.concatenate([decode_facts(b""), *found])
