"""A server from start to end, as the `imsim serve` command runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from imsim.core.exceptions import UsageError
from imsim.core.policies import Policies
from imsim.live.loop import run
from imsim.live.server import Server
from imsim.live.stores import SqliteStore


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
) -> None:
    """Serve until SIGINT or SIGTERM, or until the file descriptor `until_eof` is at its end; then stop in good order.

    `ready` is told the URL once connections are accepted, and `ended` how many messages of chatrooms were shed. `db`:
    None keeps everything in memory only. `tls`: the files of the certificate chain and of its key (PEM), for wss:// and
    https://.
    Raises: UsageError, RunError as `Server.start` and `SqliteStore` do.
    """

    context = _tls_context(*tls) if tls else None

    async def main() -> None:
        loop = asyncio.get_running_loop()
        asked_to_end = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # an event loop without signals: an interrupt ends it all the same
                loop.add_signal_handler(number, asked_to_end.set)
        if until_eof is not None:
            # A thread, because an event loop cannot wait for every kind of file.
            Thread(target=_wait_for_end, args=(until_eof, loop, asked_to_end), daemon=True).start()
        store = SqliteStore(db or ":memory:", synchronous=synchronous, fanout=policies.fanout)
        try:
            server = Server(policies, store, key=key, token_lifetime=token_lifetime, ssl=context)
            await server.start(host, port)
            ready(server.url)
            await asked_to_end.wait()
            await server.stop()
            ended(server.shed)
        finally:
            store.close()

    run(main())


def _tls_context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"TLS: {certificate} with {key}: {error.strerror or error}; give PEM files that fit") from None
    return context


def _wait_for_end(file: int, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    while os.read(file, 4096):  # not a buffered file's read: it holds a lock that the interpreter wants when it exits
        pass
    with suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(ended.set)
