"""The command that writes a page about runs: report."""

from __future__ import annotations

import json
from pathlib import Path

import click

from imsim.cli.options import JSON, check_page, examples


@click.command(
    epilog=examples(
        "imsim report results/20261201T093000Z-sim-office-3f2a1c -o report.html",
        "imsim report results/*office* -o report.html",
    )
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    "path",
    default="report.html",
    show_default=True,
    type=click.Path(dir_okay=False),
    callback=check_page,
    metavar="FILE",
    help="Write the page to this file (.html).",
)
@click.option("--title", metavar="TEXT", help="The title of the page.  [default: the scenario's]")
@JSON
def report(runs: tuple[str, ...], path: str, title: str | None, as_json: bool) -> None:
    """Write one HTML page about runs, from their folders. It needs no network and no script.

    One run is shown with all details, two runs next to each other, and more runs as designs: runs that differ in their
    seeds only are averaged, with intervals. Other commands write a page about their result with --report.
    """
    from imsim import api

    size = Path(api.report(runs, path, title=title, progress=not as_json)).stat().st_size
    click.echo(json.dumps({"file": path, "bytes": size}) if as_json else f"{path} ({size / 1024:,.0f} KiB)")
