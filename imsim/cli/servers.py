"""The commands that run a real server: serve, load, demo."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Literal

import click

from imsim import disk
from imsim.cli.experiments import show, show_table
from imsim.cli.options import ADAPTER, DURATION, JSON, KEY, OUT, PROCESSES, REPORT, SEED, SET, examples
from imsim.cli.options import load as load_scenario
from imsim.core.exceptions import UsageError
from imsim.keys import DEFAULT_KEY, check_key, choose_key

#: A server does not use the workload, which therefore need not fit the limits.
_ANY_WORKLOAD = ("conversations.group_size=1", "conversations.room_size=1", "workload.size=1")

_LINE_SECONDS = 5.0  # between two lines of the progress without a terminal
#: The exit codes of a program that Ctrl-C or SIGTERM has ended.
_INTERRUPTED, _TERMINATED = 130, 143

#: The exit code of a run whose numbers cannot be trusted.
_INVALID = 5

#: The network of the live run, to simulate it: the loopback interface takes tens of microseconds and loses nothing. So
#: do the threads of the server's process, which stand for the links of the backend.
_LOOPBACK = {"network.client": {"latency": "50us"}, "network.backend": {"latency": "50us"}}


@click.command(
    epilog=examples(
        "imsim serve --web",
        "imsim serve office --port 9000 --db messages.sqlite --set policies.ack=after_receive",
    )
)
@click.argument("scenario", default="office")
@SET
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="The address to listen on.")
@click.option(
    "--port",
    default=8765,
    show_default=True,
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="The port to listen on; 0 finds a free one.",
)
@click.option("--db", type=click.Path(dir_okay=False), metavar="FILE", help="A SQLite file; default: in memory only.")
@click.option(
    "--sync",
    type=click.Choice(["full", "normal"]),
    default="full",
    show_default=True,
    help="SQLite's setting `synchronous`.",
)
@KEY
@click.option(
    "--tls-cert", type=click.Path(dir_okay=False), metavar="FILE", help="Serve wss:// with this certificate (PEM)."
)
@click.option("--tls-key", type=click.Path(dir_okay=False), metavar="FILE", help="The certificate's private key (PEM).")
@click.option("--web", is_flag=True, help="Serve a chat page for browsers at the same port.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="The format of the log lines on stderr.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="The lowest level that is logged; default: warning, or info with --log-format json.",
)
@JSON
@click.option("--key-from-stdin", is_flag=True, hidden=True)
def serve(
    scenario: str,
    overrides: tuple[str, ...],
    host: str,
    port: int,
    db: str | None,
    sync: str,
    key: str | None,
    key_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    web: bool,
    log_format: str,
    log_level: str | None,
    as_json: bool,
    key_from_stdin: bool,
) -> None:
    """Run the server until it is interrupted. Policies and limits come from SCENARIO.

    Without SCENARIO, they come from the preset `office`.
    """
    from imsim.live.serve import run_server

    chosen = load_scenario(scenario, (*overrides, *_ANY_WORKLOAD), None)
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key: TLS needs both")
    if key_from_stdin:
        chosen_key = check_key(sys.stdin.buffer.readline().decode().rstrip("\n"))
    else:
        chosen_key = choose_key(key, key_file)
    ignored = chosen.ignored_live()

    # The page gets tokens without a key only where everybody who can connect knows the key. With the default key, the
    # server listens on the loopback interface only.
    page: Literal["open", "key"] = "open" if chosen_key == DEFAULT_KEY else "key"

    def ready(url: str) -> None:
        link = f"http{url.removeprefix('ws')}/"  # ws: -> http:, wss: -> https:
        if as_json:
            found = {"url": url, "db": db, "scenario": chosen.name, "ignored": ignored}
            click.echo(json.dumps({**found, "page": link} if web else found))
            return
        click.echo(f"listening on {url} ({'SQLite file ' + db if db else 'in memory only'})")
        if web:
            note = f"; for example {link}?user=alice" if page == "open" else ", which asks for the key"
            click.echo(f"chat page: {link}{note}")

    def ended(shed: int) -> None:
        if shed:
            click.echo(f"{shed} messages of chatrooms were shed (limits.room_rate)", err=as_json)

    if not as_json:
        click.echo(f"ignored by a live server: {', '.join(ignored)} (for the simulation only)")
    run_server(
        chosen.core_policies(),
        host=host,
        port=port,
        db=db,
        synchronous=sync.upper(),
        key=chosen_key,
        token_lifetime=chosen.policies.token_lifetime,
        tls=(tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None,
        until_eof=sys.stdin.fileno() if key_from_stdin else None,
        ended=ended,
        ready=ready,
        page=page if web else None,
        log_format=log_format,
        log_level=log_level,
        status=not as_json and log_format == "text",
    )


@click.command(
    epilog=examples(
        "imsim load office --url wss://chat.example.com --adapter mqtt --option qos=1 --duration 30s",
        "imsim load office --url ws://127.0.0.1:8765 --set population.users=4000 --processes 4",
    )
)
@click.argument("scenario")
@click.option("--url", required=True, metavar="URL", help="The server's address: ws://host:port or wss://host:port.")
@ADAPTER
@SET
@SEED
@DURATION
@PROCESSES
@KEY
@OUT
@REPORT
@JSON
def load(
    scenario: str,
    url: str,
    adapter: str,
    adapter_options: tuple[str, ...],
    overrides: tuple[str, ...],
    seed: int | None,
    duration: float | str | None,
    processes: int,
    key: str | None,
    key_file: str | None,
    out: str,
    report: str | None,
    as_json: bool,
) -> None:
    """Send SCENARIO's messages to a server in real time, and write the rows to a new folder.

    The messages are the same as in `imsim simulate`. Locust sends them in a process of its own.
    """
    from imsim import api
    from imsim.load.adapters.find import options_of

    chosen = load_scenario(scenario, overrides, seed)
    try:
        run = api.loadtest(
            chosen,
            url,
            adapter=adapter,
            options=options_of(adapter_options, "--option"),
            duration=duration,
            processes=processes,
            key=key,
            key_file=key_file,
            out=out,
            progress=not as_json and (sys.stderr.isatty() or _Lines().show),
        )
    except KeyboardInterrupt as interrupt:
        if (partial := getattr(interrupt, "run", None)) is None:
            raise
        show(partial, as_json)
        if report:
            api.report(partial, report, progress=False)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # The orderly exit takes as long as all else after Ctrl-C, on a busy computer more than a second.
        os._exit(_INTERRUPTED if isinstance(interrupt.__cause__, KeyboardInterrupt) else _TERMINATED)
    show(run, as_json)
    if report:
        api.report(run, report, progress=not as_json)
    if not run.valid:
        sys.exit(_INVALID)
    if run.partial:
        sys.exit(1)


class _Lines:
    """The progress as a line on stderr every few seconds, for logs of CI."""

    def __init__(self) -> None:
        self._next = 0.0

    def show(self, what: str, share: float) -> None:
        if share > 0 and time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            click.echo(f"imsim: {what}", err=True)


@click.command(epilog=examples("imsim demo", "imsim demo --out /tmp/imsim-demo"))
@OUT
@JSON
def demo(out: str, as_json: bool) -> None:
    """Simulate a scenario, load-test the real server with it, and compare (less than half a minute).

    Both worlds have the network of this machine: each simulated link takes 50 us and loses nothing.
    """
    from imsim import api

    def say(text: str = "") -> None:
        if not as_json:
            click.echo(text)

    disk.make_folder(out, name="--out")
    scenario = api.Scenario.load("office")
    say(f"office: {scenario.title}")
    say("1. simulating it with the network of this machine (50 us for each link, no loss) ...")
    simulated = api.simulate(scenario.replace(_LOOPBACK), out=out, progress=not as_json)
    db = Path(out) / "demo.sqlite"
    with api.serve(scenario, db=db) as server:
        say(f"2. running the server at {server.url} with SQLite, and loading it with Locust ...")
        live = api.loadtest(scenario, server.url, out=out, progress=not as_json)
    assert live.path is not None
    if not as_json:
        say()
        show_table([simulated, live])
    picture = api.save_cdf([simulated, live], live.path / "cdf.png")
    if as_json:
        found = {"simulated": simulated.to_json_dict(), "live": live.to_json_dict()}
        click.echo(json.dumps({**found, "picture": str(picture), "db": str(db)}))
        return
    say(
        f"\nLatencies are in ms, after a warm-up of {scenario.warmup:g} s, from the time at which each message was "
        "intended.\n"
    )
    say(f"picture         {picture}")
    say(f"simulated run   {simulated.path}")
    say(f"live run        {live.path}")
    say(f"server's data   {db}")
    say(
        "\nnext:\n"
        "  imsim simulate office --set topology.storage.service.append=50ms   simulate slow storage\n"
        "  imsim scenarios office > mine.toml                                 write a scenario of your own\n"
        "  imsim serve office                                                 run the server, and then\n"
        "  imsim load office --url ws://127.0.0.1:8765                        load it from another terminal\n"
        "The source has the same in a notebook: notebooks/01_first_look.ipynb"
    )
