"""Faults as data: what goes wrong, when, where, and how badly.

A plan is a list of `Fault`s. It can be read, written as JSON, edited by hand and shrunk: each fault stands for itself,
draws its luck from a stream of its own, and ends by itself after its `seconds`, so that taking one away leaves the
others what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from imsim.core.exceptions import UsageError
from imsim.faultsearch.random import Random
from imsim.scenario import Stream
from imsim.sim.outages import Outages, Pair


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


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `where`: what it can hit (device, user, gateway, router, nodes, storage; or any: a device or a
    node). `draw` gives its arguments."""

    where: str
    draw: Callable[[Random], dict[str, Any]]
    inject: Callable[[Target, Fault], None]


def inject(fault: Fault, target: Target) -> None:
    """Let it happen, now."""
    KINDS[fault.kind].inject(target, fault)


class Windows:
    """The faults that are open for a device or for storage: of each kind the latest, each with its own luck."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[str, Window] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def open(self, fault: Fault, stream: Stream, now: float) -> None:
        self._open[fault.kind] = Window(fault, stream, now + fault.arguments["seconds"])

    def close(self, fault: Fault) -> None:
        window = self._open.get(fault.kind)
        if window is not None and window.fault is fault:
            del self._open[fault.kind]

    def close_all(self) -> None:
        self._open.clear()

    def get(self, kind: str) -> Window | None:
        return self._open.get(kind)

    def strikes(self, kind: str) -> Window | None:
        """The window of this kind, if it is open and its rate hits now."""
        window = self._open.get(kind)
        return window if window is not None and window.draw() < window.arguments["rate"] else None


class Window:
    """`end`: when it closes, in the world's seconds. `draw()`: its luck, uniform in (0, 1). `has_struck`: whether it
    has hit anything."""

    __slots__ = ("arguments", "draw", "end", "fault", "has_struck")

    def __init__(self, fault: Fault, stream: Stream, end: float) -> None:
        self.fault = fault
        self.arguments = fault.arguments
        self.draw = stream.next
        self.end = end
        self.has_struck = False


class Target(Protocol):
    """What faults need of the world that they hit. `happened`: a fault has hit something."""

    windows: dict[str, Windows]
    outages: Outages

    @property
    def now(self) -> float: ...
    def stream(self, fault: Fault) -> Stream: ...
    def later(self, seconds: float, function: Callable[[Any], object], argument: Any) -> None: ...
    def happened(self, fault: Fault) -> None: ...
    def connections_of(self, device: str) -> Iterable[Breakable]: ...
    def devices_of(self, user: str) -> Iterable[str]: ...
    def app_of(self, device: str) -> Application: ...
    def crash(self, node: str, fault: Fault) -> None: ...
    def ambush(self, fault: Fault) -> None: ...
    def set_clock(self, node: str, ahead: float, drift: float) -> bool: ...
    def revoke(self, fault: Fault) -> None: ...
    def revoke_at_login(self, fault: Fault) -> None: ...
    def channels_between(self, node: str, *others: str) -> Iterable[Route]: ...
    def pairs_between(self, node: str, *others: str) -> list[Pair]: ...


class Breakable(Protocol):
    """The connection of a device."""

    def cut(self, _: None) -> None: ...
    def deaden(self, direction: str) -> None: ...


class Application(Protocol):
    """What runs on a device."""

    @property
    def is_up(self) -> bool: ...
    def crash(self, *, silent: bool) -> None: ...
    def start_again(self, _: None) -> None: ...


class Route(Protocol):
    """From one node to another."""

    def break_off(self) -> None: ...
    def mend(self, _: None) -> None: ...
    def lag(self, window: Window) -> None: ...


def _window(world: Target, fault: Fault) -> None:
    windows = world.windows[fault.target]
    windows.open(fault, world.stream(fault), world.now)
    world.later(fault.arguments["seconds"], windows.close, fault)


# --- connections -----------------------------------------------------------------------------------------------------


def _half_open(world: Target, fault: Fault) -> None:
    """One side, or both, silently dead: only heartbeats can find out."""
    for connection in world.connections_of(fault.target):
        connection.deaden(fault.arguments["direction"])
        world.happened(fault)


def _break(world: Target, fault: Fault) -> None:
    for connection in world.connections_of(fault.target):
        connection.cut(None)
        world.happened(fault)


# --- applications ----------------------------------------------------------------------------------------------------


def _app_crash(world: Target, fault: Fault) -> None:
    """The application loses all its memory, and the same device starts again."""
    app = world.app_of(fault.target)
    if app.is_up:
        world.happened(fault)
    app.crash(silent=fault.arguments["silent"])
    world.later(fault.arguments["seconds"], app.start_again, None)


def _double_login(world: Target, fault: Fault) -> None:
    """The same device logs in a second time, while the first is still there."""
    world.happened(fault)
    world.app_of(fault.target).start_again(None)


def _token_refused(world: Target, fault: Fault) -> None:
    """Its token is not taken; the application gets another one, until that helps."""
    _window(world, fault)
    for connection in world.connections_of(fault.target):
        connection.cut(None)


def _revoke(world: Target, fault: Fault) -> None:
    """All of a user's tokens are revoked, except the youngest. With `race`, their connections break first, and it
    happens as the first device comes back."""
    if fault.arguments["race"]:
        for device in world.devices_of(fault.target):
            for connection in world.connections_of(device):
                connection.cut(None)
        world.revoke_at_login(fault)
    else:
        world.revoke(fault)


# --- nodes -----------------------------------------------------------------------------------------------------------


def _crash(world: Target, fault: Fault) -> None:
    """The node forgets everything; the last of what it sent never left it."""
    world.crash(fault.target, fault)


def _crash_on(world: Target, fault: Fault) -> None:
    """The same at the worst time. A router: as the next operation `op` is asked for, is done, or has been answered. A
    gateway: as the next frame `op` has arrived, or was passed on."""
    world.ambush(fault)


def _clock(world: Target, fault: Fault) -> None:
    """The node's clock jumps `ahead` (seconds; clocks are monotonic, so never back) and then runs off by `drift`."""
    if world.set_clock(fault.target, fault.arguments["ahead"], fault.arguments["drift"]):
        world.happened(fault)


