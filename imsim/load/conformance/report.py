"""The result of the kit: one line for each check."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_WIDTH, _NAME, _OUTCOME = 100, 11, 11  # of the table and of its columns, in characters


class Outcome(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    FAILED = "failed"
    NOT_OFFERED = "not offered"  # the adapter does not claim the feature
    NOT_RUN = "not run"  # an earlier failure makes the check impossible


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check. `detail` says what is wrong and what to do, or what an ok covers."""

    name: str
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "outcome": self.outcome.value, "detail": self.detail, "seconds": self.seconds}

    def __str__(self) -> str:
        """Return the lines of the table for this check."""
        head = f"{self.name:<{_NAME}}  {self.outcome.value:<{_OUTCOME}}  "
        indent = " " * len(head)
        lines = textwrap.wrap(head + self.detail, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
        return "\n".join(lines).rstrip()


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all checks of one adapter. `server` is what the adapter's probe has found."""

    adapter: str
    url: str
    features: tuple[str, ...]
    results: tuple[Result, ...]
    server: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no check failed, and none could not run."""
        return not any(one.outcome in (Outcome.FAILED, Outcome.NOT_RUN) for one in self.results)

    def __getitem__(self, name: str) -> Result:
        return next(one for one in self.results if one.name == name)

    def to_json(self) -> dict[str, Any]:
        return {
            "adapter": self.adapter,
            "url": self.url,
            "features": list(self.features),
            "server": dict(self.server),
            "passed": self.passed,
            "checks": [one.to_json() for one in self.results],
        }

    @property
    def heading(self) -> str:
        """The first line of the table."""
        return f"{self.adapter} at {self.url}: {', '.join(self.features) or 'no features'}"

    @property
    def summary(self) -> str:
        """The last line of the table: how many checks have each outcome."""
        counts = {kind: sum(one.outcome is kind for one in self.results) for kind in Outcome}
        shown = (Outcome.OK, Outcome.FAILED)
        return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count or kind in shown)

    def __str__(self) -> str:
        return "\n".join([self.heading, *map(str, self.results), self.summary])
