from __future__ import annotations

import socket
import threading

import pytest

from imsim.core.exceptions import RunError, UsageError
from imsim.load.target import Target


@pytest.mark.parametrize(
    "url", ["", "http://host:1", "ws://", "host:80", "ws://host:99999", "ws://u:p@host", "ws://host/?a=1", "ws://[::1"]
)
def test_other_urls_are_refused(url):
    with pytest.raises(UsageError, match="url: "):
        Target(url)


def test_a_url_names_host_port_and_path():
    target = Target("wss://im.example/edge/")
    assert (target.host, target.port, target.secure) == ("im.example", 443, True)
    assert Target("ws://[::1]:8080").host == "::1"


def test_a_server_is_there_and_hands_out_tokens(url):
    target = Target(url)
    target.check()
    assert target.token("ann", "imsim", timeout=5).count(".") == 2


def test_a_wrong_key_is_refused_for_good(url):
    with pytest.raises(RunError, match="refused the key: wrong key"):
        Target(url).token("ann", "schlüssel", timeout=5)


def test_a_user_who_cannot_be_is_refused_for_good(url):
    with pytest.raises(RunError, match="/token answers 400"):
        Target(url).token("ann lee", "imsim", timeout=5)


def test_nobody_listens(free_port):
    with pytest.raises(RunError, match=r"no server at ws://127\.0\.0\.1.*start one with `imsim serve`"):
        Target(f"ws://127.0.0.1:{free_port}").check()
    with pytest.raises(OSError, match="refused"):
        Target(f"ws://127.0.0.1:{free_port}").token("ann", "imsim", timeout=5)


def test_somebody_else_listens():
    """Not HTTP, or silent: one line in either case, and no endless wait."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Target(f"ws://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(RunError, match=r"no answer within 0\.2 s"):
            target.check(timeout=0.2)

        def babble() -> None:
            for _ in range(2):  # the first one is that of the check that gave up
                connection, _ = listener.accept()
                connection.sendall(b"220 smtp ready\r\n")
                connection.close()

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(RunError, match="no server at"):
            target.check(timeout=5)
        thread.join()