def _partition(world: Target, fault: Fault) -> None:
    """The node and the `others` hear nothing of each other; what was on its way is lost. Both ends learn of it after
    `detect` seconds, or as soon as they hear of each other again."""
    seconds = fault.arguments["seconds"]
    if world.channels_between(fault.target, *fault.arguments["others"]):
        world.happened(fault)
    for other in fault.arguments["others"]:
        for channel in world.channels_between(fault.target, other):
            channel.break_off()
            world.later(seconds, channel.mend, None)
        pairs = world.pairs_between(fault.target, other)
        world.outages.begin(pairs)
        world.later(min(fault.arguments["detect"], seconds), world.outages.notice, pairs)
        world.later(seconds, world.outages.end, pairs)


def _lag(world: Target, fault: Fault) -> None:
    """What the node and the `others` send each other takes up to so much longer; it keeps its order."""
    window = Window(fault, world.stream(fault), world.now + fault.arguments["seconds"])
    for channel in world.channels_between(fault.target, *fault.arguments["others"]):
        channel.lag(window)


# --- all of them -----------------------------------------------------------------------------------------------------


def _crash_arguments(random: Random) -> dict[str, Any]:
    return {"seconds": random.around(0.01, 5), "detect": random.around(0.01, 3)}


def _rate_and_seconds(random: Random) -> dict[str, Any]:
    return {"rate": random.between(0.05, 0.6), "seconds": random.around(0.5, 20)}


#: What can go wrong, by name.
KINDS: dict[str, Kind] = {
    "loss": Kind("device", _rate_and_seconds, _window),
    "duplication": Kind("device", _rate_and_seconds, _window),
    "delay": Kind("device", lambda d: {"up_to": d.around(0.05, 5), "seconds": d.around(0.5, 10)}, _window),
    "reordering": Kind("device", lambda d: {"up_to": d.around(0.05, 3), **_rate_and_seconds(d)}, _window),
    "slow_reader": Kind("device", lambda d: {"seconds": d.around(1, 20)}, _window),
    "half_open": Kind("device", lambda d: {"direction": d.pick(("up", "down", "both"))}, _half_open),
    "break": Kind("device", lambda d: {}, _break),
    "app_crash": Kind("device", lambda d: {"seconds": d.around(0.01, 5), "silent": d.chance(0.5)}, _app_crash),
    "double_login": Kind("device", lambda d: {}, _double_login),
    "token_refused": Kind(
        "device",
        lambda d: {"code": d.pick(("bad_token", "token_expired")), "seconds": d.around(0.5, 5)},
        _token_refused,
    ),
    "revoke": Kind(
        "user",
        lambda d: {"race": d.chance(0.5), "spare": d.around(0.01, 10) if d.chance(0.3) else 0.0},
        _revoke,
    ),
    "gateway_crash": Kind("gateway", _crash_arguments, _crash),
    "router_crash": Kind("router", _crash_arguments, _crash),
    "crash_on": Kind(
        "router",
        lambda d: {
            "op": d.pick(("append", "append", "append", "find", "open_conversation", "open_user", "save_state")),
            "moment": d.pick(("asked", "done", "answered")),
            **_crash_arguments(d),
        },
        _crash_on,
    ),
    "gateway_crash_on": Kind(
        "gateway",
        lambda d: {
            "op": d.pick(("stored", "stored", "push", "push", "state", "send", "send", "attached", "entered")),
            "moment": d.pick(("arrived", "passed on")),
            **_crash_arguments(d),
        },
        _crash_on,
    ),
    "clock": Kind("any", lambda d: {"ahead": d.around(0.01, 30), "drift": d.between(-0.05, 0.05)}, _clock),
    "lag": Kind("nodes", lambda d: {"up_to": d.around(0.01, 2), "seconds": d.around(1, 15)}, _lag),
    "partition": Kind("nodes", lambda d: {"seconds": d.around(0.1, 10), "detect": d.around(0.01, 3)}, _partition),
    "storage_slow": Kind("storage", lambda d: {"up_to": d.around(0.05, 5), "seconds": d.around(0.5, 10)}, _window),
    "storage_stall": Kind("storage", lambda d: {"seconds": d.around(0.5, 10)}, _window),
    # Failed: `done` says whether it happened all the same.
    "storage_fails": Kind("storage", lambda d: {"done": d.chance(0.5), **_rate_and_seconds(d)}, _window),
    # Answered `by` seconds later than it was done; or, with `silent`, never.
    "storage_late": Kind(
        "storage",
        lambda d: {"by": d.around(0.1, 10), "silent": d.chance(0.3), "done": d.chance(0.7), **_rate_and_seconds(d)},
        _window,
    ),
}
