"""What a seed stands for: a small world, what its users do, what goes wrong. All of it data, drawn before the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from imsim.core.model import Scene, conversation_id
from imsim.core.policies import Policies
from imsim.scenario import Draws, Scenario, Stream
from imsim.sim.chaos.dice import Dice
from imsim.sim.faults import KINDS, Fault

USERS = ("alice", "bob", "carol", "dave", "erin")
GROUPS = ("team", "club")
EARLIEST = 0.2  # seconds: by then every device has been switched on
CONFLICTS = 0.3  # how many twins of a message say something else
CONTENT_BYTES = 200  # the limit on content: small, so that it is met

# A gap is waited for until it is filled: what a device shows after giving one up is out of order by design.
_NO_GIVING_UP = 1e6


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a user does with a device. `arguments`: those of the action (see `ACTIONS`)."""

    time: float
    device: str
    action: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        arguments = " ".join(f"{name}={value}" for name, value in self.arguments.items() if value != "")
        return f"{self.time:9.3f} {self.device:<10} {self.action} {arguments}".rstrip()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "arguments": dict(self.arguments)}


@dataclass(frozen=True, slots=True)
class Case:
    """All that a run follows from. Latencies: seconds, one way."""

    seed: int
    users: tuple[str, ...]
    devices: tuple[str, ...]  # "alice/d0"
    gateways: int
    routers: int
    policies: Policies
    client_latency: float
    backend_latency: float
    storage_latency: float
    duration: float
    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]

    def with_(self, *, steps: tuple[Step, ...] | None = None, faults: tuple[Fault, ...] | None = None) -> Case:
        return replace(
            self,
            steps=self.steps if steps is None else steps,
            faults=self.faults if faults is None else faults,
        )

    def to_json(self) -> dict[str, Any]:
        fields = asdict(replace(self, steps=(), faults=()))
        return {**fields, "steps": [s.to_json() for s in self.steps], "faults": [f.to_json() for f in self.faults]}


def draw(seed: int, scenario: Scenario | None = None) -> Case:
    """The case of a seed. A scenario gives policies, topology and latencies in place of drawn ones."""
    dice = Dice(Stream(Draws(seed, "chaos"), 0))
    users = USERS[: dice.whole(2, len(USERS))]
    devices = tuple(f"{user}/d{n}" for user in users for n in range(dice.whole(1, 2)))
    gateways, routers = dice.whole(1, 3), dice.whole(1, 3)
    policies = _policies(dice)
    latencies = (dice.around(0.001, 0.2), dice.around(0.0002, 0.02), dice.around(0.0005, 0.05))
    if scenario is not None:
        topology, network = scenario.topology, scenario.network
        gateways, routers = topology.gateways, topology.routers
        policies = replace(scenario.core_policies(), gap_wait=_NO_GIVING_UP)
        medians = [link.latency.quantile(0.5) for link in (network.client, network.backend, network.backend)]
        latencies = (medians[0], medians[1], medians[2])
    duration = dice.between(10, 40)
    targets = _targets(dice, users)
    steps = _steps(dice, users, devices, targets, duration, policies.content_bytes)
    nodes = [f"g{n}" for n in range(gateways)] + [f"r{n}" for n in range(routers)]
    faults = _faults(dice, devices, nodes, duration)
    for fault in [fault for fault in faults if fault.kind == "double_login"]:
        steps += _race(dice, fault, targets)
        if dice.chance(0.7):
            late = {"others": nodes[gateways:], "up_to": dice.around(0.1, 2), "seconds": 4.0}
            faults += tuple(Fault(fault.time, "lag", gateway, late) for gateway in nodes[:gateways])
    return Case(
        seed,
        users,
        devices,
        gateways,
        routers,
        policies,
        *latencies,
        duration,
        tuple(sorted(steps, key=lambda step: step.time)),
        tuple(sorted(faults, key=lambda fault: fault.time)),
    )


def _race(dice: Dice, fault: Fault, targets: _Targets) -> tuple[Step, ...]:
    """While a device logs in a second time, both of it write into one conversation."""
    scene, to = dice.pick(targets[fault.target.split("/")[0]])
    at, steps = fault.time, []
    for number in range(8):
        at = round(at + dice.between(0, 0.5), 6)
        message = _message(dice, scene, to, f"{fault.target}-{fault.time}-{number}", CONTENT_BYTES)
        steps.append(Step(at, fault.target, "send", message))
    return tuple(steps)


def _policies(dice: Dice) -> Policies:
    heartbeat = dice.between(1, 8)
    reconnect = dice.between(0.1, 1)
    return Policies(
        ack=dice.pick(("after_store", "after_receive")),
        send_timeout=dice.between(0.5, 5),
        send_attempts=dice.pick((2, 4, 8, 1000)),
        push_timeout=dice.between(0.3, 3),
        push_backoff=dice.between(1, 2),
        gap_wait=_NO_GIVING_UP,
        heartbeat=heartbeat,
        heartbeat_timeout=heartbeat * dice.between(1.5, 3),
        reconnect_min=reconnect,
        reconnect_max=reconnect * dice.between(1, 16),
        storage_timeout=dice.between(0.5, 5),
        login_timeout=dice.between(1, 5),
        content_bytes=CONTENT_BYTES,
        send_queue=dice.pick((3, 8, 1024)),
        page=dice.pick((1, 3, 10, 100)),
        open_conversations=dice.pick((1, 2, 100)),
    )


# --- what the users do -----------------------------------------------------------------------------------------------

