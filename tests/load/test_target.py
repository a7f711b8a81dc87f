"""Tests of `Target`: the address of a server, its check and its tokens."""

from __future__ import annotations

import socket
import threading

import pytest

from imsim.core.exceptions import RunError, UsageError
from imsim.load.target import Target


@pytest.mark.parametrize(
    "url", ["", "http://host:1", "ws://", "host:80", "ws://host:99999", "ws://u:p@host", "ws://host/?a=1", "ws://[::1"]
)
def test_target_refuses_other_urls(url):
    with pytest.raises(UsageError, match="url: "):
        Target(url)


def test_target_takes_host_port_and_path_from_the_url():
    target = Target("wss://im.example/edge/")
    assert (target.host, target.port, target.secure) == ("im.example", 443, True)
    assert Target("ws://[::1]:8080").host == "::1"


def test_target_checks_a_server_and_gets_a_token(url):
    target = Target(url)
    target.check()
    assert target.token("ann", "imsim", timeout=5).count(".") == 2


def test_wrong_key_raises_run_error(url):
    with pytest.raises(RunError, match="refused the key: wrong key"):
        Target(url).token("ann", "schlüssel", timeout=5)


def test_invalid_user_name_raises_run_error(url):
    with pytest.raises(RunError, match="HTTP 400 in answer to GET /token"):
        Target(url).token("ann lee", "imsim", timeout=5)


def test_closed_port_raises_run_error_or_os_error(free_port):
    with pytest.raises(RunError, match=r"no server at ws://127\.0\.0\.1.*start one with `imsim serve`"):
        Target(f"ws://127.0.0.1:{free_port}").check()
    with pytest.raises(OSError, match="refused"):
        Target(f"ws://127.0.0.1:{free_port}").token("ann", "imsim", timeout=5)


def test_check_of_a_foreign_server_raises_run_error():
    """A server that is silent, or does not speak HTTP, gives one line and no endless wait."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Target(f"ws://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(RunError, match=r"no answer within 0\.2 s"):
            target.check(timeout=0.2)

        def babble() -> None:
            for _ in range(2):  # the first connection is that of the check that timed out
                connection, _ = listener.accept()
                connection.sendall(b"220 smtp ready\r\n")
                connection.close()

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(RunError, match="no server at"):
            target.check(timeout=5)
        thread.join()
