"""A server in a process of its own."""

from __future__ import annotations

import json
import urllib.request

import pytest

import imsim


def test_a_served_file_outlives_its_server(tmp_path):
    db = tmp_path / "kept.sqlite"
    for _ in range(2):
        with imsim.serve("office", db=db) as server:
            imsim.loadtest("office", server.url, duration=1)
            with urllib.request.urlopen(server.url.replace("ws://", "http://") + "/healthz") as answer:
                assert json.load(answer)["status"] == "ok"
    assert db.stat().st_size > 0


def test_a_server_ends_with_its_block():
    with imsim.serve("office") as server:
        assert "running" in repr(server)
        url = server.url
    assert "ended" in repr(server)
    server.stop()
    with pytest.raises(imsim.RunError, match="no server at"):
        imsim.loadtest("office", url)


def test_a_server_that_cannot_start_says_why(tmp_path):
    with imsim.serve("office") as server, pytest.raises(imsim.RunError, match=r"did not start: port \d+ .*taken"):
        imsim.serve("office", port=int(server.url.rpartition(":")[2]))
    with pytest.raises(imsim.UsageError, match="did not start"):
        imsim.serve("office", db=tmp_path)
