"""The command that searches for faults which break a promise: faultsearch."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from imsim.cli.options import JOBS, JSON, SET, examples
from imsim.cli.options import load as load_scenario
from imsim.core.exceptions import UsageError

if TYPE_CHECKING:
    from imsim.faultsearch import Outcome

_FAILURE, _INTERRUPTED = 1, 130


@click.command(epilog=examples("imsim faultsearch --seeds 60", "imsim faultsearch --replay 17 --save case.json"))
@click.argument("scenario", required=False)
@SET
@click.option(
    "--seeds", default=200, show_default=True, type=click.IntRange(min=1), metavar="N", help="Number of cases to run."
)
@click.option(
    "--first", default=0, show_default=True, type=click.IntRange(min=0), metavar="SEED", help="Seed of the first case."
)
@JOBS
@click.option("--replay", type=click.IntRange(min=0), metavar="SEED", help="Run the case of this seed, and print it.")
@click.option("--case", "file", metavar="FILE", help="Run the case in this JSON file, and print it.")
@click.option("--save", metavar="FILE", help="With --replay: write the case, shrunk if it fails, for --case.")
@JSON
@click.pass_context
def faultsearch(
    context: click.Context,
    scenario: str | None,
    overrides: tuple[str, ...],
    seeds: int,
    first: int,
    jobs: int,
    replay: int | None,
    file: str | None,
    save: str | None,
    as_json: bool,
) -> None:
    """Search for faults that break a promise of the protocol.

    Each seed gives a small world with its own random workload and faults. SCENARIO replaces the random [policies] and
    [limits], the numbers of gateways and routers, and the median latencies of links. Its other fields are not used.

    The exit code is 1 if an invariant broke, or if a kind of fault never occurred although it should have.
    """
    from imsim import faultsearch as search

    _refuse_together(context, "replay", ("file", "seeds", "first", "jobs"))
    _refuse_together(context, "file", ("scenario", "overrides", "save", "seeds", "first", "jobs"))
    if save and replay is None:
        raise UsageError("faultsearch: --save writes the case of one seed; add --replay SEED")
    if overrides and not scenario:
        raise UsageError("faultsearch: --set changes a field of a scenario; add SCENARIO")
    chosen = load_scenario(scenario, overrides, None) if scenario else None
    again = shlex.join(["imsim", "faultsearch", *([scenario] if scenario else []), *(f"--set={o}" for o in overrides)])
    if file is not None:
        _show_case(search.run(search.load(file)), shlex.join(["imsim", "faultsearch", "--case", file]), as_json)
    if replay is not None:
        _show_case(search.replay(replay, chosen), f"{again} --replay {replay}", as_json, save)
    from imsim.api import ProgressBar

    with ProgressBar(shown=not as_json) as bar:

        def broke(seed: int, invariant: str) -> None:
            click.echo(f"imsim: seed {seed} breaks {invariant}", err=True)

        report = search.search(
            first,
            seeds,
            jobs,
            scenario=chosen,
            command=again,
            progress=lambda share: bar.show("searching", share),
            broke=broke,
        )
    _print([json.dumps(report.to_json()) if as_json else str(report)])
    sys.exit(_INTERRUPTED if report.interrupted else 0 if report.passed else _FAILURE)


def _refuse_together(context: click.Context, one: str, others: tuple[str, ...]) -> None:
    """Refuse options that contradict each other, because the intended one is unknown."""
    options = {parameter.name: parameter for parameter in context.command.params}
    given = [
        name for name in (one, *others) if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if one in given and len(given) > 1:
        words = [str(options[name].get_error_hint(context)).strip("'[]") for name in given]
        raise UsageError(f"faultsearch: {words[0]} runs one case; leave out {', '.join(words[1:])}")


def _show_case(outcome: Outcome, command: str, as_json: bool, save: str | None = None) -> NoReturn:
    """Print one run from its first entry to the invariant that it broke, and exit."""
    from imsim import faultsearch as search

    failure = search.explain(outcome, command) if outcome.violations else None
    if save is not None:
        search.save(failure.smallest.case if failure else outcome.case, save)
    if as_json:
        found = {"seed": outcome.case.seed, "digest": outcome.digest, "failure": failure.to_json() if failure else None}
        _print([json.dumps({**found, "case": outcome.case.to_json()})])
    else:
        verdict = str(failure) if failure else f"seed {outcome.case.seed}: every invariant holds"
        _print([*map(str, outcome.trace), f"\n{verdict}", f"digest {outcome.digest}"])
    sys.exit(_FAILURE if failure else 0)


def _print(lines: list[str]) -> None:
    """Print lines. If the reader closes the pipe early (`| head`), the exit code stays the same."""
    try:
        for line in lines:
            click.echo(line)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
