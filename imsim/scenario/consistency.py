"""What must hold between fields of different sections, and what is odd between them: a scenario that contradicts itself
runs, but answers another question than the one that was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imsim.scenario.arrivals import Replay
from imsim.scenario.distributions import AbsentDistribution
from imsim.scenario.errors import FieldError
from imsim.scenario.quantities import format_duration
from imsim.scenario.sections import Link
from imsim.scenario.sections.faults import NodeCrash, nodes_of

if TYPE_CHECKING:
    from imsim.scenario.model import Scenario


def check(scenario: Scenario) -> None:
    """Raises: FieldError where one field leaves another without effect, with both of them and what to do."""
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


def _check_crashes(scenario: Scenario) -> None:
    topology = scenario.topology
    counts = {"gateway": topology.gateways, "router": topology.routers, "storage": topology.storages}
    away: dict[tuple[str, int], tuple[float, int]] = {}  # node -> until when, by which fault
    crashes = [(number, fault) for number, fault in enumerate(scenario.faults) if isinstance(fault, NodeCrash)]
    for number, fault in sorted(crashes, key=lambda crash: crash[1].at):
        for tier, index in nodes_of(fault.target, counts) or ():
            until, earlier = away.get((tier, index), (-1.0, -1))
            if fault.at <= until:
                raise FieldError(
                    f"faults.{number}.at",
                    f"expected more than {until:g} s, until when faults.{earlier} has {tier}{index} away, got"
                    f" {fault.at:g} s; make it one crash, or have it come back in between",
                )
            away[tier, index] = (fault.at + fault.duration, number)


def oddities(scenario: Scenario) -> list[str]:
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
