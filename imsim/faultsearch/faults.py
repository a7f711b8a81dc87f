"""Faults as data: what goes wrong, when, where, and how badly. (`inject` has it happen.)

A plan is a list of `Fault`s. It can be read, written as JSON, edited by hand and shrunk: each fault stands for itself,
draws its luck from a stream of its own, and ends by itself after its `seconds`, so that taking one away leaves the
others what they were.
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
    """`time`: seconds from the workload's start. `target`: a device ("alice/d0"), a user, a node ("gateway0") or
    "storage". `arguments`: what the kind says (see `KINDS`); durations in seconds, rates from 0 to 1."""

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
    """A fault that is open for a while. `end`: when it closes, in the world's seconds. `draw()`: its luck, uniform in
    (0, 1). `has_struck`: whether it has hit anything."""

    __slots__ = ("arguments", "draw", "end", "fault", "has_struck")

    def __init__(self, fault: Fault, stream: Stream, now: float) -> None:
        self.fault = fault
        self.arguments = fault.arguments
        self.draw = stream.next
        self.end: float = now + fault.arguments["seconds"]
        self.has_struck = False


class Windows(dict[str, Window]):
    """The faults that are open for a device or for storage: of each kind the latest."""

    def close(self, fault: Fault) -> None:
        window = self.get(fault.kind)
        if window is not None and window.fault is fault:
            del self[fault.kind]

    def strikes(self, kind: str) -> Window | None:
        """The window of this kind, if it is open and its rate hits now."""
        window = self.get(kind)
        return window if window is not None and window.draw() < window.arguments["rate"] else None


class Argument(NamedTuple):
    """An argument of a fault: how it is drawn; of what type it is, and within which limits, where a case is written by
    hand."""

    draw: Callable[[Random], Any]
    type: Any
    field: Any = Field(default=...)


class Kind(NamedTuple):
    """A kind of fault. `where`: what it can hit (device, user, gateway, router, nodes, storage; or any: a device or a
    node)."""

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

#: What can go wrong, by name.
KINDS: dict[str, Kind] = {
    "loss": Kind("device", _AT_A_RATE),
    "duplication": Kind("device", _AT_A_RATE),
    "delay": Kind("device", {"up_to": _around(0.05, 5), "seconds": _around(0.5, 10)}),
    "reordering": Kind("device", {"up_to": _around(0.05, 3), **_AT_A_RATE}),
    "slow_reader": Kind("device", {"seconds": _around(1, 20)}),
    # One side, or both, silently dead: only heartbeats can find out.
    "half_open": Kind("device", {"direction": _pick("up", "down", "both")}),
    "break": Kind("device", {}),
    # The application loses all its memory, and the same device starts again.
    "app_crash": Kind("device", {"seconds": _around(0.01, 5), "silent": _chance(0.5)}),
    # The same device logs in a second time, while the first is still there.
    "double_login": Kind("device", {}),
    # Its token is not taken; the application gets another one, until that helps.
    "token_refused": Kind("device", {"code": _pick("bad_token", "token_expired"), "seconds": _around(0.5, 5)}),
    # All of a user's tokens are revoked, except those younger than `spare`. With `race`, their connections break first,
    # and it happens as the first device comes back.
    "revoke": Kind("user", {"race": _chance(0.5), "spare": _SPARE}),
    # The node forgets everything; the last of what it sent never left it.
    "gateway_crash": Kind("gateway", _CRASH),
    "router_crash": Kind("router", _CRASH),
    # The same at the worst time. A router: as the next operation `op` is asked for, is done, or has been answered. A
    # gateway: as the next frame `op` has arrived, or was passed on.
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
    # The node's clock jumps `ahead` (clocks are monotonic, so never back) and then runs off by `drift`.
    "clock": Kind("any", {"ahead": _around(0.01, 30), "drift": _DRIFT}),
    # What the node and the `others` send each other takes up to so much longer; it keeps its order.
    "lag": Kind("nodes", {"up_to": _around(0.01, 2), "seconds": _around(1, 15)}),
    # The node and the `others` hear nothing of each other; what was on its way is lost. Both ends learn of it after
    # `detect` seconds, or as soon as they hear of each other again.
    "partition": Kind("nodes", {"seconds": _around(0.1, 10), "detect": _around(0.01, 3)}),
    "storage_slow": Kind("storage", {"up_to": _around(0.05, 5), "seconds": _around(0.5, 10)}),
    "storage_stall": Kind("storage", {"seconds": _around(0.5, 10)}),
    # Failed: `done` says whether it happened all the same.
    "storage_fails": Kind("storage", {"done": _chance(0.5), **_AT_A_RATE}),
    # Answered `by` seconds later than it was done; or, with `silent`, never.
    "storage_late": Kind(
        "storage", {"by": _around(0.1, 10), "silent": _chance(0.3), "done": _chance(0.7), **_AT_A_RATE}
    ),
}
