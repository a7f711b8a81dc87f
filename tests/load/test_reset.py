"""The reset of a server between two runs."""

from __future__ import annotations

import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from imsim.core.exceptions import RunError
from imsim.load import reset as module
from imsim.load.reset import reset


@pytest.fixture
def quick(monkeypatch):
    """Waits that a test can afford."""
    for name, seconds in (("_READY_SECONDS", 0.2), ("_IDLE_SECONDS", 0.5), ("_PAUSE", 0.01), ("_POLL", 0.02)):
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def metrics():
    """A server whose GET /metrics returns the texts of a list, the last one again and again."""
    texts = ["imsim_ready 1\n"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/metrics"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(texts[0].encode())
            if len(texts) > 1:
                del texts[0]

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"ws://127.0.0.1:{server.server_port}", texts
    server.shutdown()
    server.server_close()
    thread.join()


def page(connections, waiting, frames):
    return (
        f'imsim_ready 1.0\nimsim_connections{{state="not_logged_in"}} 1.0\n'
        f'imsim_connections{{state="logged_in"}} {connections}\n'
        f'imsim_queue_length{{queue="storage"}} {waiting}\nimsim_frames_total{{direction="sent",op="push"}} {frames}\n'
    )


def test_server_is_idle_once_connections_queues_and_frames_rest(metrics, quick):
    url, texts = metrics
    texts[:] = [page(2.0, 0.0, 5.0), page(0.0, 3.0, 5.0), page(0.0, 0.0, 8.0), page(0.0, 0.0, 9.0), page(0.0, 0.0, 9.0)]
    assert reset(url) is None
    assert len(texts) == 1


def test_server_that_others_use_gets_a_note(metrics, quick):
    url, texts = metrics
    texts[:] = [page(2.0, 0.0, 5.0)]
    assert reset(url) == f"the server at {url} was not idle before each run (2 connections and waiting elements)"


def test_real_server_is_idle(url):
    assert reset(url) is None


def test_other_server_needs_to_accept_connections_only(quick):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=lambda: [listener.accept()[0].close() for _ in range(2)])
        thread.start()
        assert reset(f"ws://127.0.0.1:{listener.getsockname()[1]}") is None
        thread.join()


def test_server_that_does_not_come_back_is_an_error(free_port, quick):
    with pytest.raises(RunError, match="no server at ws://127"):
        reset(f"ws://127.0.0.1:{free_port}")


def test_command_runs_first(tmp_path, metrics, quick):
    url, texts = metrics
    texts[:] = [page(0.0, 0.0, 1.0)]
    file = tmp_path / "done"
    code = f"open({str(file)!r}, 'w')"
    reset(url, f'{sys.executable} -c "{code}"')
    assert file.exists()
    with pytest.raises(RunError, match=r"--reset: 'echo no disk; exit 3' failed with exit code 3: no disk"):
        reset(url, "echo no disk; exit 3")
