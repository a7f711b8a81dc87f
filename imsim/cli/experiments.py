"""The commands that simulate: simulate, replicate, compare, sweep, capacity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imsim.cli.options import (
    ADAPTER,
    DURATION,
    JOBS,
    JSON,
    KEY,
    MAX_TIME,
    METRIC,
    MOST,
    OUT,
    PLOT,
    PRECISION,
    PROCESSES,
    REPLICATIONS,
    REPORT,
    SEED,
    SET,
    examples,
    load,
    precision_of,
)
from imsim.core.exceptions import UsageError

if TYPE_CHECKING:
    from imsim.analysis import Run


@click.command(
    epilog=examples(
        "imsim simulate office --duration 5s",
        "imsim simulate office --set topology.storage.service.append=50ms --spans",
    )
)
@click.argument("scenario", default="office")
@SET
@SEED
@DURATION
@click.option("--spans", is_flag=True, help="Record where the time of each delivery went, and show it.")
@OUT
@PLOT
@REPORT
@JSON
def simulate(
    scenario: str,
    overrides: tuple[str, ...],
    seed: int | None,
    duration: float | str | None,
    spans: bool,
    out: str,
    plot: str | None,
    report: str | None,
    as_json: bool,
) -> None:
    """Run SCENARIO once in simulated time, and write its rows to a new folder.

    Without SCENARIO, the preset `office` is run.
    """
    from imsim import api

    run = api.simulate(load(scenario, overrides, seed), duration=duration, spans=spans, out=out, progress=not as_json)
    show(run, as_json)
    if spans and not as_json:
        table = run.breakdown().round(3).reset_index().to_string(index=False)
        click.echo(f"\nwhere the time of deliveries went (ms; the means add up)\n{table}")
    if plot:  # last, so that the numbers are printed even if the picture cannot be written
        run.save_plot(plot)
    if report:
        api.report(run, report, progress=not as_json)


def show(run: Run, as_json: bool) -> None:
    """Print a run: its warnings on stderr, its numbers on stdout."""
    for warning in run.warnings:
        click.echo(f"imsim: warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(run.to_json_dict()))
        return
    from imsim.analysis import few_notes

    click.echo(str(run))
    click.echo(f"\nrun     {run.path}\ndigest  {run.digest}")
    if run.world == "sim":
        click.echo("note: one run has no intervals; `imsim replicate` runs it under several seeds and gives them")
    for note in few_notes(run):
        click.echo(f"note: {note}")


def show_table(runs: list[Run]) -> None:
    """Print a table with a column for each run, and the warnings of the runs on stderr."""
    from imsim.analysis import run_table
    from imsim.analysis.latency import table_text

    table = run_table(runs)
    for label, run in zip(table.index, runs, strict=True):
        for warning in run.warnings:
            click.echo(f"imsim: warning: {label}: {warning}", err=True)
    click.echo(table_text(table))


@click.command(
    epilog=examples(
        "imsim replicate office --replications 5 --duration 5s",
        "imsim replicate office --precision 0.05 --metric delivery.p99.9",
    )
)
@click.argument("scenario")
@SET
@SEED
@DURATION
@REPLICATIONS
@PRECISION
@MOST
@METRIC
@JOBS
@REPORT
@JSON
def replicate(
    scenario: str,
    overrides: tuple[str, ...],
    seed: int | None,
    duration: float | str | None,
    replications: int | None,
    precision: tuple[str, ...],
    max_replications: int | None,
    metrics: tuple[str, ...],
    jobs: int,
    report: str | None,
    as_json: bool,
) -> None:
    """Run SCENARIO under several seeds, so that each number has a 95 % interval.

    There are 20 runs, unless --replications or --precision says otherwise. Their rows are not kept.
    """
    from imsim import api

    found = api.replicate(
        load(scenario, overrides, seed),
        duration=duration,
        replications=replications,
        precision=precision_of(precision),
        max_replications=max_replications,
        metrics=metrics,
        jobs=jobs,
        progress=not as_json,
    )
    click.echo(json.dumps(found.to_json_dict()) if as_json else str(found))
    if report:
        api.report(found, report, progress=not as_json)


@click.command(
    epilog=examples(
        "imsim compare office --set-b topology.routers=4 --replications 5",
        "imsim compare office mobile --precision 0.05",
    )
)
@click.argument("designs", metavar="A [B]", nargs=-1, required=True)
@click.option("--set-a", multiple=True, metavar="PATH=VALUE", help="Change a field of A only.")
@click.option("--set-b", multiple=True, metavar="PATH=VALUE", help="Change a field of B only.")
@SET
@SEED
@DURATION
@REPLICATIONS
@PRECISION
@MOST
@METRIC
@JOBS
@PLOT
@REPORT
@JSON
def compare(
    designs: tuple[str, ...],
    set_a: tuple[str, ...],
    set_b: tuple[str, ...],
    overrides: tuple[str, ...],
    seed: int | None,
    duration: float | str | None,
    replications: int | None,
    precision: tuple[str, ...],
    max_replications: int | None,
    metrics: tuple[str, ...],
    jobs: int,
    plot: str | None,
    report: str | None,
    as_json: bool,
) -> None:
    """Compare two scenarios under the same seeds, or show runs next to each other.

    Without B, the second design is A with other values. If the arguments are folders of runs, two or more, the runs are
    shown next to each other, without intervals, as `imsim runs compare` does.
    """
    from imsim import api

    folders = [one for one in designs if (Path(one) / "manifest.json").exists()]
    if folders:
        options: dict[str, object] = {"--set-a": set_a, "--set-b": set_b, "--set": overrides, "--seed": seed}
        options |= {"--duration": duration, "--replications": replications, "--precision": precision}
        options |= {"--max-replications": max_replications, "--metric": metrics}
        _compare_folders(
            designs,
            folders,
            [name for name, value in options.items() if value not in (None, ())],
            plot,
            report,
            as_json,
        )
        return
    if len(designs) > 2:
        raise UsageError(f"compare: expected one or two scenarios (got {len(designs)}); imsim sweep takes many designs")
    if len(designs) == 1 and not (set_a or set_b):
        raise UsageError("compare: expected two scenarios or run folders, or one scenario and --set-b PATH=VALUE")
    a, b = designs[0], designs[-1]
    found = api.compare(
        load(a, (*overrides, *set_a), seed),
        load(b, (*overrides, *set_b), seed),
        duration=duration,
        replications=replications,
        precision=precision_of(precision),
        max_replications=max_replications,
        metrics=metrics,
        jobs=jobs,
        progress=not as_json,
    )
    click.echo(json.dumps(found.to_json_dict()) if as_json else str(found))
    if plot:
        found.save_plot(plot)
    if report:
        api.report(found, report, progress=not as_json)


def _compare_folders(
    designs: tuple[str, ...],
    folders: list[str],
    options: list[str],
    plot: str | None,
    report: str | None,
    as_json: bool,
) -> None:
    from imsim import api

    if len(folders) < len(designs):
        other = next(one for one in designs if one not in folders)
        raise UsageError(f"compare: {folders[0]} is a run and {other} is not; give runs only, or scenarios only")
    if len(folders) == 1:
        raise UsageError(f"compare: {folders[0]} is a run; expected another run to compare it with")
    if options:
        raise UsageError(f"compare: {', '.join(options)}: for scenarios only; a finished run cannot be changed")
    show_runs([api.read_run(one) for one in folders], plot, report, as_json)


def show_runs(runs: list[Run], plot: str | None, report: str | None, as_json: bool) -> None:
    """Print runs next to each other. Write their latencies as a picture (`plot`) and a page (`report`)."""
    from imsim import api

    if as_json:
        click.echo(json.dumps({"runs": [run.to_json_dict() for run in runs]}))
    else:
        show_table(runs)
    if plot:
        api.save_cdf(runs, plot)
    if report:
        api.report(runs, report, progress=not as_json)


@click.command(
    epilog=examples(
        "imsim sweep office --vary topology.routers=1,2,4 --vary workload.rate=1,3",
        "imsim sweep office --vary topology.storage.workers=1,2 --replications 5 --plot workers.png",
    )
)
@click.argument("scenario")
@click.option("--vary", multiple=True, required=True, metavar="PATH=V1,V2,...", help="A field and its values.")
@SET
@SEED
@DURATION
@REPLICATIONS
@PRECISION
@MOST
@METRIC
@JOBS
@click.option("--out", metavar="DIR", help="Keep finished runs here.  [default: results/sweep-SCENARIO]")
@PLOT
@click.option("-x", metavar="NAME", help="The picture's x axis: a metric or a varied field.")
@click.option("-y", default="delivery.p99", show_default=True, metavar="METRIC", help="The picture's y axis.")
@REPORT
@JSON
def sweep(
    scenario: str,
    vary: tuple[str, ...],
    overrides: tuple[str, ...],
    seed: int | None,
    duration: float | str | None,
    replications: int | None,
    precision: tuple[str, ...],
    max_replications: int | None,
    metrics: tuple[str, ...],
    jobs: int,
    out: str | None,
    plot: str | None,
    x: str | None,
    y: str,
    report: str | None,
    as_json: bool,
) -> None:
    """Simulate SCENARIO with every combination of some values, under the same seeds.

    If the command is interrupted and run again, it continues where it stopped.
    """
    from imsim import api
    from imsim.scenario import files

    chosen = load(scenario, overrides, seed)
    over = files.choices(vary, chosen.name)
    if plot:  # the axes are measured, and an unknown name is refused before anything is run
        metrics = (*metrics, *(name for name in (x, y) if name is not None and name not in over))
    found = api.sweep(
        chosen,
        over,
        duration=duration,
        replications=replications,
        precision=precision_of(precision),
        max_replications=max_replications,
        metrics=metrics,
        jobs=jobs,
        out=f"results/sweep-{chosen.name}" if out is None else out,
        progress=not as_json,
    )
    click.echo(json.dumps(found.to_json_dict()) if as_json else str(found))
    if plot:
        found.save_plot(plot, x, y)
    if report:
        api.report(found, report, progress=not as_json)


@click.command(
    epilog=examples(
        "imsim capacity office --budget 'delivery.p99 < 200ms'",
        "imsim capacity office --budget 'delivery.p99 < 200ms' --url ws://127.0.0.1:8765",
    )
)
@click.argument("scenario")
@click.option("--budget", required=True, metavar="TEXT", help="Such as 'delivery.p99 < 200ms' or 'lost <= 0'.")
@click.option("--url", metavar="URL", help="Load the server at this address, ws://host:port, instead of simulating.")
@click.option("--over", default="workload.rate", show_default=True, metavar="PATH", help="The field that is the load.")
@click.option("--low", type=float, metavar="LOAD", help="The lowest load to try.  [default: the scenario's own / 64]")
@click.option(
    "--high",
    type=float,
    metavar="LOAD",
    help="The highest load to try.  [default: the scenario's own x 64; x 4096 with --url]",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="SHARE",
    help="How far apart the two loads may be.  [default: 0.05; 0.1 with --url]",
)
@SET
@SEED
@DURATION
@REPLICATIONS
@MOST
@METRIC
@JOBS
@PROCESSES
@MAX_TIME
@KEY
@ADAPTER
@click.option("--reset", metavar="COMMAND", help="With --url, run this command before each run.")
@click.option(
    "--out",
    metavar="DIR",
    help="Keep finished runs here.  [default with --url: results/capacity-SCENARIO]",
)
@PLOT
@REPORT
@JSON
def capacity(
    scenario: str,
    budget: str,
    url: str | None,
    over: str,
    low: float | None,
    high: float | None,
    tolerance: float | None,
    overrides: tuple[str, ...],
    seed: int | None,
    duration: float | str | None,
    replications: int | None,
    max_replications: int | None,
    metrics: tuple[str, ...],
    jobs: int,
    processes: int,
    max_time: float | str | None,
    key: str | None,
    key_file: str | None,
    adapter: str,
    adapter_options: tuple[str, ...],
    reset: str | None,
    out: str | None,
    plot: str | None,
    report: str | None,
    as_json: bool,
) -> None:
    """Find the highest load at which SCENARIO, or the server at --url, keeps a budget.

    The result is two loads: the budget is kept at the first and broken at the second. Several runs decide at each.
    With --url, the command continues where it stopped if it is interrupted and run again.
    """
    from imsim import api
    from imsim.load.adapters.find import options_of

    chosen = load(scenario, overrides, seed)
    if url is not None and out is None:
        out = f"results/capacity-{chosen.name}"
    if url is not None and not as_json:
        click.echo(f"at most {max_time or '15min'}; finished runs are kept in {out}", err=True)
    found = api.capacity(
        chosen,
        budget,
        url=url,
        over=over,
        low=low,
        high=high,
        tolerance=tolerance,
        duration=duration,
        replications=replications,
        max_replications=max_replications,
        metrics=metrics,
        jobs=jobs,
        processes=processes,
        max_time=max_time,
        key=key,
        key_file=key_file,
        adapter=adapter,
        options=options_of(adapter_options, "--option") or None,
        reset=reset,
        out=out,
        progress=not as_json,
    )
    click.echo(json.dumps(found.to_json_dict()) if as_json else str(found))
    if plot:
        found.save_plot(plot)
    if report:
        api.report(found, report, progress=not as_json)
