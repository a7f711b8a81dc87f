"""Seams at which tests plant bugs without private names.

A bug can change the frames that a machine receives or sends, its policies, and the requests and results of storage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from imsim.core.storage.memory import MemoryStorage


class Port:
    """A port that passes on every call. An attribute set on it takes precedence, so that a bug can replace a method."""

    def __init__(self, port: Any) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


def port(patch: Any, machine: type, method: str, bug: Callable[..., None]) -> None:
    """Have the machine's port call `bug(forward, *arguments)` instead of its method."""
    make = machine.__init__

    def init(self: Any, port: Any, *rest: Any, **named: Any) -> None:
        wrapped = Port(port)
        forward = getattr(port, method)
        setattr(wrapped, method, lambda *arguments: bug(forward, *arguments))
        make(self, wrapped, *rest, **named)

    patch.setattr(machine, "__init__", init)


def received(patch: Any, machine: type, bug: Callable[[Any], Any], method: str = "receive") -> None:
    """Have the machine receive `bug(frame)` instead of each frame; None drops the frame."""
    receive = getattr(machine, method)

    def other(self: Any, *arguments: Any) -> None:
        *first, frame, now = arguments
        if (frame := bug(frame)) is not None:
            receive(self, *first, frame, now)

    patch.setattr(machine, method, other)


def policies(patch: Any, machine: type, bug: Callable[[Any], dict[str, Any]], at: int = 0) -> None:
    """Construct the machine with policies changed as by `bug(policies)`.

    `at`: the index of the policies among the arguments after the port.
    """
    make = machine.__init__

    def init(self: Any, port: Any, *rest: Any, **named: Any) -> None:
        values = list(rest)
        values[at] = replace(values[at], **bug(values[at]))
        make(self, port, *values, **named)

    patch.setattr(machine, "__init__", init)


def stored(patch: Any, bug: Callable[[Callable[[Any], Any], Any], Any]) -> None:
    """Have storage return `bug(execute, request)`."""
    execute = MemoryStorage.execute
    patch.setattr(MemoryStorage, "execute", lambda self, request: bug(lambda request: execute(self, request), request))
