"""Shrinking of a failing case by delta debugging on its faults and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from imsim.faultsearch.case import Case

T = TypeVar("T")


def shrink(case: Case, still_breaks: Callable[[Case], bool], runs: int) -> Case:
    """Return the smallest case found within these runs. With enough runs, no single part of it can be left out."""
    left = [runs]

    def breaks(candidate: Case) -> bool:
        left[0] -= 1
        return still_breaks(candidate)

    faults, steps, size = case.faults, case.steps, -1
    while left[0] > 0 and size != len(faults) + len(steps):
        size = len(faults) + len(steps)
        faults = _fewer(faults, lambda fewer, steps=steps: breaks(case.with_(faults=fewer, steps=steps)), left)  # type: ignore[misc]
        steps = _fewer(steps, lambda fewer, faults=faults: breaks(case.with_(faults=faults, steps=fewer)), left)  # type: ignore[misc]
    return case.with_(faults=faults, steps=steps)


def _fewer(parts: tuple[T, ...], breaks: Callable[[tuple[T, ...]], bool], left: Sequence[int]) -> tuple[T, ...]:
    """Leave out halves, then quarters, and so on down to single parts, as long as the case still breaks."""
    size = max(1, len(parts) // 2)
    while parts and left[0] > 0:
        at, cut = 0, False
        while at < len(parts) and left[0] > 0:
            without = parts[:at] + parts[at + size :]
            if breaks(without):
                parts, cut = without, True
            else:
                at += size
        if size == 1 and not cut:
            break
        size = max(1, size // 2)
    return parts
