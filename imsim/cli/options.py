"""Options that several commands share, and the functions that read their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imsim.core.exceptions import UsageError

if TYPE_CHECKING:
    from imsim.scenario import Scenario

PICTURES = (".png", ".svg", ".pdf")


def _check_picture(_context: click.Context, _option: click.Parameter, path: str | None) -> str | None:
    """Refuse a wrong file name before a long run starts."""
    if path is not None and not path.endswith(PICTURES):
        raise UsageError(f"--plot {path}: expected a name that ends in one of {', '.join(PICTURES)}")
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: the folder does not exist; make it first")
    return path


def check_page(_context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """Refuse a wrong name of a report's file before a long run starts."""
    name = option.opts[0]
    if path is not None and not path.lower().endswith((".html", ".htm")):
        raise UsageError(f"{name} {path}: expected a name that ends in .html")
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise UsageError(f"{name} {path}: the folder does not exist; make it first")
    return path


def _read_duration(_context: click.Context, _option: click.Parameter, text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text  # a text with a unit, which the scenario reads


SET = click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Change a field of the scenario.")
SEED = click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Replace the scenario's seed.")
DURATION = click.option(
    "--duration", callback=_read_duration, metavar="TIME", help="Replace the scenario's duration: 5s, or seconds."
)
MAX_TIME = click.option(
    "--max-time",
    callback=_read_duration,
    metavar="TIME",
    help="With --url, start no further run after this time.  [default: 15min]",
)
OUT = click.option("--out", default="results", show_default=True, metavar="DIR", help="Make the run's folder here.")
PLOT = click.option(
    "--plot",
    type=click.Path(dir_okay=False),
    callback=_check_picture,
    metavar="FILE",
    help="Write a picture of the result (.png, .svg or .pdf).",
)
REPORT = click.option(
    "--report",
    type=click.Path(dir_okay=False),
    callback=check_page,
    metavar="FILE",
    help="Write a page about the result (.html).",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
REPLICATIONS = click.option(
    "--replications", type=click.IntRange(min=1), metavar="N", help="Number of runs of each design."
)
PRECISION = click.option(
    "--precision",
    multiple=True,
    metavar="SHARE",
    help="Run until delivery.p99 is this precise: 0.05; or ack.p95=0.02.",
)
MOST = click.option(
    "--max-replications", type=click.IntRange(min=1), metavar="N", help="Largest number of runs of each design."
)
METRIC = click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="Measure this metric, too: delivery.p99.9."
)
JOBS = click.option(
    "--jobs", default=-1, metavar="N", help="Number of processes; default: one for each core. Changes no result."
)
PROCESSES = click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of Locust processes that send and receive: one for each core that the load needs.",
)
_KEY = click.option(
    "--key", metavar="KEY", help="The server's key for tokens.  [default: the variable IMSIM_KEY, or imsim]"
)
_KEY_FILE = click.option("--key-file", metavar="FILE", help="Read the key from this file.")


_ADAPTER = click.option(
    "--adapter",
    default="imsim",
    show_default=True,
    metavar="NAME",
    help="The kind of server, or the path of an adapter.",
)
ADAPTER_OPTION = click.option(
    "--option", "adapter_options", multiple=True, metavar="NAME=VALUE", help="Set an option of the adapter."
)


def ADAPTER(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the kind of server: --adapter and --option."""
    return _ADAPTER(ADAPTER_OPTION(command))


def KEY(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the key: --key and --key-file."""
    return _KEY(_KEY_FILE(command))


def examples(*lines: str) -> str:
    """Return the end of a command's help: examples of its use, one on each line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def load(scenario: str, overrides: tuple[str, ...], seed: int | None) -> Scenario:
    """Return the scenario that a command line names, with its changes."""
    from imsim.scenario import Scenario

    return Scenario.load(scenario, overrides, seed=seed)


def precision_of(texts: tuple[str, ...]) -> dict[str, float] | None:
    """Return the precision that the texts `0.05` or `ack.p95=0.02` describe; None without texts."""
    from imsim.experiments import PRECISE

    wanted = {}
    for text in texts:
        metric, equals, share = text.rpartition("=")
        try:
            wanted[metric if equals else PRECISE] = float(share)
        except ValueError:
            raise UsageError(f"--precision {text}: expected a share such as 0.05, or ack.p95=0.02") from None
    return wanted or None
