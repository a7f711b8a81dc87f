"""What must hold between fields of different sections, and what is odd between them: a scenario that contradicts itself
runs, but answers another question than the one that was asked."""

from __future__ import annotations

import math

from imsim.scenario.arrivals import Replay
from imsim.scenario.distributions import AbsentDistribution
from imsim.scenario.errors import FieldError, suggestion
from imsim.scenario.fields import ScenarioFields
from imsim.scenario.quantities import format_duration
from imsim.scenario.sections import Fault, Link, Topology
from imsim.scenario.sections.faults import (
    LossBurst,
    MassReconnect,
    NodeCrash,
    Partition,
    SlowReader,
    StorageStall,
    nodes_of,
)
from imsim.scenario.sections.people import CARRIED, MOST_BYTES
from imsim.scenario.sections.topology import TIERS

#: Tiers that send each other anything.
_JOINED = ({"gateway", "router"}, {"router"}, {"router", "storage"})


def check(scenario: ScenarioFields) -> None:
    """Raises: FieldError where a field does not fit another or leaves it without effect, with both and what to do."""
    if scenario.warmup >= scenario.duration:
        raise FieldError("warmup", f"expected less than duration ({scenario.duration:g} s), got {scenario.warmup:g} s")
    _check_people(scenario)
    for number, fault in enumerate(scenario.faults):
        _check_target(f"faults.{number}", fault, scenario.topology)
    policies, gateway, commit = scenario.policies, scenario.topology.gateway, scenario.topology.storage.commit
    _below("topology.gateway.batch_interval", gateway.batch_interval, "policies.push_timeout", policies.push_timeout)
    if commit is not None:
        _below("topology.storage.commit.linger", commit.linger, "policies.storage_timeout", policies.storage_timeout)
    for number, fault in enumerate(scenario.faults):
        if fault.at >= scenario.duration:
            raise FieldError(
                f"faults.{number}.at",
                f"expected less than duration ({scenario.duration:g} s), after which nobody sends, got {fault.at:g} s;"
                " raise duration, or leave the fault out",
            )
    _check_crashes(scenario)
    arrivals = scenario.workload.arrivals
    if isinstance(arrivals, Replay) and (late := sum(at >= scenario.duration for at in arrivals.at)):
        raise FieldError(
            "workload.arrivals",
            f"expected moments before duration ({scenario.duration:g} s), got {late} of {len(arrivals.at)} from then"
            f" on, the last at {arrivals.at[-1]:g} s; raise duration, or leave them out",
        )


def _check_people(scenario: ScenarioFields) -> None:
    users, talk, limits = scenario.population.users, scenario.conversations, scenario.limits
    if talk.partners >= users:
        raise FieldError(
            "conversations.partners", f"expected fewer than population.users ({users}), got {talk.partners}"
        )
    if users == 1 and talk.friend_requests:
        raise FieldError("conversations.friend_requests", "expected 0, as one user has nobody to ask; or more users")
    _check_fits("workload.size", scenario.workload.size.upper, "limits.content_bytes", limits.content_bytes)
    for type, size in scenario.workload.sizes.items():
        name, limit = ("limits.content_bytes", limits.content_bytes) if type in CARRIED else ("2 GB", MOST_BYTES)
        _check_fits(f"workload.sizes.{type}", size.upper, name, limit)
    for what, count, size, limit in (
        ("group_size", talk.groups, talk.group_size, limits.group_size),
        ("room_size", talk.rooms, talk.room_size, limits.room_size),
    ):
        if count:
            largest = min(size.upper, users) if math.isfinite(size.upper) else size.upper
            _check_fits(f"conversations.{what}", largest, f"limits.{what}", limit)


def _check_fits(path: str, largest: float, limit_path: str, limit: int) -> None:
    """Where the tail is open the plan cuts it at the limit; a known maximum beyond it is a mistake."""
    if largest < 1:
        raise FieldError(path, f"expected values of 1 or more, got at most {largest:g}")
    if limit < largest < math.inf:
        raise FieldError(path, f"expected at most {limit_path} ({limit}), got up to {largest:g}")


def _counts(topology: Topology) -> dict[str, int]:
    return {"gateway": topology.gateways, "router": topology.routers, "storage": topology.storages}


