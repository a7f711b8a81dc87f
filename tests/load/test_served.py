"""Tests of `imsim.serve`: a server in a subprocess."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.request

import pytest

import imsim


def test_second_server_delivers_messages_from_the_file_of_the_first(tmp_path):
    async def send() -> None:
        async with imsim.Client(server.url, "alice", key="mine") as alice:
            await alice.send_text("bob", "kept")

    async def receive() -> None:
        async with imsim.Client(server.url, "bob", key="mine") as bob:
            assert (await anext(bob.messages())).content == "kept"

    for part in (send, receive):
        with imsim.serve("office", db=tmp_path / "kept.sqlite", key="mine") as server:
            assert "running" in repr(server)
            with urllib.request.urlopen(server.url.replace("ws://", "http://") + "/healthz") as answer:
                assert json.load(answer)["status"] == "ok"
            asyncio.run(part())
        assert "ended" in repr(server)
        with pytest.raises(imsim.UsageError, match=r"the server at ws://.* has ended; start another one"), server:
            pass
        with pytest.raises(imsim.RunError, match="no server at"):
            imsim.loadtest("office", server.url)
        server.stop()


def test_server_that_cannot_start_reports_the_reason(tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(imsim.RunError, match=r"did not start: port \d+ .*in use"):
        imsim.serve("office", port=taken.getsockname()[1])
    with pytest.raises(imsim.UsageError, match="did not start"):
        imsim.serve("office", db=tmp_path)


def test_log_of_the_server_reaches_the_process_that_started_it(caplog):
    with imsim.serve("office", host="0.0.0.0", key="k" * 16) as server:
        pass
    (line,) = [record.getMessage() for record in caplog.records if record.name == "imsim.serve"]
    assert f"WARNING other computers can reach 0.0.0.0, port {server.url.rpartition(':')[2]}" in line
