"""Own parts: Python objects in the places of a scenario's named ones, such as a distribution or a station.

A scenario with own parts works as any other (`with_`, comparing, copies in other processes), but a file can only name
them: `to_toml` writes a reference, and what reads a file refuses it, because the part itself is not there.
"""

from __future__ import annotations

from pydantic import BaseModel

_MARK = "own part "


def reference(part: object) -> str:
    """What a file says of an own part: `own part Bimodal(fast=0.001, slow=0.02)`."""
    if isinstance(part, BaseModel):
        return f"{_MARK}{part!r}"
    return _MARK + str(getattr(part, "__name__", type(part).__name__))


def refuse_reference(value: object) -> None:
    """Raises: ValueError for a reference, with what to do."""
    if isinstance(value, str) and value.startswith(_MARK):
        raise ValueError(f"{value} exists only in Python, not in a file: put the object here, by Scenario.with_")
