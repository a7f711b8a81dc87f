"""Seams at which a bug can be planted without a private name: what reaches a machine, what leaves it, its policies, and
what storage is asked and answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from imsim.core.storage.memory import MemoryStorage


class Port:
    """A port that hands everything on, except what a bug does otherwise: attributes set on it come first."""

    def __init__(self, port: Any) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


def port(patch: Any, machine: type, method: str, bug: Callable[..., None]) -> None:
    """Have the machine's port call `bug(forward, *arguments)` in place of its method."""
    make = machine.__init__

    def init(self: Any, port: Any, *rest: Any, **named: Any) -> None:
        wrapped = Port(port)
        forward = getattr(port, method)
        setattr(wrapped, method, lambda *arguments: bug(forward, *arguments))
        make(self, wrapped, *rest, **named)

    patch.setattr(machine, "__init__", init)


def received(patch: Any, machine: type, bug: Callable[[Any], Any], method: str = "receive") -> None:
    """Have the machine receive `bug(frame)` in place of each frame; nothing if that is None."""
    receive = getattr(machine, method)

    def other(self: Any, *arguments: Any) -> None:
        *first, frame, now = arguments
        if (frame := bug(frame)) is not None:
            receive(self, *first, frame, now)

    patch.setattr(machine, method, other)


def policies(patch: Any, machine: type, bug: Callable[[Any], dict[str, Any]], at: int = 0) -> None:
    """Have the machine made with other policies: with `bug(policies)` in place of these. `at`: which of the arguments
    after the port they are."""
    make = machine.__init__

    def init(self: Any, port: Any, *rest: Any, **named: Any) -> None:
        values = list(rest)
        values[at] = replace(values[at], **bug(values[at]))
        make(self, port, *values, **named)

    patch.setattr(machine, "__init__", init)


def stored(patch: Any, bug: Callable[[Callable[[Any], Any], Any], Any]) -> None:
    """Have storage answer `bug(execute, request)`."""
    execute = MemoryStorage.execute
    patch.setattr(MemoryStorage, "execute", lambda self, request: bug(lambda request: execute(self, request), request))
