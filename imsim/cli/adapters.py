"""The commands about adapters, the protocols of chat servers: adapter check, adapter list."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from imsim.cli.options import ADAPTER_OPTION, JSON, KEY, examples
from imsim.core.exceptions import ImsimError
from imsim.keys import choose_key

_FAILURE = 1


@click.group(epilog=examples("imsim adapter list", "imsim adapter check my_adapter.py --url ws://127.0.0.1:9000"))
def adapter() -> None:
    """Check an adapter to a chat server, and list the adapters that are installed."""


@adapter.command(
    epilog=examples(
        "imsim adapter check my_adapter.py --url ws://127.0.0.1:9000",
        "imsim adapter check mqtt --url ws://127.0.0.1:9001 --only login --only loss",
    )
)
@click.argument("name", metavar="ADAPTER")
@click.option("--url", required=True, metavar="URL", help="The address of a running server.")
@ADAPTER_OPTION
@KEY
@click.option("--namespace", metavar="NAME", help="The prefix of all names; default: a new one for each run.")
@click.option("--only", multiple=True, metavar="CHECK", help="Run this check instead of all. Repeatable.")
@click.option(
    "--patience",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0.05),
    metavar="SECONDS",
    help="The time within which the server must answer.",
)
@JSON
def check(
    name: str,
    url: str,
    adapter_options: tuple[str, ...],
    key: str | None,
    key_file: str | None,
    namespace: str | None,
    only: tuple[str, ...],
    patience: float,
    as_json: bool,
) -> None:
    """Check an adapter against a running server, and print what it gets wrong.

    ADAPTER is a name of `imsim adapter list`, a file such as my_adapter.py, or package.module:Class. The checks create
    users, groups and messages on the server. The exit code is 1 if a check failed.
    """
    from imsim.load import conformance
    from imsim.load.adapters import Target, find
    from imsim.load.adapters.find import options_of

    target = Target(
        url,
        choose_key(key, key_file),
        namespace or "",
        conformance.POLICIES,
        options_of(adapter_options, "--option"),
    )

    def show(report: conformance.Report) -> None:
        if len(report.results) == 1:
            click.echo(report.heading)
        click.echo(str(report.results[-1]))

    shown = {} if as_json else {"progress": show}
    report = conformance.check(find(name), target, only=only, patience=patience, **shown)
    click.echo(json.dumps(report.to_json()) if as_json else report.summary)
    sys.exit(0 if report.passed else _FAILURE)


@adapter.command("list", epilog=examples("imsim adapter list", "imsim adapter list --json"))
@JSON
def list_(as_json: bool) -> None:
    """List the adapters of imsim and of installed packages, with their features and options."""
    from imsim.load.adapters.find import find, names

    found: dict[str, dict[str, Any]] = {}
    for name in names():
        try:
            one = find(name)
        except ImsimError as error:
            found[name] = {"error": str(error)}
        else:
            features = sorted(feature.value for feature in one.features)
            found[name] = {"class": f"{one.__module__}:{one.__qualname__}", "features": features}
            found[name]["options"] = dict(one.options)
    if as_json:
        click.echo(json.dumps({"adapters": found}))
        return
    width = max(map(len, found))
    for name, description in found.items():
        click.echo(f"{name:<{width}}  {description.get('error') or ', '.join(description['features'])}")
        for option, text in description.get("options", {}).items():
            click.echo(f"{'':<{width}}  --option {option}=...: {text}")
