"""Conversion between durations as text ("250us", "1.5min") and as float seconds."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

# Decimals, so that "0.3ms" is exactly the float 0.0003.
_UNITS = {
    "h": Decimal(3600),
    "min": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("1e-3"),
    "us": Decimal("1e-6"),
    "ns": Decimal("1e-9"),
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|min|h)")

#: The longest duration, in seconds. (Times are int64 nanoseconds, whose largest value is 9.2e9 s.)
LONGEST = 1e9

DURATION = "a duration such as '250us', '5ms', '2s', '1.5min' or '2h', or a number of seconds"


def parse_duration(value: object) -> float:
    """Return the seconds of a duration: "250us", "5ms", "2s", "1.5min", "2h" or a plain number; from 0 to 1e9.

    Raises: ValueError with one line about the expected value.
    """
    seconds: float = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        seconds = float(Decimal(match[1]) * _UNITS[match[2]])
    if not 0 <= seconds <= LONGEST:  # this is also true for nan
        raise ValueError(f"expected {DURATION}, got {shown(value)}")
    return float(seconds)


def format_duration(seconds: float) -> str | float:
    """Return the shortest text that `parse_duration` reads as the same float; below 1 ns, the number of seconds."""
    if seconds == 0:
        return "0s"
    numbers = {unit: Decimal(repr(seconds)) / scale for unit, scale in _UNITS.items()}
    texts = [f"{number.normalize():f}{unit}" for unit, number in numbers.items() if number >= 1]
    return min((text for text in texts if parse_duration(text) == seconds), key=len, default=seconds)


def shown(value: object) -> str:
    """Return a value as an error message shows it: one short line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, when_used="json"),
]
PositiveSeconds = Annotated[Seconds, Field(gt=0)]
