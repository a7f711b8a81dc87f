"""What all checks have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from imsim.faultsearch.evidence import Evidence

C = TypeVar("C", bound="Check")


class Check:
    """Follows the trace of a run by its handlers (see `on`), and reports what is wrong at the moment when it is."""

    def __init__(self, evidence: Evidence, others: Mapping[type[Check], Check]) -> None:
        """`others`: the checks that come before it."""
        self.evidence = evidence
        self.world = evidence.world
        self.model = evidence.model
        self.policies = evidence.policies
        self.instances = evidence.instances
        self.violated = evidence.violated
        self._others = others
        self.begin()

    def begin(self) -> None:
        """Make what it remembers."""

    def other(self, kind: type[C]) -> C:
        found = self._others[kind]
        assert isinstance(found, kind)
        return found

    def finish(self) -> None:
        """The trace has ended."""
