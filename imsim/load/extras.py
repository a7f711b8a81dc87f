"""Messages beyond the plan: those that tasks of custom users send, and those of users that join during the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from imsim import disk
from imsim.scenario.workload import Extra


@dataclass(eq=False)
class Pending:
    """A message beyond the plan, in the process that sent it.

    missing: the devices that have not received it so far.
    changed: called after each change of the other fields.
    """

    extra: Extra
    missing: set[int]
    text: str = ""
    is_answered: bool = False
    is_stored: bool = False
    error: str | None = None
    changed: list[Callable[[], None]] = field(default_factory=list)


class Extras:
    """The messages beyond the plan of one process. Their numbers follow those of the plan.

    planned: the count of messages in the plan.
    index, count: the number of this process among the processes of the run, and their count.
    path: the file in which the messages are kept, a line for each. It is created with the first message.
    """

    def __init__(self, planned: int, index: int, count: int, path: Path) -> None:
        self.pending: dict[int, Pending] = {}
        """The messages of this process that lack an answer or a delivery, by their numbers (intents)."""
        self.count = 0
        """The count of messages that this process has sent."""
        self._next = planned + index
        self._step = count
        self._path = path
        self._file: BinaryIO | None = None

    def add(self, make: Callable[[int], Extra], recipients: Iterable[int]) -> Pending:
        """Add the message that `make(intent)` returns. `recipients`: the devices that must receive it.

        Raises: RunError if the file cannot be written.
        """
        extra = make(self._next)
        self._next += self._step
        self.count += 1
        with disk.errors("write", self._path):
            if self._file is None:
                self._file = self._path.open("xb")
            self._file.write(f"{extra.line()}\n".encode())
        added = self.pending[extra.intent] = Pending(extra, set(recipients))
        return added

    def changed(self, pending: Pending) -> None:
        """Let those that wait for a message look at it. Forget it if nothing more can happen to it."""
        if pending.is_answered and not pending.missing:
            self.pending.pop(pending.extra.intent, None)
        for call in list(pending.changed):
            call()

    def flush(self) -> None:
        """Write the messages to the file. Raises: RunError if that fails."""
        if self._file is not None:
            with disk.errors("write", self._path):
                self._file.flush()

    def close(self) -> None:
        """Flush and close the file. Raises: RunError if that fails."""
        if self._file is not None:
            file, self._file = self._file, None
            with disk.errors("write", self._path):
                file.close()
