"""Budgets of live servers: blocks of load, and pairs of blocks for base and head.

A block is one run of the scenario against a server that was started for it. Absolute budgets are judged by the blocks
of the head. Relative budgets are judged by pairs, one block of the base and one of the head with the same messages,
interleaved (base head, head base, ...), so that what drifts on the machine meets both. A pair gives one number for each
metric: the logarithm of head / base. After each look, `imsim.analysis.verdicts` decides. Fresh pairs must confirm a
breach. A block that the load generator spoilt is repeated, not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from imsim.analysis.intervals import Estimate, estimate
from imsim.analysis.metrics import Measures
from imsim.analysis.verdicts import LEVEL, NONE, Evidence, Verdict, decide, evidence
from imsim.core.exceptions import RunError
from imsim.experiments.check import servers
from imsim.experiments.check.file import BudgetEntry, Budgets, ServerEntry
from imsim.experiments.check.result import Finding
from imsim.experiments.check.simulated import name_of
from imsim.experiments.live_runs import LiveRun
from imsim.experiments.replicate import Progress, replication_seed
from imsim.keys import choose_key
from imsim.load import launch
from imsim.scenario import Scenario

#: The numbers of blocks, or of pairs, after which the budgets are judged.
LOOKS = (4, 6, 8, 12)

#: How often a block that the generator spoilt is repeated before the measurement is given up.
REPEATS = 3

#: Plays a scenario against the base (False) or the head (True), and returns the data of the run.
Play = Callable[[Scenario, bool], LiveRun]


class SpoiltError(Exception):
    """The load generator spoilt a block and all its repetitions."""


@dataclass
class Subject:
    """A scenario on a server, with the budgets on it, and the blocks so far.

    blocks: the values of the head's block and of the base's (None without a base), by number.
    """

    name: str
    scenario: Scenario
    server: ServerEntry
    entries: dict[int, BudgetEntry] = field(default_factory=dict)
    blocks: list[tuple[LiveRun, LiveRun | None]] = field(default_factory=list)
    spoilt: str = ""
    repeated: int = 0

    @property
    def needs_base(self) -> bool:
        """Whether a budget is relative, so that each block of the head needs one of the base."""
        return any(entry.is_relative for entry in self.entries.values())

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the budgets."""
        return tuple(dict.fromkeys(entry.measure for entry in self.entries.values()))


def subjects_of(budgets: Budgets) -> list[Subject]:
    """Return the live subjects of a file."""
    subjects: dict[tuple[str, str], Subject] = {}
    for number, entry in enumerate(budgets.entries):
        server = budgets.server(entry)
        if server is None:
            continue
        where = entry.server if isinstance(entry.server, str) else server.command or server.url
        name = f"{name_of(entry)} on {where}"
        one = subjects.setdefault((name, repr(server)), Subject(name, budgets.scenario(entry), server))
        one.entries[number] = entry
    return list(subjects.values())


def player(one: Subject, head: Path, base: Path | None, base_command: str | None) -> Play:
    """Return the function that plays a block.

    Args:
        one: the subject.
        head: the folder in which the server's command runs.
        base: the same of the base; None if it is `head`.
        base_command: replaces the server's command for the base.
    """
    measures = Measures.of(one.metrics)

    def play(scenario: Scenario, is_head: bool) -> LiveRun:
        folder = head if is_head or base is None else base
        with servers.running(one.server, folder, command=None if is_head else base_command) as server:
            before = server.cpu()
            run = launch.loadtest(
                scenario,
                server.url,
                key=choose_key(one.server.key, None),
                adapter=one.server.adapter,
                options=one.server.options,
            )
            after = server.cpu()
        if before is not None and after is not None:
            run.manifest["server_cpu"] = after - before
        return LiveRun.of(run, measures)

    return play


