"""What several commands have in common: options, and how their values are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imsim.core.exceptions import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from imsim.scenario import Scenario

SET = click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Change a field of the scenario.")


def _picture(_context: click.Context, _option: click.Parameter, path: str | None) -> str | None:
    """Refused before anything is run, which may take long."""
    if path is not None and not path.endswith(PICTURES):
        raise UsageError(f"--plot {path}: expected a name that ends in one of {', '.join(PICTURES)}")
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no such folder; make it first")
    return path


PICTURES = (".png", ".svg", ".pdf")
PLOT = click.option(
    "--plot",
    type=click.Path(dir_okay=False),
    callback=_picture,
    metavar="FILE",
    help="A picture of what is reported, as .png, .svg or .pdf.",
)
SEED = click.option("--seed", type=click.IntRange(min=0), help="In place of the scenario's own.")
OUT = click.option("--out", default="results", show_default=True, metavar="DIR", help="Where the run's folder goes.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
REPLICATIONS = click.option(
    "--replications",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run it so often, under seeds that follow from --seed.",
)
PRECISION = click.option(
    "--precision",
    multiple=True,
    metavar="SHARE",
    help="Go on until delivery.p99 is known to this share, as in 0.05; or another metric: ack.p95=0.02.",
)
MOST = click.option("--max-replications", type=click.IntRange(min=1), metavar="N", help="Not more than so many.")
METRIC = click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Measure this, too: delivery.p99.9.")
JOBS = click.option(
    "--jobs", default=-1, metavar="N", help="Processes (default: one for each core). Changes no result."
)
KEY = click.option(
    "--key", envvar="IMSIM_KEY", default="imsim", metavar="KEY", help="The server's key, for tokens. [env: IMSIM_KEY]"
)


def load(scenario: str, overrides: tuple[str, ...], seed: int | None) -> Scenario:
    from imsim.scenario import Scenario

    return Scenario.load(scenario, overrides, seed=seed)


def precision_of(texts: tuple[str, ...]) -> dict[str, float] | None:
    """From `0.05` or `ack.p95=0.02`, several times."""
    from imsim.experiments import PRECISE

    wanted = {}
    for text in texts:
        metric, equals, share = text.rpartition("=")
        try:
            wanted[metric if equals else PRECISE] = float(share)
        except ValueError:
            raise UsageError(f"--precision {text}: expected a share, as in 0.05, or ack.p95=0.02") from None
    return wanted or None


def text(table: pd.DataFrame) -> str:
    return table.astype(object).where(table.notna(), "-").to_string()
