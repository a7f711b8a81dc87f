"""The command `imsim runs`: list, show, compare and delete the folders of runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from imsim.cli.experiments import show, show_runs
from imsim.cli.options import JSON, PLOT, REPORT, examples
from imsim.core.exceptions import UsageError

if TYPE_CHECKING:
    from imsim.results.folders import RunFolder

_RESULTS = "results"
_DIR = click.option(
    "--dir", "directory", default=_RESULTS, show_default=True, metavar="DIR", help="The folder of runs."
)


class _Group(click.Group):
    """A group whose default command is `list`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        is_for_list = not args or (args[0].startswith("-") and args[0] not in context.help_option_names)
        return super().parse_args(context, ["list", *args] if is_for_list else args)


@click.group(cls=_Group, epilog=examples("imsim runs show latest", "imsim runs delete --older-than 7d"))
def runs() -> None:
    """List, show, compare and delete runs. Without a command: list those in `results`.

    RUN is the folder of a run, or the run's name, the start or the end of its name, or `latest`.
    """


@runs.command("list", epilog=examples("imsim runs list", "imsim runs list results --scenario office --json"))
@click.argument("directory", metavar="[DIR]", default=_RESULTS)
@click.option("--scenario", metavar="NAME", help="Only runs of this scenario.")
@click.option("--invalid", is_flag=True, help="Only runs that are marked as invalid.")
@JSON
def list_runs(directory: str, scenario: str | None, invalid: bool, as_json: bool) -> None:
    """List the runs in DIR, the newest last. Latencies of deliveries are in ms.

    Only manifests are read. Other folders get one line each.
    """
    from imsim.results.folders import scan

    found, others = scan(directory)
    if scenario is not None:
        found = [run for run in found if run.scenario == scenario]
    if invalid:
        found = [run for run in found if not run.valid]
    if as_json:
        plain = [{"path": str(other.path), "kind": other.kind, "reason": other.reason} for other in others]
        click.echo(json.dumps({"runs": [run.to_json_dict() for run in found], "others": plain}))
        return
    click.echo(_table(found) if found else f"no runs in {directory}")
    if others and scenario is None and not invalid:
        click.echo("\n".join(["", "not listed:", *map(str, others)]))


@runs.command("show", epilog=examples("imsim runs show latest", "imsim runs show 1a2b3c --json"))
@click.argument("run")
@_DIR
@JSON
def show_run(run: str, directory: str, as_json: bool) -> None:
    """Show a run: its origin, its numbers and its warnings."""
    from imsim import api
    from imsim.results.folders import find

    folder = find(run, directory)
    if not as_json:
        server = f" against {folder.server}" if folder.server else ""
        machine, commit = folder.manifest.get("machine"), str(folder.manifest.get("commit") or "unknown")
        platform = machine.get("platform") if isinstance(machine, dict) else None
        click.echo(
            f"{folder.state} run of {folder.scenario}, {folder.world}{server}, seed {folder.seed}\n"
            f"started {_time(folder)} UTC on {platform or 'an unknown machine'}; "
            f"imsim {folder.manifest.get('imsim', 'unknown')}, commit {commit[:12]}; {_bytes(folder.size)}\n"
        )
    show(api.read_run(folder.path), as_json)


@runs.command("compare", epilog=examples("imsim runs compare 1a2b3c latest", "imsim runs compare A B --plot both.png"))
@click.argument("names", metavar="RUN RUN [RUN ...]", nargs=-1, required=True)
@_DIR
@PLOT
@REPORT
@JSON
def compare_runs(names: tuple[str, ...], directory: str, plot: str | None, report: str | None, as_json: bool) -> None:
    """Show runs next to each other, without intervals.

    One run of each design says nothing about chance: `imsim compare` runs two scenarios several times.
    """
    from imsim import api
    from imsim.results.folders import find

    if len(names) < 2:
        raise UsageError(f"compare: expected two runs or more (got {names[0]})")
    show_runs([api.read_run(find(name, directory).path) for name in names], plot, report, as_json)