def check_live(
    subjects: Sequence[Subject],
    play_of: Callable[[Subject], Play],
    *,
    looks: Sequence[int] = LOOKS,
    floors: Mapping[str, Mapping[str, float]] | None = None,
    progress: Progress | None = None,
) -> dict[int, Finding]:
    """Judge the budgets of live servers.

    Args:
        subjects: the subjects.
        play_of: returns the function that plays a block of a subject.
        looks: the numbers of blocks or pairs after which the budgets are judged.
        floors: the noise floor of this machine for each metric of each subject, by name (`imsim check --calibrate`).
        progress: receives the current activity, and the share of the check that is done.

    Returns:
        The finding on each of them, by the number of the budget.

    Raises:
        RunError: a server did not start, or a block could not be played.
    """
    numbers = [number for one in subjects for number in one.entries]
    refused = {
        number: text
        for one in subjects
        for number, entry in one.entries.items()
        if (text := _too_small(entry, (floors or {}).get(one.name, {})))
    }
    judged = [number for number in numbers if number not in refused]
    proofs: dict[int, Evidence] = dict.fromkeys(judged, NONE)
    verdicts: dict[int, Verdict] = {}
    reasons: dict[int, str] = {}
    for look, count in enumerate(looks):
        for one in subjects:
            open_ = [number for number in one.entries if number in proofs and number not in verdicts]
            if not open_ or one.spoilt:
                continue
            _extend(one, count, play_of(one), partial(_report, progress, looks, look))
            for number in open_:
                proofs[number] = _evidence(one.entries[number], one.blocks).at_looks(len(looks))
        for number, verdict in zip(judged, decide([proofs[number] for number in judged]), strict=True):
            if verdict != "undecided" and number not in verdicts:
                verdicts[number] = verdict
    for one in subjects:
        breached = {n for n, entry in one.entries.items() if verdicts.get(n) == "breached" and entry.is_relative}
        if breached and not one.spoilt:
            for number in breached - _confirmed(one, breached, play_of(one), looks, progress):
                verdicts[number] = "undecided"
                reasons[number] = "further pairs did not confirm the breach"
    findings = {}
    for one in subjects:
        for number, entry in one.entries.items():
            found = _finding(entry, one, verdicts.get(number, "undecided"))
            if number in refused:
                found = replace(found, verdict="invalid", reason=refused[number])
            elif number in reasons:
                found = replace(found, reason=reasons[number])
            findings[number] = found
    return findings


def _confirmed(
    one: Subject, breached: set[int], play: Play, looks: Sequence[int], progress: Progress | None
) -> set[int]:
    """Return the budgets whose breach fresh pairs confirm, at the looks from the number of pairs so far on."""
    first = len(one.blocks)
    looks = [count for count in looks if count >= first]
    found: set[int] = set()
    for look, count in enumerate(looks):
        if found == breached or one.spoilt:
            break
        _extend(one, first + count, play, partial(_report, progress, looks, look))
        found |= {
            number
            for number in breached
            if _evidence(one.entries[number], one.blocks[first:]).at_looks(len(looks)).against <= LEVEL
        }
    return found


def _report(progress: Progress | None, looks: Sequence[int], look: int, what: str, share: float) -> None:
    if progress:
        done = looks[look - 1] if look else 0
        progress(what, (done + share * (looks[look] - done)) / looks[-1])


def _extend(one: Subject, count: int, play: Play, progress: Progress) -> None:
    """Play blocks until there are `count`, or the generator has spoilt one and its repetitions."""
    started = len(one.blocks)
    while len(one.blocks) < count and not one.spoilt:
        number = len(one.blocks)
        progress(
            f"{one.name}: {'pair' if one.needs_base else 'block'} {number + 1}", (number - started) / (count - started)
        )
        scenario = one.scenario.replace({"seed": replication_seed(one.scenario.seed, number)})
        order = (True,) if not one.needs_base else (False, True) if number % 2 == 0 else (True, False)
        try:
            found = {is_head: _valid(one, scenario, is_head, play) for is_head in order}
        except SpoiltError as error:
            one.spoilt = str(error)
            return
        one.blocks.append((found[True], found.get(False)))


def _valid(one: Subject, scenario: Scenario, is_head: bool, play: Play) -> LiveRun:
    """Play a block, and repeat it if it was spoilt."""
    run = play(scenario, is_head)
    for _ in range(REPEATS):
        if not run.spoilt:
            return run
        one.repeated += 1
        run = play(scenario, is_head)
    if run.spoilt:
        raise SpoiltError(run.spoilt)
    return run


def _values(entry: BudgetEntry, blocks: Sequence[tuple[LiveRun, LiveRun | None]]) -> list[float]:
    """Return one number for each block: the metric, or the logarithm of head / base."""
    name = entry.measure
    if not entry.is_relative:
        return [head.values[name] for head, _ in blocks]
    return [math.nan if base is None else log_ratio(base.values[name], head.values[name]) for head, base in blocks]


