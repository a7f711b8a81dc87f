"""The commands that ask about designs: compare, sweep, capacity."""

from __future__ import annotations

import json
from pathlib import Path

import click

from imsim.cli.options import (
    JOBS,
    JSON,
    METRIC,
    MOST,
    PLOT,
    PRECISION,
    REPLICATIONS,
    SEED,
    SET,
    load,
    precision_of,
    text,
)
from imsim.core.exceptions import UsageError


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", required=False)
@click.option("--set-a", multiple=True, metavar="PATH=VALUE", help="Change a field of A only.")
@click.option("--set-b", multiple=True, metavar="PATH=VALUE", help="Change a field of B only.")
@SET
@SEED
@REPLICATIONS
@PRECISION
@MOST
@METRIC
@JOBS
@PLOT
@JSON
def compare(
    a: str,
    b: str | None,
    set_a: tuple[str, ...],
    set_b: tuple[str, ...],
    overrides: tuple[str, ...],
    seed: int | None,
    replications: int | None,
    precision: tuple[str, ...],
    max_replications: int | None,
    metrics: tuple[str, ...],
    jobs: int,
    plot: str | None,
    as_json: bool,
) -> None:
    """By how much one design beats another: A and B are scenarios, which are simulated under the same seeds.

    Without B, it is A with other values: imsim compare office --set-b topology.routers=4. Two run folders are shown
    side by side.
    """
    from imsim import api

    folders = [one for one in (a, b) if one is not None and (Path(one) / "manifest.json").exists()]
    if b is None:
        if folders:
            raise UsageError(f"compare: {a} is a run; expected another one beside it")
        if not (set_a or set_b):
            raise UsageError("compare: expected two scenarios or run folders, or one scenario and --set-b PATH=VALUE")
        b = a
    if len(folders) == 1:
        raise UsageError(f"compare: {folders[0]} is a run; the other one is a scenario. Give two of one kind")
    if folders:
        options: dict[str, object] = {"--set-a": set_a, "--set-b": set_b, "--set": overrides, "--seed": seed}
        options |= {"--replications": replications, "--precision": precision, "--metric": metrics}
        options |= {"--max-replications": max_replications}
        if ignored := [name for name, value in options.items() if value not in (None, ())]:
            raise UsageError(f"compare: {', '.join(ignored)}: for scenarios only; a run stays as it was")
        runs = [api.read_run(one) for one in folders]
        if plot:
            api.save_cdf(runs, plot)
        click.echo(json.dumps([run.to_json_dict() for run in runs]) if as_json else text(api.compare(*runs)))
        return
    found = api.compare(
        load(a, (*overrides, *set_a), seed),
        load(b, (*overrides, *set_b), seed),
        replications=replications,
        precision=precision_of(precision),
        max_replications=max_replications,
        metrics=metrics,
        jobs=jobs,
        progress=not as_json,
    )
    if plot:
        found.save_plot(plot)
    click.echo(json.dumps(found.to_json_dict()) if as_json else str(found))


@click.command()
@click.argument("scenario")
@click.option("--vary", multiple=True, required=True, metavar="PATH=V1,V2,...", help="A field, and its values.")
@click.option("--out", metavar="DIR", help="What is finished is kept there.  [default: results/sweep-SCENARIO]")
@PLOT
@click.option(
    "-x", metavar="NAME", help="The picture's x axis: a metric, or a varied field.  [default: cost or first field]"
)
@click.option("-y", default="delivery.p99", show_default=True, metavar="METRIC", help="The picture's y axis.")
@SET
@SEED
@REPLICATIONS
@PRECISION
@MOST
@METRIC
@JOBS
@JSON
def sweep(
    scenario: str,
    vary: tuple[str, ...],
    out: str | None,
    plot: str | None,
    x: str | None,
    y: str,
    overrides: tuple[str, ...],
    seed: int | None,
    replications: int | None,
    precision: tuple[str, ...],
    max_replications: int | None,
    metrics: tuple[str, ...],
    jobs: int,
    as_json: bool,
) -> None:
    """Simulate SCENARIO with every combination of some values, each several times under the same seeds.

    imsim sweep office --vary topology.routers=1,2,4 --vary workload.rate=1,3. Interrupted, and run again, it goes on
    where it was.
    """
    from imsim import api
    from imsim.scenario import files

    chosen = load(scenario, overrides, seed)
    over = files.choices(vary, chosen.name)
    if plot:  # its axes are measured; a name that is none is refused before anything is run
        metrics = (*metrics, *(name for name in (x, y) if name is not None and name not in over))
    found = api.sweep(
        chosen,
        over,
        out=out or f"results/sweep-{chosen.name}",
        replications=replications,
        precision=precision_of(precision),
        max_replications=max_replications,
        metrics=metrics,
        jobs=jobs,
        progress=not as_json,
    )
    if plot:
        found.save_plot(plot, x, y)
    click.echo(json.dumps(found.to_json_dict()) if as_json else str(found))


@click.command()
@click.argument("scenario")
@click.option("--budget", required=True, metavar="TEXT", help="As in 'delivery.p99 < 200ms' or 'lost <= 0'.")
@click.option("--over", default="workload.rate", show_default=True, metavar="PATH", help="The field that is the load.")
@click.option("--low", type=float, help="No lower load than this.  [default: the scenario's own / 64]")
@click.option("--high", type=float, help="No higher load than this.  [default: the scenario's own x 64]")
@click.option("--tolerance", default=0.05, show_default=True, help="How far apart the two loads found may be.")
@click.option("--out", metavar="DIR", help="Keep there what is finished, and do not run it again.")
@SET
@SEED
@REPLICATIONS
@MOST
@JOBS
@PLOT
@JSON
def capacity(
    scenario: str,
    budget: str,
    over: str,
    low: float | None,
    high: float | None,
    tolerance: float,
    out: str | None,
    overrides: tuple[str, ...],
    seed: int | None,
    replications: int | None,
    max_replications: int | None,
    jobs: int,
    plot: str | None,
    as_json: bool,
) -> None:
    """The highest load at which SCENARIO keeps a budget, by bisection.

    imsim capacity office --budget 'delivery.p99 < 200ms'. It says at which load the budget is kept, and at which it is
    broken, as far as the intervals over replications can tell.
    """
    from imsim import api

    found = api.capacity(
        load(scenario, overrides, seed),
        budget,
        over=over,
        low=low,
        high=high,
        tolerance=tolerance,
        replications=replications,
        max_replications=max_replications,
        jobs=jobs,
        out=out,
        progress=not as_json,
    )
    if plot:
        found.save_plot(plot)
    click.echo(json.dumps(found.to_json_dict()) if as_json else str(found))
