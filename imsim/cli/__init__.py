"""The `imsim` command. Each subcommand imports what it needs when it runs, so `imsim --help` is quick."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from imsim.cli.experiments import capacity, compare, sweep
from imsim.cli.options import (
    JOBS,
    JSON,
    KEY,
    METRIC,
    MOST,
    OUT,
    PLOT,
    PRECISION,
    REPLICATIONS,
    SEED,
    SET,
    precision_of,
    text,
)
from imsim.cli.options import load as load_scenario
from imsim.core.exceptions import ImsimError, UsageError

if TYPE_CHECKING:
    from imsim.analysis import Run
    from imsim.faultsearch import Outcome

_FAILURE, _USAGE, _INTERRUPTED, _TERMINATED = 1, 2, 130, 143


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0, or 2 for what was asked wrongly, 1 for what failed, with one line that says why."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # As an exception, so that what was started (a server, Locust, temporary folders) is ended and put away.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        cli.main(args=[a for a in arguments if a != "--debug"], prog_name="imsim", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted", _INTERRUPTED)
    except _Terminated:
        sys.exit(_TERMINATED)
    except click.ClickException as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "imsim")
        _complain(f"{error.format_message()} ({where} --help shows how)", _USAGE)
    except ImsimError as error:
        if debug:
            traceback.print_exc()
        _complain(str(error), _USAGE if isinstance(error, UsageError) else _FAILURE)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left; nothing to add
        sys.exit(_FAILURE)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _complain(f"internal error: {type(error).__name__}: {error} (--debug shows where; please report it)", _FAILURE)


class _Terminated(BaseException):
    """SIGTERM came."""


def _terminated(*_: object) -> NoReturn:
    raise _Terminated


def _complain(text: str, code: int) -> None:
    click.echo(f"imsim: {text}", err=True)
    sys.exit(code)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, invoke_without_command=True
)
@click.version_option(package_name="imsim")
@click.pass_context
def cli(context: click.Context) -> None:
    """Simulate an instant-messaging system, then load-test the same code over WebSockets, and compare.

    SCENARIO is a preset's name or a TOML file. --debug, anywhere, shows the traceback of an error.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


_ANY_WORKLOAD = ("conversations.group_size=1", "conversations.room_size=1", "workload.size=1")


@cli.command()
@OUT
def demo(out: str) -> None:
    """Simulate and load-test one scenario, and show both worlds side by side (about half a minute)."""
    from imsim import api

    Path(out).mkdir(parents=True, exist_ok=True)
    scenario = api.Scenario.load("office")
    click.echo(f"office: {scenario.title}")
    click.echo("1. simulating it ...")
    simulated = api.simulate(scenario, out=out, progress=True)
    db = Path(out) / "demo.sqlite"
    with api.serve(scenario, db=db) as server:
        click.echo(f"2. serving the same core at {server.url}, with SQLite, and loading it with Locust ...")
        live = api.loadtest(scenario, server.url, out=out, progress=True)
    assert live.path is not None
    picture = api.save_cdf([simulated, live], live.path / "cdf.png")

    click.echo()
    click.echo(text(api.compare(simulated, live)))
    click.echo(
        f"\nlatency in ms after a warm-up of {scenario.warmup:g} s, from the time each message was intended.\n"
        "The simulated office is on Wi-Fi, 15 ms from its servers; the live one is on this machine's loopback.\n"
    )
    click.echo(f"picture         {picture}")
    click.echo(f"simulated run   {simulated.path}")
    click.echo(f"live run        {live.path}")
    click.echo(f"server's data   {db}")
    click.echo(
        "\nnext:\n"
        "  imsim simulate office --set topology.storage.service.append=50ms   what if storage were slow?\n"
        "  imsim scenarios office > mine.toml                                 a scenario of your own\n"
        "  imsim serve office                                                 the live half by hand, and then\n"
        "  imsim load office --url ws://127.0.0.1:8765                        in another terminal\n"
        "and notebooks/01_first_look.ipynb, in the source, shows the same in a notebook"
    )


