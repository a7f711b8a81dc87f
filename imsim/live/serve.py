"""The life of a server from start to stop, as the command `imsim serve` runs it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Literal

from imsim.core.exceptions import UsageError
from imsim.core.policies import Policies
from imsim.live.console import Console, Status
from imsim.live.loop import run
from imsim.live.problems import report
from imsim.live.server import Server
from imsim.live.stores import SqliteStore

_TIDY_SECONDS = 0.3  # between two looks at whether the last client has gone


def run_server(
    policies: Policies,
    *,
    host: str,
    port: int,
    db: str | os.PathLike[str] | None,
    synchronous: str,
    key: str,
    token_lifetime: float,
    ready: Callable[[str], None],
    ended: Callable[[int], None],
    tls: tuple[str, str] | None = None,
    until_eof: int | None = None,
    page: Literal["open", "key"] | None = None,
    log_format: str = "text",
    log_level: str | None = None,
    status: bool = False,
) -> None:
    """Serve until SIGINT, SIGTERM, or the end of the file descriptor `until_eof`. Then stop the server gracefully.

    `ready` receives the URL once the server accepts connections. `ended` receives the count of shed chatroom messages.
    `db` is the path of the database; None keeps everything in memory only. `tls` is a pair of PEM files, for wss:// and
    https://: the certificate chain and its private key. `page` adds the chat page, as in `Server`. The log goes to
    stderr, in the format text or json, from the level `log_level` on (by default warning as text, and info as JSON).
    `status` shows a status line there if it is a terminal.
    Raises: UsageError or RunError, as `Server.start` and `SqliteStore` do; UsageError if the TLS files do not load.
    """

    context = _tls_context(*tls) if tls else None
    console = Console(sys.stderr, log_format, log_level or ("info" if log_format == "json" else "warning"))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop_requested = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # this event loop has no signal handlers; KeyboardInterrupt ends it
                loop.add_signal_handler(number, stop_requested.set)
        if until_eof is not None:
            # A thread waits, because an event loop cannot wait for every kind of file.
            Thread(target=_wait_for_eof, args=(until_eof, loop, stop_requested), daemon=True).start()
        store = SqliteStore(":memory:" if db is None else db, synchronous=synchronous, fanout=policies.fanout)
        try:
            server = Server(policies, store, key=key, token_lifetime=token_lifetime, ssl=context, page=page)
            await server.start(host, port)
            ready(server.url)
            report(logging.INFO, "started", f"listening on {server.url}", url=server.url, db=os.fspath(db or ""))
            if status and sys.stderr.isatty():
                console.show_status(Status(server.monitor.metrics, lambda: server.connection_counts()["logged_in"]))
            tidying = loop.create_task(_tidy(server))
            await stop_requested.wait()
            tidying.cancel()
            report(logging.INFO, "stopping", "stopping")
            await server.stop()
            report(logging.INFO, "stopped", "stopped")
            console.close()  # before `ended`, which may write to the same terminal
            ended(server.shed)
        finally:
            store.close()

    console.open()
    try:
        run(main())
    finally:
        console.close()


async def _tidy(server: Server) -> None:
    """Take what the server keeps out of the garbage collector's sight, each time the last client has gone.

    Otherwise each full collection pauses the server to scan everything again: for a second, after many load tests. What
    lives on without a client is state without reference cycles, so its memory is freed without the collector, too.
    """
    had_clients = False
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        has_clients = server.connection_counts()["logged_in"] > 0
        if had_clients and not has_clients:
            gc.collect()
            gc.freeze()
        had_clients = has_clients


def _tls_context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or error
        raise UsageError(
            f"TLS: cannot load {certificate} with {key}: {reason}; give a PEM certificate chain and its private key"
        ) from None
    return context


def _wait_for_eof(file: int, loop: asyncio.AbstractEventLoop, stop_requested: asyncio.Event) -> None:
    # os.read, because the read of a buffered file holds a lock that the interpreter needs when it exits.
    while os.read(file, 4096):
        pass
    with suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(stop_requested.set)