@runs.command("delete", epilog=examples("imsim runs delete 1a2b3c", "imsim runs delete --older-than 7d --keep 5"))
@click.argument("names", metavar="[RUN ...]", nargs=-1)
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="Delete all but the newest N runs.")
@click.option("--older-than", metavar="TIME", help="Delete runs that started longer ago than this: 7d, 12h.")
@click.option("--yes", is_flag=True, help="Delete without a question.")
@_DIR
@JSON
def delete_runs(
    names: tuple[str, ...], keep: int | None, older_than: str | None, yes: bool, directory: str, as_json: bool
) -> None:
    """Delete runs: those that are named, or all that --keep and --older-than select.

    On a terminal, the command shows what it would delete, and asks. Elsewhere, it deletes only with --yes. A folder
    that is not a run, that holds other files or that is being written is never deleted, and links are not followed.
    """
    from imsim.results import folders

    if bool(names) == (keep is not None or older_than is not None):
        raise UsageError("delete: expected either runs, or --keep N, --older-than TIME or both")
    if names:
        chosen = list({run.path.resolve(): run for run in (folders.find(name, directory) for name in names)}.values())
        for run in chosen:
            if run.kept_because:
                raise UsageError(f"{run.path} is not deleted: {run.kept_because}")
    else:
        chosen = _selected(folders.scan(directory)[0], keep, older_than)
    kept = [run for run in chosen if run.kept_because]
    chosen = [run for run in chosen if not run.kept_because]
    if not as_json:
        if chosen:
            click.echo(_table(chosen))
        for run in kept:
            click.echo(f"kept: {run.path}: {run.kept_because}")
    is_agreed = bool(chosen) and (yes or (not as_json and _asked(chosen)))
    for run in chosen if is_agreed else ():
        folders.delete(run)
    if as_json:
        plain = {
            "deleted" if is_agreed else "to_delete": [str(run.path) for run in chosen],
            "kept": [{"path": str(run.path), "reason": run.kept_because} for run in kept],
            "bytes": sum(run.size for run in chosen),
        }
        click.echo(json.dumps({"deleted": [], "to_delete": []} | plain))
    elif not chosen:
        click.echo("no run to delete")
    elif is_agreed:
        click.echo(f"deleted {_count(chosen)}")
    else:
        click.echo(f"nothing is deleted; --yes deletes {_count(chosen)}")


def _selected(runs: list[RunFolder], keep: int | None, older_than: str | None) -> list[RunFolder]:
    """Return the runs, of those sorted by time, that these options select for deletion."""
    if keep:
        runs = runs[:-keep]
    if older_than is not None:
        since = datetime.now(UTC) - timedelta(seconds=_seconds(older_than))
        runs = [run for run in runs if run.started < since]
    return runs


def _seconds(text: str) -> float:
    from imsim.scenario.quantities import parse_duration

    number, is_days = (text[:-1].strip(), True) if text.endswith("d") else (text, False)
    try:
        return float(number) * 86400 if is_days and number.replace(".", "", 1).isdecimal() else parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}; days are written as 7d") from None


def _asked(runs: list[RunFolder]) -> bool:
    """Ask whether to delete these runs, on a terminal only."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return click.confirm(f"delete {_count(runs)}?")


def _count(runs: list[RunFolder]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}, {_bytes(sum(run.size for run in runs))}"


def _table(runs: Sequence[RunFolder]) -> str:
    """Return a line for each run. Columns without a value are left out."""
    from imsim.results.folders import handles

    rows = [
        {
            "run": handle,
            "started (UTC)": _time(run),
            "world": run.world,
            "server": run.server or "",
            "scenario": run.scenario,
            "seed": str(run.seed),
            "messages": _number(run.number("messages")),
            "lost": _number(run.number("lost")),
            "p50": _number(run.number("delivery_ms", "p50"), ".3f"),
            "p99": _number(run.number("delivery_ms", "p99"), ".3f"),
            "size": _bytes(run.size),
            "state": run.state,
        }
        for handle, run in zip(handles(runs), runs, strict=True)
    ]
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    lines = [dict(zip(names, names, strict=True)), *rows]
    widths = {name: max(len(line[name]) for line in lines) for name in names}
    are_texts = ("run", "started (UTC)", "world", "server", "scenario", "state")
    return "\n".join(
        "  ".join(f"{line[name]:{'<' if name in are_texts else '>'}{widths[name]}}" for name in names).rstrip()
        for line in lines
    )


def _time(run: RunFolder) -> str:
    return f"{run.started.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _number(value: float | None, form: str = ".0f") -> str:
    return "-" if value is None else f"{value:,{form}}"


def _bytes(size: float) -> str:
    """Return a size with three digits: 950 B, 12 kB, 1.2 GB."""
    power = next((power for power in range(3) if size < 999.5 * 1000**power), 3)
    value = size / 1000**power
    return f"{value:.{int(power > 0 and value < 9.95)}f} {('B', 'kB', 'MB', 'GB')[power]}"