@cli.command()
@click.argument("scenario", default="office")
@SEED
@SET
@OUT
@REPLICATIONS
@PRECISION
@MOST
@METRIC
@JOBS
@click.option("--spans", is_flag=True, help="Record where the time of each delivery went, and show it.")
@PLOT
@JSON
def simulate(
    scenario: str,
    seed: int | None,
    overrides: tuple[str, ...],
    out: str,
    replications: int | None,
    precision: tuple[str, ...],
    max_replications: int | None,
    metrics: tuple[str, ...],
    jobs: int,
    spans: bool,
    plot: str | None,
    as_json: bool,
) -> None:
    """Run SCENARIO (default: office) in simulated time.

    Once, into a folder of its own; or, with --replications or --precision, several times in parallel, of which no rows
    are kept: then each number comes with its 95 % interval over the replications. With --spans, one run also tells
    where the time of its deliveries went.
    """
    from imsim import api

    chosen = load_scenario(scenario, overrides, seed)
    if replications is None and not precision:
        if metrics or max_replications:
            raise UsageError("--metric and --max-replications go with --replications or --precision")
        run = api.simulate(chosen, out=out, progress=not as_json, spans=spans)
        if plot:
            run.save_plot(plot)
        _show(run, as_json)
        if spans and not as_json:
            table = run.breakdown().round(3).reset_index().to_string(index=False)
            click.echo(f"\nwhere the time of deliveries went (ms; means add up)\n{table}")
        return
    if spans:
        raise UsageError("--spans is of one run; leave --replications and --precision out")
    if plot:
        raise UsageError("--plot is of one run here; leave --replications and --precision out, or compare two designs")
    found = api.simulate(
        chosen,
        replications=replications or 20,
        precision=precision_of(precision),
        max_replications=max_replications,
        metrics=metrics,
        jobs=jobs,
        progress=not as_json,
    )
    click.echo(json.dumps(found.to_json_dict()) if as_json else str(found))


@cli.command()
@click.argument("scenario", default="office")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 finds a free one.")
@click.option("--db", type=click.Path(dir_okay=False), help="A SQLite file; without one, nothing outlives the server.")
@click.option("--tls-cert", type=click.Path(dir_okay=False), help="Serve wss:// with this certificate (PEM).")
@click.option("--tls-key", type=click.Path(dir_okay=False), help="The certificate's private key (PEM).")
@click.option("--sync", type=click.Choice(["full", "normal"]), default="full", show_default=True, help="SQLite's.")
@SET
@KEY
@click.option("--key-from-stdin", is_flag=True, hidden=True)
def serve(
    scenario: str,
    host: str,
    port: int,
    db: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    sync: str,
    overrides: tuple[str, ...],
    key: str,
    key_from_stdin: bool,
) -> None:
    """Serve the core over WebSockets, until interrupted. Policies and limits come from SCENARIO."""
    from imsim.live.serve import run_server

    # Its workload is none of a server's business, and need not fit these limits.
    chosen = load_scenario(scenario, (*overrides, *_ANY_WORKLOAD), None)
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("TLS needs both --tls-cert and --tls-key")
    if key_from_stdin:
        key = sys.stdin.buffer.readline().decode().rstrip("\n")

    def ended(shed: int) -> None:
        if shed:
            click.echo(f"{shed} messages of chatrooms were shed (limits.room_rate)")

    click.echo(f"not used by a live server: {', '.join(chosen.ignored_live())} (they are the simulation's)")
    run_server(
        chosen.core_policies(),
        host=host,
        port=port,
        db=db,
        synchronous=sync.upper(),
        key=key,
        token_lifetime=chosen.policies.token_lifetime,
        tls=(tls_cert, tls_key) if tls_cert and tls_key else None,
        until_eof=sys.stdin.fileno() if key_from_stdin else None,
        ended=ended,
        ready=lambda url: click.echo(f"listening on {url} ({'SQLite file ' + db if db else 'in memory only'})"),
    )


@cli.command()
@click.argument("scenario")
@click.option("--url", required=True, metavar="ws://...", help="The server's address.")
@click.option("--duration", type=float, metavar="SECONDS", help="In place of the scenario's own.")
@SEED
@SET
@KEY
@OUT
@JSON
def load(
    scenario: str,
    url: str,
    duration: float | None,
    seed: int | None,
    overrides: tuple[str, ...],
    key: str,
    out: str,
    as_json: bool,
) -> None:
    """Drive SCENARIO as real load against a server, with Locust."""
    from imsim import api

    chosen = load_scenario(scenario, overrides, seed)
    run = api.loadtest(chosen, url, duration=duration, key=key, out=out, progress=not as_json)
    _show(run, as_json)


