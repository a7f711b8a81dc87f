"""The `imsim` command. Each subcommand imports its modules when it runs, so `imsim --help` is fast."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from itertools import pairwise
from typing import Any, NoReturn, TextIO, cast

import click

from imsim import disk
from imsim.cli.adapters import adapter
from imsim.cli.check import baseline, check
from imsim.cli.experiments import capacity, compare, replicate, simulate, sweep
from imsim.cli.faultsearch import faultsearch
from imsim.cli.options import JSON, examples
from imsim.cli.report import report
from imsim.cli.runs import runs
from imsim.cli.servers import demo, load, serve
from imsim.core.exceptions import ImsimError, UsageError

_FAILURE, _USAGE, _INTERRUPTED, _TERMINATED = 1, 2, 130, 143


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 if it succeeded, 2 if the request is wrong, 1 if it failed.

    An error is one line on stderr.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _refuse_empty(arguments)
    debug = "--debug" in arguments
    # SIGTERM becomes an exception, so that servers, Locust and temporary folders are cleaned up.
    signal.signal(signal.SIGTERM, _terminated)
    output = _Output(sys.stdout or StringIO())  # a closed standard output is None
    try:
        with warnings.catch_warnings(), redirect_stdout(cast(TextIO, output)):
            warnings.showwarning = _show_warning
            cli.main(args=[a for a in arguments if a != "--debug"], prog_name="imsim", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        _fail(str(error) or "interrupted", _INTERRUPTED)
    except _Terminated:
        _fail("terminated", _TERMINATED)
    except click.ClickException as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "imsim")
        _fail(f"{error.format_message()} (see {where} --help)", _USAGE)
    except ImsimError as error:
        if debug:
            traceback.print_exc()
        _fail(str(error), _USAGE if isinstance(error, UsageError) else _FAILURE)
    except OSError as error:
        if debug:
            traceback.print_exc()
        _fail_by(error, output)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _fail(f"internal error: {type(error).__name__}: {error} (please report it; --debug shows where)", _FAILURE)


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse empty arguments. They come from unset variables, and could mean something unsafe: --host "$HOST"."""
    for before, argument in pairwise(["", *arguments]):
        if argument == "":
            _fail(
                f"{before if before.startswith('-') else 'argument'}: must not be empty (is a variable unset?)", _USAGE
            )
        if re.fullmatch(r"--[a-z-]+=", argument):
            _fail(f"{argument[:-1]}: must not be empty (is a variable unset?)", _USAGE)


class _Terminated(BaseException):
    """The process received SIGTERM."""


def _terminated(*_: object) -> NoReturn:
    raise _Terminated


class _Output:
    """Standard output. `error` is the error with which the last write failed, for example because no space is left."""

    def __init__(self, stream: TextIO) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        with self._remembering():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._remembering():
            self._stream.flush()

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _fail_by(error: OSError, output: _Output) -> NoReturn:
    """Exit after an OSError that no other function has converted: an error of standard output, with few exceptions."""
    if error is not output.error:
        known = disk.error_of(error, "use", error.filename or "a file or socket")
        _fail(str(known), _USAGE if isinstance(known, UsageError) else _FAILURE)
    # Python flushes once more when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone, and expects no message
        sys.exit(_FAILURE)
    _fail(str(disk.error_of(error, "write", "the standard output")), _FAILURE)


def _fail(text: str, code: int) -> NoReturn:
    with suppress(OSError):  # standard error may be full or closed, too
        click.echo(f"imsim: {text}", err=True)
    sys.exit(code)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"imsim: warning: {message}", err=True)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    epilog=examples("imsim demo", "imsim simulate office --duration 5s"),
)
@click.version_option(package_name="imsim", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Simulate an instant-messaging system, load-test the same code over WebSockets, and compare the two.

    SCENARIO is the name of a preset or the path of a TOML file. With --debug, an error shows its traceback.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@click.command(epilog=examples("imsim schema --out imsim.schema.json", "imsim schema --asyncapi"))
@click.option("--asyncapi", is_flag=True, help="Print the AsyncAPI 3.0 document of the whole server.")
@click.option("--out", metavar="FILE", help="Write the document to this file.")
@JSON
def schema(asyncapi: bool, out: str | None, as_json: bool) -> None:
    """Print the wire protocol as JSON Schema: every frame between clients and server."""
    from imsim import api

    document = api.schema(asyncapi=asyncapi)
    text = json.dumps(document, indent=2)
    if out is None:
        click.echo(json.dumps(document) if as_json else text)
        return
    disk.write(out, f"{text}\n".encode(), name="--out")
    if as_json:
        click.echo(json.dumps({"file": out}))


@click.command(epilog=examples("imsim scenarios", "imsim scenarios office > mine.toml"))
@click.argument("name", required=False)
@JSON
def scenarios(name: str | None, as_json: bool) -> None:
    """List the presets. With NAME, print the TOML of that preset."""
    from imsim.scenario import Scenario

    if name:
        text = Scenario.preset_text(name)
        if as_json:
            click.echo(json.dumps({"name": name, "title": Scenario.presets()[name], "toml": text}))
        else:
            click.echo(text, nl=False)
        return
    presets = Scenario.presets()
    if as_json:
        click.echo(json.dumps({"scenarios": presets}))
        return
    width = max(map(len, presets))
    for preset, title in presets.items():
        click.echo(f"{preset:<{width}}  {title}")


for command in (
    demo, simulate, replicate, compare, sweep, capacity, check, baseline, report, runs, serve, load, adapter,
    faultsearch,
    schema, scenarios,
):  # fmt: skip
    cli.add_command(command)
