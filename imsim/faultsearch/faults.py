"""Faults as data: what fails, when, where and how severely. `inject` applies them.

A plan is a list of `Fault`s. It can be read, written as JSON, edited by hand and shrunk. Each fault has its own random
stream and ends by itself after its `seconds`. Removing one therefore leaves the others unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import Field

from imsim.core.exceptions import UsageError
from imsim.faultsearch.random import Random
from imsim.scenario import Stream


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault.

    `time`: seconds since the start of the workload. `target`: a device ("alice/d0"), a user, a node ("gateway0") or
    "storage". `arguments`: the arguments of the kind (see `KINDS`); durations in seconds, rates from 0 to 1.
    """

    time: float
    kind: str
    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"fault: unknown kind {self.kind!r}; known: {', '.join(KINDS)}")

    def __str__(self) -> str:
        arguments = " ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.time:9.3f} {self.kind:<14} {self.target:<10} {arguments}".rstrip()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "arguments": dict(self.arguments)}


class Window:
    """A fault that lasts for a while.

    `end`: the world's time at which it ends, in seconds. `draw()`: the next number of its random stream, uniform in (0,
    1). `has_struck`: whether it has hit anything.
    """

    __slots__ = ("arguments", "draw", "end", "fault", "has_struck")

    def __init__(self, fault: Fault, stream: Stream, now: float) -> None:
        self.fault = fault
        self.arguments = fault.arguments
        self.draw = stream.next
        self.end: float = now + fault.arguments["seconds"]
        self.has_struck = False


class Windows(dict[str, Window]):
    """The open faults of a device or of storage: the latest of each kind."""

    def close(self, fault: Fault) -> None:
        window = self.get(fault.kind)
        if window is not None and window.fault is fault:
            del self[fault.kind]

    def strikes(self, kind: str) -> Window | None:
        """Return the open window of this kind if a random draw at its rate makes the fault happen now, else None."""
        window = self.get(kind)
        return window if window is not None and window.draw() < window.arguments["rate"] else None


class Argument(NamedTuple):
    """An argument of a fault: the function that draws it, and the type and limits that a case file must keep."""

    draw: Callable[[Random], Any]
    type: Any
    field: Any = Field(default=...)


class Kind(NamedTuple):
    """A kind of fault.

    `where`: the targets it can have: device, user, gateway, router, nodes, storage, or any (a device or a node).
    """

    where: str
    arguments: dict[str, Argument]

    def draw(self, random: Random) -> dict[str, Any]:
        return {name: argument.draw(random) for name, argument in self.arguments.items()}


def _around(low: float, high: float) -> Argument:
    return Argument(lambda random: random.around(low, high), float, Field(ge=0))


def _chance(probability: float) -> Argument:
    return Argument(lambda random: random.chance(probability), bool)


def _pick(*choices: str) -> Argument:
    return Argument(lambda random: random.pick(choices), Literal[tuple(sorted(set(choices)))])


_CRASH = {"seconds": _around(0.01, 5), "detect": _around(0.01, 3)}
_AT_A_RATE = {
    "rate": Argument(lambda random: random.between(0.05, 0.6), float, Field(ge=0, le=1)),
    "seconds": _around(0.5, 20),
}
_DRIFT = Argument(lambda random: random.between(-0.05, 0.05), float, Field(gt=-1))
_SPARE = Argument(lambda random: random.around(0.01, 10) if random.chance(0.3) else 0.0, float, Field(ge=0))

#: Every kind of fault, by name.
KINDS: dict[str, Kind] = {
    "loss": Kind("device", _AT_A_RATE),
    "duplication": Kind("device", _AT_A_RATE),
    "delay": Kind("device", {"up_to": _around(0.05, 5), "seconds": _around(0.5, 10)}),
    "reordering": Kind("device", {"up_to": _around(0.05, 3), **_AT_A_RATE}),
    "slow_reader": Kind("device", {"seconds": _around(1, 20)}),
    # One direction, or both, is silently dead: only heartbeats detect it.
    "half_open": Kind("device", {"direction": _pick("up", "down", "both")}),
    "break": Kind("device", {}),
    # The application loses all its memory, and the same device starts again.
    "app_crash": Kind("device", {"seconds": _around(0.01, 5), "silent": _chance(0.5)}),
    # The same device logs in a second time while the first login is still active.
    "double_login": Kind("device", {}),
    # The gateway refuses the device's token. The application gets new tokens until one is accepted.
    "token_refused": Kind("device", {"code": _pick("bad_token", "token_expired"), "seconds": _around(0.5, 5)}),
    # All tokens of a user are revoked, except those younger than `spare` seconds. With `race`, the user's connections
    # break first, and the revocation happens when the first device logs in again.
    "revoke": Kind("user", {"race": _chance(0.5), "spare": _SPARE}),
    # The node loses all its memory, and the last frames that it sent are lost.
    "gateway_crash": Kind("gateway", _CRASH),
    "router_crash": Kind("router", _CRASH),
    # The node crashes at the worst time. A router: when the next operation `op` is requested, executed or answered. A
    # gateway: when the next frame `op` has arrived, or was passed on.
    "crash_on": Kind(
        "router",
        {
            "op": _pick("append", "append", "append", "find", "open_conversation", "open_user", "save_state"),
            "moment": _pick("asked", "done", "answered"),
            **_CRASH,
        },
    ),
    "gateway_crash_on": Kind(
        "gateway",
        {
            "op": _pick("stored", "stored", "push", "push", "state", "send", "send", "attached", "entered"),
            "moment": _pick("arrived", "passed on"),
            **_CRASH,
        },
    ),
    # The node's clock jumps `ahead` (clocks are monotonic, so never back) and then gains `drift` seconds a second.
    "clock": Kind("any", {"ahead": _around(0.01, 30), "drift": _DRIFT}),
    # Frames between the node and the `others` take up to `up_to` seconds longer, and keep their order.
    "lag": Kind("nodes", {"up_to": _around(0.01, 2), "seconds": _around(1, 15)}),
    # The node and the `others` cannot reach each other, and frames in flight are lost. Both ends detect it after
    # `detect` seconds, or as soon as they are connected again.
    "partition": Kind("nodes", {"seconds": _around(0.1, 10), "detect": _around(0.01, 3)}),
    "storage_slow": Kind("storage", {"up_to": _around(0.05, 5), "seconds": _around(0.5, 10)}),
    "storage_stall": Kind("storage", {"seconds": _around(0.5, 10)}),
    # Storage reports a failure. `done`: whether it executed the request nevertheless.
    "storage_fails": Kind("storage", {"done": _chance(0.5), **_AT_A_RATE}),
    # Storage answers `by` seconds late, or never if `silent`.
    "storage_late": Kind(
        "storage", {"by": _around(0.1, 10), "silent": _chance(0.3), "done": _chance(0.7), **_AT_A_RATE}
    ),
}