@cli.command()
@click.argument("scenario", required=False)
@click.option("--seeds", default=200, show_default=True, type=click.IntRange(min=1), help="How many to try.")
@click.option("--first", default=0, show_default=True, type=click.IntRange(min=0), help="The first of them.")
@JOBS
@click.option("--replay", type=click.IntRange(min=0), metavar="SEED", help="Run this one again, and tell all about it.")
@click.option(
    "--case", "file", metavar="FILE", help="Run the case that stands in this JSON file, and tell all about it."
)
@click.option("--save", metavar="FILE", help="Of --replay: write the case there, small if it fails, for --case.")
@SET
@JSON
@click.pass_context
def faultsearch(
    context: click.Context,
    scenario: str | None,
    seeds: int,
    first: int,
    jobs: int,
    replay: int | None,
    file: str | None,
    save: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Search for faults that break a promise: small worlds, each with its own random workload and fault plan.

    SCENARIO gives [policies] and [limits], how many gateways and routers there are, and the medians of the links'
    latencies, in place of drawn ones. Users, devices, workload and faults come from the seed all the same; groups,
    service times, loss, jitter and placement are not used.

    Fails (1) if an invariant broke, or if a fault never befell anything although it had every chance to.
    """
    from imsim import faultsearch as search

    _refuse_together(context, "replay", ("file", "seeds", "first", "jobs"))
    _refuse_together(context, "file", ("scenario", "overrides", "save", "seeds", "first", "jobs"))
    if save and replay is None:
        raise UsageError("faultsearch: --save writes the case of --replay SEED; give one")
    if overrides and not scenario:
        raise UsageError("faultsearch: --set changes a field of a scenario; name one")
    chosen = load_scenario(scenario, overrides, None) if scenario else None
    again = shlex.join(["imsim", "faultsearch", *([scenario] if scenario else []), *(f"--set={o}" for o in overrides)])
    if file is not None:
        _tell_case(search.run(search.load(file)), shlex.join(["imsim", "faultsearch", "--case", file]), as_json)
    if replay is not None:
        _tell_case(search.replay(replay, chosen), f"{again} --replay {replay}", as_json, save)
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
    """What says two things at once is a mistake, and none of them can be guessed."""
    options = {parameter.name: parameter for parameter in context.command.params}
    given = [
        name for name in (one, *others) if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if one in given and len(given) > 1:
        words = [str(options[name].get_error_hint(context)).strip("'[]") for name in given]
        raise UsageError(f"faultsearch: {words[0]} runs one case; leave out {', '.join(words[1:])}")


def _tell_case(outcome: Outcome, command: str, as_json: bool, save: str | None = None) -> NoReturn:
    """One run, from its first entry to what it broke."""
    from imsim import faultsearch as search

    failure = search.explain(outcome, command) if outcome.violations else None
    if save is not None:
        search.save(failure.smallest.case if failure else outcome.case, save)
    if as_json:
        told = {"seed": outcome.case.seed, "digest": outcome.digest, "failure": failure.to_json() if failure else None}
        _print([json.dumps({**told, "case": outcome.case.to_json()})])
    else:
        verdict = str(failure) if failure else f"seed {outcome.case.seed}: every invariant holds"
        _print([*map(str, outcome.trace), f"\n{verdict}", f"digest {outcome.digest}"])
    sys.exit(_FAILURE if failure else 0)


def _print(lines: list[str]) -> None:
    """To whoever reads on: one that has seen enough (`| head`) changes nothing of what the exit code says."""
    try:
        for line in lines:
            click.echo(line)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@cli.command()
@click.option("--asyncapi", is_flag=True, help="An AsyncAPI 3.0 document instead, of the whole server.")
@click.option("--out", metavar="FILE", help="Write it there, not to the terminal.")
def schema(asyncapi: bool, out: str | None) -> None:
    """Print the wire protocol as JSON Schema: every frame between clients and server."""
    from imsim import api

    text = json.dumps(api.schema(asyncapi=asyncapi), indent=2)
    if out is None:
        click.echo(text)
        return
    try:
        Path(out).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"out: cannot write {out}: {error.strerror}") from None


@cli.command()
@click.argument("name", required=False)
def scenarios(name: str | None) -> None:
    """List the presets; with a NAME, print its TOML."""
    from imsim.scenario import Scenario

    if name:
        click.echo(Scenario.preset_text(name), nl=False)
        return
    presets = Scenario.presets()
    width = max(map(len, presets))
    for preset, title in presets.items():
        click.echo(f"{preset:<{width}}  {title}")


def _show(run: Run, as_json: bool) -> None:
    for warning in run.warnings:
        click.echo(f"imsim: warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(run.to_json_dict()))
        return
    from imsim.analysis import few_notes

    click.echo(str(run))
    click.echo(f"\nrun     {run.path}\ndigest  {run.digest}")
    if run.world == "sim":
        click.echo("note: one run has one kind of luck, and its numbers no intervals: --replications 20 gives them")
    for note in few_notes(run):
        click.echo(f"note: {note}")


for command in (compare, sweep, capacity):
    cli.add_command(command)