def log_ratio(base: float, head: float) -> float:
    """Return log(head / base). It is infinite if only the head's value is null, and nan if the base's is."""
    if math.isfinite(base) and base > 0 and head > 0:
        return math.log(head / base) if math.isfinite(head) else math.inf
    return math.nan if base or math.isnan(head) else math.inf if head else 0.0


def _evidence(entry: BudgetEntry, blocks: Sequence[tuple[LiveRun, LiveRun | None]]) -> Evidence:
    sign = 1 if entry.is_upper else -1
    values = [sign * value for value in _values(entry, blocks)]
    if not entry.is_relative:
        least = entry.kind.least if entry.is_upper else -entry.kind.most
        return evidence(values, sign * entry.bound, least=least)
    bound = math.log(entry.bound) if entry.bound > 0 else -math.inf
    return evidence(values, sign * bound)


def _finding(entry: BudgetEntry, one: Subject, verdict: Verdict) -> Finding:
    name, blocks = entry.measure, one.blocks
    what = "pairs" if entry.is_relative else "blocks"
    text = f"{len(blocks)} {what} of {one.scenario.duration:.4g} s"
    if one.repeated:
        text += f", {one.repeated} spoilt ones repeated"
    found = Finding(str(entry.name), name, entry.limit, verdict, evidence=text)
    if one.spoilt and verdict == "undecided":
        found = replace(found, verdict="invalid", reason=f"the load generator spoilt the measurement: {one.spoilt}")
    elif verdict != "held":
        why = "beyond the limit" if verdict == "breached" else f"the interval has the limit {entry.limit} in it"
        found = replace(found, reason=why)
    heads = estimate([head.values[name] for head, _ in blocks])
    if not entry.is_relative:
        return replace(found, value=heads.value, low=heads.low, high=heads.high)
    bases = estimate([base.values[name] for _, base in blocks if base is not None])
    change: Estimate = estimate(_values(entry, blocks))
    ends = [None if end is None else math.expm1(end) for end in (change.value, change.low, change.high)]
    return replace(found, value=heads.value, base=bases.value, change=ends[0], low=ends[1], high=ends[2])


def _too_small(entry: BudgetEntry, floors: Mapping[str, float]) -> str:
    """Return why the margin of a relative budget is too small for this machine; "" if it is not, or is not known."""
    floor = floors.get(entry.measure)
    if floor is None or not entry.is_relative or entry.bound <= 0 or abs(math.log(entry.bound)) >= floor:
        return ""
    return (
        f"the margin is below the noise floor of this machine, {math.expm1(floor):.1%} (imsim check --calibrate): "
        "allow more, or make the blocks longer"
    )


def noise(
    subjects: Sequence[Subject], play_of: Callable[[Subject], Play], pairs: int, progress: Progress
) -> dict[str, dict[str, float]]:
    """Return the noise floor of each metric of each subject, by name: the logarithm of a factor.

    The head is compared with itself. The floor is half the width of the 95 % interval of a mean of `LOOKS[-1]` pairs: a
    smaller margin does not differ from noise.

    Raises:
        RunError: the generator spoilt a block and its repetitions, or a metric is null in a block.
    """
    floors: dict[str, dict[str, float]] = {}
    for one in subjects:
        found = Subject(one.name, one.scenario, one.server, one.entries)
        play, logs = play_of(one), {name: list[float]() for name in one.metrics}
        for number in range(pairs):
            progress(f"{one.name}: pair {number + 1} of {pairs}", number / pairs)
            scenario = one.scenario.replace({"seed": replication_seed(one.scenario.seed, number)})
            try:
                base, head = (_valid(found, scenario, True, play) for _ in range(2))
            except SpoiltError as error:
                raise RunError(f"{one.name}: the load generator spoilt the measurement: {error}") from None
            for name, values in logs.items():
                values.append(log_ratio(base.values[name], head.values[name]))
        floors[one.name] = {}
        for name, values in logs.items():
            half = estimate(values).half
            if half is None:
                raise RunError(f"{one.name}: {name} is null in some block, so it has no noise floor")
            floors[one.name][name] = half * math.sqrt(pairs / LOOKS[-1])
    return floors