#: What a step can be. `twin` sends with an idClient that another device of the user has used; `resend` sends again
#: what failed last; `leave` stops the client and `come` starts it.
ACTIONS = ("send", "burst", "twin", "resend", "read", "create_group", "leave", "come")

_COMMON = {"send": 10.0, "burst": 3.0, "read": 8.0}
_RARE = {"twin": 1.0, "resend": 1.5, "create_group": 0.5, "leave": 1.0, "come": 2.0}


_Targets = dict[str, list[tuple[Scene, str]]]  # user -> whom they write to, the frequent ones several times


def _steps(
    dice: Dice, users: tuple[str, ...], devices: tuple[str, ...], targets: _Targets, duration: float, limit: int
) -> tuple[Step, ...]:
    groups = {name: dice.some(users, dice.whole(1, len(users))) for name in GROUPS[: dice.whole(1, 2)]}
    steps: list[Step] = []
    for name, members in groups.items():
        founder = dice.pick([device for device in devices if device.split("/")[0] in members])
        steps.append(Step(dice.between(0.5, 3), founder, "create_group", {"name": name, "members": members}))
    weights = {action: weight * dice.around(0.3, 3) for action, weight in _COMMON.items()}
    weights |= {action: weight * dice.around(0.3, 3) for action, weight in _RARE.items() if dice.chance(0.7)}
    actions = [action for action, weight in weights.items() for _ in range(int(weight * 10))]
    sent: list[Step] = []
    at = EARLIEST
    for number in range(dice.whole(15, 70)):
        at = (
            dice.between(EARLIEST, duration) if dice.chance(0.5) else min(duration, round(at + dice.between(0, 0.3), 6))
        )
        action, device = dice.pick(actions), dice.pick(devices)
        user = device.split("/")[0]
        scene, to = dice.pick(targets[user])
        arguments: dict[str, Any] = {}
        if action in ("send", "burst"):
            for part in range(2 if action == "burst" else 1):
                arguments = _message(dice, scene, to, f"{device}-{number}{'ab'[part]}", limit)
                steps.append(Step(at, device, "send", arguments))
                sent.append(steps[-1])
            continue
        if action == "twin":
            twins = [s for s in sent if s.device != device and s.device.split("/")[0] == user]
            if not twins:
                continue
            arguments = dict(dice.pick(twins).arguments)
            if dice.chance(CONFLICTS):
                arguments["content"] += " changed"
            action = "send"
        elif action == "read":
            arguments = {"conversation": conversation_id(scene, user, to)}
            if dice.chance(0.5):  # on all devices at once: each says how far it has got
                others = [other for other in devices if other != device and other.split("/")[0] == user]
                steps += [Step(round(at + dice.between(0, 0.05), 6), other, action, arguments) for other in others]
        elif action == "create_group":
            name = dice.pick(GROUPS)
            arguments = {"name": name, "members": groups.get(name) if dice.chance(0.5) else dice.some(users, 2)}
            arguments["members"] = arguments["members"] or [user]
        steps.append(Step(at, device, action, arguments))
    return tuple(sorted(steps, key=lambda step: step.time))


def _targets(dice: Dice, users: tuple[str, ...]) -> _Targets:
    """Whom each user writes to: a few, so that they meet; at times oneself, or a group that is none of theirs."""
    partner = dice.pick(users)
    targets: _Targets = {}
    for user in users:
        other = partner if partner != user else users[(users.index(user) + 1) % len(users)]
        mine = [(Scene.P2P, other)] * 4 + [(Scene.GROUP, GROUPS[0])] * 3
        if dice.chance(0.3):
            mine.append((Scene.P2P, user))
        if dice.chance(0.6):
            mine += [(Scene.GROUP, GROUPS[1])] * dice.whole(1, 3)
        targets[user] = mine
    return targets


def _message(dice: Dice, scene: Scene, to: str, id_client: str, limit: int) -> dict[str, Any]:
    content = f"text of {id_client}"
    if dice.chance(0.02):
        content += "." * limit
    type = "notification" if dice.chance(0.1) else "text"
    return {"scene": str(scene), "to": to, "id": id_client, "content": content, "type": type}


# --- what goes wrong -------------------------------------------------------------------------------------------------


def _faults(dice: Dice, devices: tuple[str, ...], nodes: list[str], duration: float) -> tuple[Fault, ...]:
    """Swarm testing: each seed leaves some kinds out altogether, so that one kind does not always hide another. Half of
    them leave out what today only another login repairs, and so must be whole without one."""
    share = dice.pick((0.15, 0.3, 0.6))
    mild = dice.chance(0.5)
    kinds = [name for name, kind in KINDS.items() if dice.chance(share) and not (mild and kind.deafens)]
    if not kinds:
        return ()
    faults = []
    for _ in range(dice.whole(1, 14)):
        name = dice.pick(kinds)
        kind = KINDS[name]
        arguments = kind.draw(dice)
        target = _target(dice, kind.where, devices, nodes)
        if kind.where == "nodes":
            arguments["others"] = [node for node in nodes if node != target and dice.chance(0.6)]
        faults.append(Fault(dice.between(EARLIEST, duration), name, target, arguments))
    return tuple(sorted(faults, key=lambda fault: fault.time))


def _target(dice: Dice, where: str, devices: tuple[str, ...], nodes: list[str]) -> str:
    if where == "storage":
        return where
    if where == "device":
        return dice.pick(devices)
    if where == "any":
        return dice.pick([*devices, *nodes])
    return dice.pick([node for node in nodes if where == "nodes" or node[0] == where[0]])
