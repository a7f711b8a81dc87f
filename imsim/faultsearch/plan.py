"""Drawing a case from its seed: the world, its policies and its faults."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from imsim.core.model import conversation_id
from imsim.core.policies import Ack, Delivery, Fanout, Policies, Presence, Receipts, Sessions, Strangers
from imsim.faultsearch.case import EARLIEST, Case, Step, names_of, slot, user_of
from imsim.faultsearch.faults import KINDS, Fault
from imsim.faultsearch.random import Random
from imsim.faultsearch.scenes import Stage
from imsim.faultsearch.workload import GROUPS, Targets, Workload, targets_of
from imsim.scenario import Draws, Scenario, Stream

USERS = ("alice", "bob", "carol", "dave", "erin")
DEVICE_KINDS = ("phone", "phone", "desktop", "")
CONTENT_BYTES = 200  # the limit on content: small, so that messages reach it
WALL_SKEWS = (0.0, 60.0, 60.0)  # seconds
PAGE_BYTES = (40, 1_000)  # from less than some messages have to more than most conversations have


def draw(seed: int, scenario: Scenario | None = None) -> Case:
    """Return the case of a seed. A scenario gives policies, topology and latencies; otherwise they are drawn."""
    random = Random(Stream(Draws(seed, "chaos"), 0))
    users = USERS[: random.whole(2, len(USERS))]
    devices = tuple(f"{user}/d{n}" for user in users for n in range(random.pick((1, 2, 2, 3))))
    kinds = tuple(random.pick(DEVICE_KINDS) for _ in devices)
    gateways, routers = random.whole(1, 3), random.whole(1, 3)
    policies = _policies(random)
    latencies = (random.around(0.001, 0.2), random.around(0.0002, 0.02), random.around(0.0005, 0.05))
    if scenario is not None:
        topology, network = scenario.topology, scenario.network
        gateways, routers = topology.gateways, topology.routers
        policies = scenario.core_policies()
        medians = [link.latency.quantile(0.5) for link in (network.client, network.backend, network.backend)]
        latencies = (medians[0], medians[1], medians[2])
    duration = random.between(10, 40)
    targets = targets_of(random, users)
    steps = Workload(random, users, devices, targets, duration, policies.content_bytes).draw()
    nodes = {"gateway": names_of("gateway", gateways), "router": names_of("router", routers)}
    faults = _faults(random, devices, nodes, duration)
    slots = {device: slot(policies, device, kind) for device, kind in zip(devices, kinds, strict=True)}
    rivals = [pair for pair in combinations(devices, 2) if slots[pair[0]] == slots[pair[1]]]
    stage = Stage(Random(Stream(Draws(seed, "chaos"), 1)), devices, nodes["gateway"], nodes["router"], duration, rivals)
    stage.play_some(with_faults=bool(faults))
    looks: tuple[Step, ...] = ()
    if scenario is None:
        policies = _with_overload(policies, Random(Stream(Draws(seed, "chaos"), 4)))
        policies, looks = _narrow(Random(Stream(Draws(seed, "chaos"), 2)), policies, devices, targets, duration)
        policies = _first_sync(Random(Stream(Draws(seed, "chaos"), 4)), policies)
    looks += _listings(Random(Stream(Draws(seed, "chaos"), 5)), users, devices, duration)
    return Case(
        seed,
        users,
        devices,
        kinds,
        gateways,
        routers,
        policies,
        *latencies,
        duration,
        tuple(sorted((*steps, *stage.steps, *looks), key=lambda step: step.time)),
        tuple(sorted((*faults, *stage.faults), key=lambda fault: fault.time)),
        Random(Stream(Draws(seed, "chaos"), 3)).pick(WALL_SKEWS),
    )


def _with_overload(policies: Policies, random: Random) -> Policies:
    """Return the policies with a drawn limit of the wait, so that slow storage makes some servers refuse sends."""
    longest_wait, send_backoff = random.pick((0.005, 0.02, 0.1, 1.0)), random.pick((1.0, 2.0))
    return replace(policies, longest_wait=longest_wait, send_backoff=send_backoff)


def _policies(random: Random) -> Policies:
    heartbeat = random.between(1, 8)
    reconnect = random.between(0.1, 1)
    return Policies(
        ack=Ack(random.pick(("after_store", "after_receive"))),
        sessions=Sessions(random.pick(("all", "all", "all", "one_per_kind", "single"))),
        fanout=Fanout(random.pick(("read", "write"))),
        delivery=Delivery(random.pick(("push", "push", "notify"))),
        receipts=Receipts(random.pick(("read", "delivered"))),
        send_timeout=random.between(0.5, 5),
        send_attempts=random.pick((2, 4, 8, 1000)),
        push_timeout=random.between(0.3, 3),
        push_backoff=random.between(1, 2),
        gap_wait=random.between(0.2, 3),
        heartbeat=heartbeat,
        heartbeat_timeout=heartbeat * random.between(1.5, 3),
        reconnect_min=reconnect,
        reconnect_max=reconnect * random.between(1, 16),
        storage_timeout=random.between(0.5, 5),
        login_timeout=random.between(1, 5),
        content_bytes=CONTENT_BYTES,
        send_queue=random.pick((3, 8, 1024)),
        page=random.pick((1, 3, 10, 100)),
        open_conversations=random.pick((1, 2, 100)),
        user_rate=random.around(0.5, 10) if random.chance(0.12) else 0.0,
        user_burst=random.whole(1, 5),
        group_rate=random.around(0.5, 10) if random.chance(0.12) else 0.0,
        group_burst=random.whole(1, 5),
        strangers=Strangers.REFUSE if random.chance(0.15) else Strangers.ALLOW,
        presence=Presence(random.pick(("off", "friends"))),
        typing_rate=random.pick((0.0, 1.0, 1.0)),
        recall_window=random.pick((120.0, 120.0, 3.0)),
        edit_window=random.pick((900.0, 5.0)),
        request_lifetime=random.pick((604_800.0, 604_800.0, 2.0)),
        group_size=random.pick((5_000, 5_000, 5_000, 3)),
        rooms=random.pick((100, 100, 1)),
        room_size=random.pick((100_000, 100_000, 2)),
        room_recent=random.pick((0, 2, 20)),
        room_rate=random.around(0.2, 2) if random.chance(0.3) else 0.0,
        room_burst=random.whole(1, 3),
    )


def _narrow(
    random: Random, policies: Policies, devices: tuple[str, ...], targets: Targets, duration: float
) -> tuple[Policies, tuple[Step, ...]]:
    """Return policies with a small page limit and steps that read old history, for some seeds.

    It has its own random stream, so that the rest of the case stays as it was before this function existed.
    """
    if not random.chance(0.3):
        return policies, ()
    looks = []
    for _ in range(6):
        device = random.pick(devices)
        user = user_of(device)
        scene, to = random.pick(targets[user])
        asked = {"conversation": conversation_id(scene, user, to), "first": 1, "last": 100}
        looks.append(Step(random.between(duration / 3, duration), device, "history", asked))
    return replace(policies, page_bytes=int(random.around(*PAGE_BYTES))), tuple(looks)


def _first_sync(random: Random, policies: Policies) -> Policies:
    """Return policies under which a first sync brings only the newest messages, for some seeds.

    Like `_narrow`, it has its own random stream.
    """
    return replace(policies, first_sync=random.pick((1, 1, 2, 4))) if random.chance(0.5) else policies


def _listings(random: Random, users: tuple[str, ...], devices: tuple[str, ...], duration: float) -> tuple[Step, ...]:
    """Draw requests for the state of groups and for friends. They have their own random stream, like `_narrow`."""
    steps = []
    for _ in range(random.pick((0, 5, 15))):
        at, device, after = random.between(EARLIEST, duration), random.pick(devices), random.pick(("", "", "", *users))
        if random.chance(0.7):
            name = random.pick((GROUPS[0], *GROUPS))
            steps.append(Step(at, device, "group", {"name": name, "after": after}))
        else:
            steps.append(Step(at, device, "friends", {"after": after}))
    return tuple(steps)


def _faults(
    random: Random, devices: tuple[str, ...], nodes: dict[str, list[str]], duration: float
) -> tuple[Fault, ...]:
    """Draw the faults by swarm testing: each seed leaves out some kinds, so that one kind does not always hide another.

    `nodes`: by tier.
    """
    share = random.pick((0.15, 0.3, 0.6))
    kinds = [name for name in KINDS if random.chance(share)]
    if not kinds or random.chance(0.08):
        return ()  # some seeds have no faults, and then no request may be refused as unavailable
    faults = []
    for _ in range(random.whole(1, 14)):
        name = random.pick(kinds)
        kind = KINDS[name]
        arguments = kind.draw(random)
        target = _target(random, kind.where, devices, nodes)
        if kind.where == "nodes":
            known = nodes["router"] if target in nodes["gateway"] else [*nodes["gateway"], *nodes["router"]]
            others = [node for node in known if node != target]
            arguments["others"] = [node for node in others if random.chance(0.6)] or [random.pick(others)]
        faults.append(Fault(random.between(EARLIEST, duration), name, target, arguments))
    return tuple(sorted(faults, key=lambda fault: fault.time))


def _target(random: Random, where: str, devices: tuple[str, ...], nodes: dict[str, list[str]]) -> str:
    if where == "storage":
        return where
    if where in nodes:
        return random.pick(nodes[where])
    if where == "device":
        return random.pick(devices)
    if where == "user":
        return user_of(random.pick(devices))
    every_node = [*nodes["gateway"], *nodes["router"]]
    return random.pick([*devices, *every_node] if where == "any" else every_node)
