"""The effects of faults on the cluster, by kind. A kind without a function here opens a window, which links and nodes
look up."""

from __future__ import annotations

from collections.abc import Callable

from imsim.faultsearch.case import user_of
from imsim.faultsearch.cluster import FlawedCluster
from imsim.faultsearch.faults import Fault, Window

Injection = Callable[[FlawedCluster, Fault], None]
INJECTIONS: dict[str, Injection] = {}


def inject(fault: Fault, world: FlawedCluster) -> None:
    """Apply the fault now."""
    INJECTIONS.get(fault.kind, _window)(world, fault)


def _of(*kinds: str) -> Callable[[Injection], Injection]:
    """Register a function as the effect of these kinds."""

    def mark(injection: Injection) -> Injection:
        INJECTIONS.update(dict.fromkeys(kinds, injection))
        return injection

    return mark


def _window(world: FlawedCluster, fault: Fault) -> None:
    windows = world.windows[fault.target]
    windows[fault.kind] = Window(fault, world.stream(fault), world.now)
    world.later(fault.arguments["seconds"], windows.close, fault)


@_of("half_open")
def _half_open(world: FlawedCluster, fault: Fault) -> None:
    for connection in world.connections_of(fault.target):
        connection.make_half_open(fault.arguments["direction"])
        world.record_hit(fault)


@_of("break")
def _break(world: FlawedCluster, fault: Fault) -> None:
    for connection in world.connections_of(fault.target):
        connection.cut(None)
        world.record_hit(fault)


@_of("app_crash")
def _app_crash(world: FlawedCluster, fault: Fault) -> None:
    app = world.apps[fault.target]
    if app.is_up:
        world.record_hit(fault)
    app.crash(silent=fault.arguments["silent"])
    world.later(fault.arguments["seconds"], app.start_again, None)


@_of("double_login")
def _double_login(world: FlawedCluster, fault: Fault) -> None:
    world.record_hit(fault)
    world.apps[fault.target].start_again(None)


@_of("token_refused")
def _token_refused(world: FlawedCluster, fault: Fault) -> None:
    _window(world, fault)
    for connection in world.connections_of(fault.target):
        connection.cut(None)


@_of("revoke")
def _revoke(world: FlawedCluster, fault: Fault) -> None:
    if fault.arguments["race"]:
        for device in world.case.devices:
            if user_of(device) == fault.target:
                for connection in world.connections_of(device):
                    connection.cut(None)
        world.at_login[fault.target] = fault
    else:
        world.revoke(fault)


@_of("gateway_crash", "router_crash")
def _crash(world: FlawedCluster, fault: Fault) -> None:
    world.crash(fault.target, fault)


@_of("crash_on", "gateway_crash_on")
def _crash_on(world: FlawedCluster, fault: Fault) -> None:
    world.ambushes.append(fault)


@_of("clock")
def _clock(world: FlawedCluster, fault: Fault) -> None:
    app = world.apps.get(fault.target)
    if app is None or app.is_up:
        world.node(fault.target).set_clock(fault.arguments["ahead"], fault.arguments["drift"])
        world.record_hit(fault)


@_of("partition")
def _partition(world: FlawedCluster, fault: Fault) -> None:
    others, seconds = fault.arguments["others"], fault.arguments["seconds"]
    if world.channels_between(fault.target, *others):
        world.record_hit(fault)
    for other in others:
        for channel in world.channels_between(fault.target, other):
            channel.break_off()
            world.later(seconds, channel.end_break, None)
        world.later(seconds, world.outages.end, world.break_off(fault.target, [other], fault))


@_of("lag")
def _lag(world: FlawedCluster, fault: Fault) -> None:
    window = Window(fault, world.stream(fault), world.now)
    for channel in world.channels_between(fault.target, *fault.arguments["others"]):
        channel.lag(window)
