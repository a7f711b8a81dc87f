"""Checks of fields of different sections against each other.

`check` refuses contradictions. `oddities` lists values that are allowed, but probably a mistake. Without these checks,
a scenario that contradicts itself would run, but would not answer its question.
"""

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

#: The tiers whose nodes exchange frames.
_JOINED = ({"gateway", "router"}, {"router"}, {"router", "storage"})


def check(scenario: ScenarioFields) -> None:
    """Raise a FieldError if a field contradicts another one or disables it. The error names both and the remedy."""
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
                f"expected less than duration ({scenario.duration:g} s), because no messages are sent after it, got"
                f" {fault.at:g} s; raise duration or remove the fault",
            )
    _check_crashes(scenario)
    arrivals = scenario.workload.arrivals
    if isinstance(arrivals, Replay) and (late := sum(at >= scenario.duration for at in arrivals.at)):
        raise FieldError(
            "workload.arrivals",
            f"expected moments before duration ({scenario.duration:g} s), but {late} of {len(arrivals.at)} are not"
            f" (the last is at {arrivals.at[-1]:g} s); raise duration or remove them",
        )


def _check_people(scenario: ScenarioFields) -> None:
    users, talk, limits = scenario.population.users, scenario.conversations, scenario.limits
    if talk.partners >= users:
        raise FieldError(
            "conversations.partners", f"expected fewer than population.users ({users}), got {talk.partners}"
        )
    if users == 1 and talk.friend_requests:
        raise FieldError(
            "conversations.friend_requests",
            f"expected 0, because population.users is 1, got {talk.friend_requests:g}; set it to 0 or add users",
        )
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
    """Raise a FieldError if the largest value of a distribution is below 1 or above a limit.

    A tail without a maximum is allowed: the plan cuts it at the limit. A known maximum above the limit is a mistake.
    """
    if largest < 1:
        raise FieldError(path, f"expected values of 1 or more, got at most {largest:g}")
    if limit < largest < math.inf:
        raise FieldError(path, f"expected at most {limit_path} ({limit}), got up to {largest:g}")


def _counts(topology: Topology) -> dict[str, int]:
    return {"gateway": topology.gateways, "router": topology.routers, "storage": topology.storages}


def _check_target(path: str, fault: Fault, topology: Topology) -> None:
    """Raise a FieldError if a node that a fault names does not exist."""
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
            raise FieldError(
                f"{path}.{field}", f"there is no {target}{suggestion(target, known)}; known here: {listed}"
            )
        sides.append(nodes)
    if len(sides) == 2 and not any(
        {one[0], other[0]} in _JOINED and one != other for one in sides[0] for other in sides[1]
    ):
        assert isinstance(fault, Partition)
        raise FieldError(
            f"{path}.other", f"expected a tier or node that exchanges frames with {fault.target}, got {fault.other}"
        )


def _check_crashes(scenario: ScenarioFields) -> None:
    counts = _counts(scenario.topology)
    down: dict[tuple[str, int], tuple[float, int]] = {}  # node -> (time of its restart, number of the fault)
    crashes = [(number, fault) for number, fault in enumerate(scenario.faults) if isinstance(fault, NodeCrash)]
    for number, fault in sorted(crashes, key=lambda crash: crash[1].at):
        for tier, index in nodes_of(fault.target, counts) or ():
            until, earlier = down.get((tier, index), (-1.0, -1))
            if fault.at <= until:
                raise FieldError(
                    f"faults.{number}.at",
                    f"expected more than {until:g} s, because {tier}{index} is down until then (faults.{earlier}), got"
                    f" {fault.at:g} s; let it restart before it crashes again, or use a single, longer crash",
                )
            down[tier, index] = (fault.at + fault.duration, number)


def oddities(scenario: ScenarioFields) -> list[str]:
    """List values that are allowed, but probably a mistake: one line each, with the fields and the remedy.

    They concern simulated runs only.
    """
    found = []
    policies, network = scenario.policies, scenario.network
    servers = sum(_median_round_trip(network.between(*pair)) for pair in (("gateway", "router"), ("router", "storage")))
    for name, link in network.in_use().items():
        client = _median_round_trip(link)
        where = f"network.clients.{name}" if name else "network.client"
        for field, timeout, least, frames in (
            ("send_timeout", policies.send_timeout, client + servers, "sends"),
            ("push_timeout", policies.push_timeout, client, "pushes"),
        ):
            if timeout < least:
                median = format_duration(float(f"{least:.3g}"))
                found.append(
                    f"policies.{field} ({format_duration(timeout)}) is shorter than the median round trip over {where}"
                    f" ({median}): most {frames} are repeated before an answer can arrive; raise policies.{field}"
                )
    for number, fault in enumerate(scenario.faults):
        end = fault.at + getattr(fault, "duration", 0.0)
        if end > scenario.duration + scenario.drain:
            found.append(
                f"faults.{number} ends at {end:g} s, after the end of the run (duration {scenario.duration:g} s and"
                f" drain {scenario.drain:g} s): the run does not include the recovery; raise drain or shorten"
                f" faults.{number}.duration"
            )
        elif end > scenario.duration:
            found.append(
                f"faults.{number} ends at {end:g} s, when no messages are sent any longer (duration"
                f" {scenario.duration:g} s): the recovery cannot be measured; raise duration"
            )
    return found


def _below(path: str, value: float, limit_path: str, limit: float) -> None:
    if value >= limit:
        raise FieldError(
            path,
            f"expected less than {limit_path} ({limit:g} s), which would always expire first, got {value:g} s; lower"
            f" this value or raise {limit_path}",
        )


def _median_round_trip(link: Link) -> float:
    """Return the median round trip of a link without its jitter (which only adds to it), in seconds."""
    if isinstance(link.latency, AbsentDistribution):
        return 0.0  # unknown: the file contains only the name of a custom distribution
    return 2 * float(link.latency.quantile(0.5))
