"""The conclusion of a run: what its manifest says of its players and devices, and the warnings that follow from that.

`imsim.load.collect` adds what the rows say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from imsim.load.population import Population
from imsim.load.roster import Roster

_SHOWN = 3  # exceptions in the warning; the manifest has all


def conclude(
    ends: Mapping[int, dict[str, Any]], roster: Roster, population: Population, cpu: float
) -> tuple[dict[str, Any], list[str]]:
    """Return entries for the manifest, and warnings.

    ends: the last report of each player. cpu: CPU seconds per second that no player counts.
    """
    health = {index: end["health"] for index, end in ends.items()}
    manifest = {
        "foreign": sum(end["foreign"] for end in ends.values()),
        "locust_cpu": round(sum(end["cpu"] for end in ends.values()) + cpu, 3),
        "workers": roster.entries(lambda index: len(population.owned(index)), health),
        "exceptions": _merged(one for end in ends.values() for one in end["exceptions"]),
    }
    if unknown := roster.unknown_clocks:
        manifest["invalid_because"] = (
            f"the clock of {', '.join(unknown)} is unknown, because it answered no probe: latencies between workers"
            " mean nothing"
        )
    return manifest, list(_warnings(list(ends.values()), roster, population, manifest["exceptions"]))


def _merged(exceptions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the exceptions of all players, each type and place once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in exceptions:
        entry = found.setdefault((one["error"], one["place"]), one | {"count": 0})
        entry["count"] += one["count"]
    return list(found.values())


def exceptions_line(exceptions: Sequence[Mapping[str, Any]]) -> str:
    """Return the manifest's `exceptions` as one line: their count, and the first ones."""
    shown = [f"{one['count']} x {one['error']}: {one['message']} ({one['place']})" for one in exceptions[:_SHOWN]]
    more = ["..."] if len(exceptions) > _SHOWN else []
    return f"{sum(one['count'] for one in exceptions)} exceptions in tasks: {'; '.join([*shown, *more])}"


def _warnings(
    ends: list[dict[str, Any]], roster: Roster, population: Population, exceptions: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    if exceptions:
        yield exceptions_line(exceptions)
    if count := sum(end["from_tasks"] for end in ends):
        yield (
            f"{count} messages come from tasks, which are a closed model: a task waits for the server before it sends"
            " the next message, so a slow server gets less load, and these latencies look better than they are"
        )
    if population.refused:
        yield (
            f"{population.refused} users of Locust took no part, because the scenario has only {population.size}"
            " devices; raise population.users, or start the test with the largest number of users (users that are"
            " added while messages are sent can take part only if conversations.p2p_share is not 0)"
        )
    if population.added:
        yield (
            f"{population.added} users were added during the test, beyond the scenario's population: they send and"
            " receive messages between two users, but are in no group or chatroom"
        )
    if not roster.losses and (missing := sum(end["missing_in_rooms"] for end in ends)) > 0:
        yield (
            f"{missing} deliveries of chatroom messages never arrived: they were lost, or shed by the server (clients"
            " cannot distinguish the two)"
        )
    latencies = [end["between_ms"] for end in ends if end["between_ms"] is not None]
    if (doubt := roster.clock_warning(latencies)) is not None:
        yield doubt
