"""All checks, a few at the same time, each with its own devices."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Any, NamedTuple

from imsim.core.exceptions import ImsimError, RunError, UsageError
from imsim.core.policies import Policies
from imsim.load.adapters.interface import Acked, Adapter, Event, Feature, Read, Target
from imsim.load.conformance import live, offline
from imsim.load.conformance.kit import Failure, Kit, raised
from imsim.load.conformance.report import Outcome, Report, Result
from imsim.load.exchange import exchange

_AT_ONCE = 4  # checks; they mostly wait

POLICIES = Policies(login_timeout=3.0, send_timeout=1.5, send_attempts=2, reconnect_min=0.1, reconnect_max=1.0)
"""Short timeouts and pauses for the checks. A target can have others."""


class Check(NamedTuple):
    """A check: its function, and the feature that it needs."""

    run: Callable[[Kit], Awaitable[str]]
    feature: Feature | None = None


CHECKS: dict[str, Check] = {
    "login": Check(live.login),
    "echo": Check(live.echo),
    "two users": Check(live.two_users),
    "texts": Check(live.texts),
    "acks": Check(live.acks, Feature.ACK),
    "groups": Check(live.groups, Feature.GROUPS),
    "chatrooms": Check(live.chatrooms, Feature.CHATROOMS),
    "own devices": Check(live.own_devices, Feature.OWN_DEVICES),
    "types": Check(live.types, Feature.TYPES),
    "receipts": Check(live.receipts, Feature.RECEIPTS),
    "resume": Check(live.resume, Feature.RESUME),
    "membership": Check(live.membership, Feature.MEMBERSHIP),
    "loss": Check(live.loss),
    "duplicates": Check(live.duplicates),
    "reconnect": Check(live.reconnect),
    "silence": Check(live.silence),
    "stop": Check(live.stop),
    "timers": Check(offline.timers),
    "garbage": Check(offline.garbage),
}
"""The checks, by name, in their order."""

_EVENTS: dict[Feature, type[Event]] = {Feature.ACK: Acked, Feature.RECEIPTS: Read}
"""Events that only an adapter with the feature may return."""


def check(
    adapter: type[Adapter],
    target: Target,
    *,
    only: Collection[str] = (),
    patience: float = 5.0,
    progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Check an adapter against the server of the target. Where an event loop runs, use `await checked(...)`.

    target: without a namespace, it gets one that no earlier run has used.
    only: the names of the checks to run, instead of all.
    patience: seconds within which the server must answer.
    progress: called after each check, with the report so far.

    Raises: UsageError for an unknown check, or for a url or option that the adapter cannot use; RunError if the
    adapter's probe says that the server cannot be loaded.
    """
    return asyncio.run(checked(adapter, target, only=only, patience=patience, progress=progress))


async def checked(
    adapter: type[Adapter],
    target: Target,
    *,
    only: Collection[str] = (),
    patience: float = 5.0,
    progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Check an adapter on the running event loop. The arguments are those of `check`."""
    if unknown := [name for name in only if name not in CHECKS]:
        raise UsageError(f"check {unknown[0]}: unknown name; the checks are {', '.join(CHECKS)}")
    target = replace(target, namespace=target.namespace or f"c{secrets.token_hex(4)}")
    made, server = await asyncio.to_thread(_prepared, adapter, target)
    features = tuple(sorted(feature.value for feature in made.features))
    report = Report(adapter.__name__, target.url, features, (), server)
    kit = Kit(made, patience)

    def add(result: Result) -> None:
        nonlocal report
        report = replace(report, results=(*report.results, result))
        progress(report)

    chosen = [name for name in CHECKS if not only or name in only]
    if "login" in chosen:
        add(await _result(kit, "login"))
    rest = [name for name in chosen if name != "login"]
    if report.results and report.results[0].outcome is Outcome.FAILED:
        for name in rest:
            add(Result(name, Outcome.NOT_RUN, "the login failed"))
        return report
    gate = asyncio.Semaphore(_AT_ONCE)
    running = {name: asyncio.create_task(_gated(gate, kit, name)) for name in rest if _runs_beside_others(kit, name)}
    try:
        for name in rest:
            add(await (running[name] if name in running else _result(kit, name)))
    finally:
        for task in running.values():
            task.cancel()
    return report


def _runs_beside_others(kit: Kit, name: str) -> bool:
    """Return whether a check needs nothing of the others. `garbage` changes frames that they have received."""
    return name != "garbage" and _is_offered(kit, CHECKS[name])


def _is_offered(kit: Kit, one: Check) -> bool:
    return one.feature is None or kit.offers(one.feature)


def _prepared(adapter: type[Adapter], target: Target) -> tuple[Adapter, dict[str, Any]]:
    """Make the adapter, and return it with what its probe has found."""
    try:
        made = adapter(target)
        probe = made.probe()
        return made, {} if probe is None else dict(made.probed(exchange(probe)))
    except ImsimError:
        raise
    except Exception as error:
        advice = "an adapter may raise UsageError for a wrong target, and RunError from `probed`"
        raise RunError(f"{adapter.__name__}: {raised(error).removeprefix('the session ')}; {advice}") from error


async def _gated(gate: asyncio.Semaphore, kit: Kit, name: str) -> Result:
    async with gate:
        return await _result(kit, name)


async def _result(kit: Kit, name: str) -> Result:
    start, one = time.perf_counter(), CHECKS[name]
    if one.feature is not None and not _is_offered(kit, one):
        event = _EVENTS.get(one.feature)
        if event in kit.events:
            advice = f"add Feature.{one.feature.name}, or do not return it"
            return Result(name, Outcome.FAILED, f"{event.__name__} was returned without the feature. {advice}")
        return Result(name, Outcome.NOT_OFFERED)
    try:
        outcome, detail = Outcome.OK, await one.run(kit.for_check())
    except Failure as failure:
        outcome, detail = Outcome.FAILED, str(failure)
    except ImsimError as error:
        outcome, detail = Outcome.FAILED, str(error)
    return Result(name, outcome, detail, round(time.perf_counter() - start, 3))