def _check_target(path: str, fault: Fault, topology: Topology) -> None:
    """The nodes that a fault names must exist."""
    if isinstance(fault, LossBurst | SlowReader | MassReconnect):
        return
    counts = _counts(topology)
    sides = []
    for field in ("target", "other") if isinstance(fault, Partition) else ("target",):
        target = getattr(fault, field)
        nodes = nodes_of(target, counts)
        if isinstance(fault, StorageStall) and not target.startswith("storage"):
            nodes = None
        if nodes is None:
            tiers = ["storage"] if isinstance(fault, StorageStall) else TIERS
            known = [*tiers, *(f"{tier}{n}" for tier in tiers for n in range(counts[tier]))]
            listed = ", ".join(known if len(known) <= 12 else [*known[:11], "..."])
            raise FieldError(f"{path}.{field}", f"there is no {target}{suggestion(target, known)}; there are {listed}")
        sides.append(nodes)
    if len(sides) == 2 and not any(
        {one[0], other[0]} in _JOINED and one != other for one in sides[0] for other in sides[1]
    ):
        assert isinstance(fault, Partition)
        raise FieldError(f"{path}.other", f"nothing that could be cut off goes from {fault.target} to {fault.other}")


def _check_crashes(scenario: ScenarioFields) -> None:
    counts = _counts(scenario.topology)
    down: dict[tuple[str, int], tuple[float, int]] = {}  # node -> until when, by which fault
    crashes = [(number, fault) for number, fault in enumerate(scenario.faults) if isinstance(fault, NodeCrash)]
    for number, fault in sorted(crashes, key=lambda crash: crash[1].at):
        for tier, index in nodes_of(fault.target, counts) or ():
            until, earlier = down.get((tier, index), (-1.0, -1))
            if fault.at <= until:
                raise FieldError(
                    f"faults.{number}.at",
                    f"expected more than {until:g} s, until when faults.{earlier} has {tier}{index} away, got"
                    f" {fault.at:g} s; make it one crash, or have it come back in between",
                )
            down[tier, index] = (fault.at + fault.duration, number)


def oddities(scenario: ScenarioFields) -> list[str]:
    """What may be meant, and mostly is not: a line each, with the fields and what to do. Simulated runs only."""
    found = []
    policies, network = scenario.policies, scenario.network
    servers = _usual(network.between("gateway", "router")) + _usual(network.between("router", "storage"))
    for name, link in network.in_use().items():
        client = _usual(link)
        where = f"network.clients.{name}" if name else "network.client"
        for field, timeout, least in (
            ("send_timeout", policies.send_timeout, client + servers),
            ("push_timeout", policies.push_timeout, client),
        ):
            if timeout < least:
                usual = format_duration(float(f"{least:.3g}"))
                found.append(
                    f"policies.{field} ({format_duration(timeout)}) is shorter than the usual way there and back over"
                    f" {where} ({usual}): most is sent again before it can be answered; raise it"
                )
    for number, fault in enumerate(scenario.faults):
        over = fault.at + getattr(fault, "duration", 0.0)
        if over > scenario.duration + scenario.drain:
            found.append(
                f"faults.{number} is over at {over:g} s, after the end of the run ({scenario.duration:g} s and a drain"
                f" of {scenario.drain:g} s): nothing recovers from it; raise drain, or shorten faults.{number}.duration"
            )
        elif over > scenario.duration:
            found.append(
                f"faults.{number} is over at {over:g} s, when nobody sends any more (duration is {scenario.duration:g}"
                " s): what comes after it is not seen; raise duration to see it"
            )
    return found


def _below(path: str, value: float, limit_path: str, limit: float) -> None:
    if value >= limit:
        raise FieldError(
            path,
            f"expected less than {limit_path} ({limit:g} s), which would always be over first, got {value:g} s; lower"
            " the one or raise the other",
        )


def _usual(link: Link) -> float:
    """Its median latency there and back, in seconds; of the jitter, which is never negative, nothing."""
    if isinstance(link.latency, AbsentDistribution):
        return 0.0  # read from a file, of which nobody knows more
    return 2 * float(link.latency.quantile(0.5))
