"""Tests of the adapter of imsim's own server: its url, its probe, its tokens, and the events of its sessions."""

from __future__ import annotations

import socket
import threading
from importlib.metadata import version

import pytest

from imsim.core import events
from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Scene
from imsim.core.policies import Policies
from imsim.core.sizes import largest_to_client
from imsim.load.adapters import (
    Closed,
    Connect,
    Connected,
    Conversation,
    Disconnect,
    Disconnected,
    Joined,
    Message,
    Offline,
    Request,
    Response,
    Target,
)
from imsim.load.adapters.imsim import ImsimAdapter
from imsim.load.exchange import exchange


def adapter(url="ws://host:1", key="imsim", **values) -> ImsimAdapter:
    return ImsimAdapter(Target(url, key, policies=Policies(**values)))


def token(url: str, user: str, key: str = "imsim"):
    """Return what a session does after the server has answered its request for a token."""
    session = adapter(url, key).session(0, user, "d0")
    [request] = session.start(0.0)
    return session.received(exchange(request), 0.1)


@pytest.mark.parametrize(
    "url", ["", "http://host:1", "ws://", "host:80", "ws://host:99999", "ws://u:p@host", "ws://host/?a=1", "ws://[::1"]
)
def test_adapter_refuses_other_urls(url):
    with pytest.raises(UsageError, match="url: "):
        adapter(url)


def test_adapter_makes_the_url_of_requests_from_its_own():
    assert adapter("wss://im.example/edge/").probe().url == "https://im.example/edge/healthz"
    assert adapter("ws://[::1]:8080").probe().url == "http://[::1]:8080/healthz"


def test_adapter_accepts_the_largest_message_that_the_limits_allow():
    for size in (1_000, 100 << 20):
        policies = Policies(page_bytes=size)
        assert ImsimAdapter(Target("ws://x", policies=policies)).largest >= max(largest_to_client(policies), 64 << 20)


def test_adapter_probes_a_server(url):
    one = adapter(url)
    assert one.probed(exchange(one.probe())) == {"name": "imsim", "version": version("imsim"), "shed": 0}


def test_session_requests_a_token_and_connects(url):
    assert token(url, "ann") == [Connect(url, timeout=Policies().login_timeout)]


def test_wrong_key_closes_the_session(url):
    [_, closed] = token(url, "ann", "schlüssel")
    assert isinstance(closed, Closed)
    assert "refused the key: wrong key" in closed.reason


def test_invalid_user_name_closes_the_session(url):
    [_, closed] = token(url, "ann lee")
    assert "HTTP 400 in answer to GET /token" in closed.reason


def test_session_tries_again_if_the_server_does_not_answer(free_port):
    session = adapter(f"ws://127.0.0.1:{free_port}").session(0, "ann", "d0")
    [request] = session.start(0.0)
    outs = session.received(exchange(request), 0.1)
    assert [out for out in outs if isinstance(out, Offline)] == [Offline("Connection refused")]
    assert session.handle_timer(session.next_deadline()) == [request]


def test_answer_after_stop_is_ignored():
    session = adapter().session(0, "ann", "d0")
    [request] = session.start(0.0)
    assert session.stop(0.1) == [Disconnect()]
    assert session.received(Response(request.ref, 200, b'{"token": "t"}'), 0.2) == []


def test_closed_port_and_foreign_server_give_one_line(free_port):
    one = adapter(f"ws://127.0.0.1:{free_port}")
    with pytest.raises(RunError, match=r"no server at ws://127\.0\.0\.1.*start one with `imsim serve` .*refused"):
        one.probed(exchange(one.probe()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = adapter(f"ws://127.0.0.1:{listener.getsockname()[1]}")
        probe = Request("GET", one.probe().url, timeout=0.2)
        with pytest.raises(RunError, match=r"no answer within 0\.2 s"):
            one.probed(exchange(probe))

        def babble() -> None:
            for _ in range(2):  # the first connection is that of the probe that timed out
                connection, _ = listener.accept()
                connection.sendall(b"220 smtp ready\r\n")
                connection.close()

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(RunError, match="no server at"):
            one.probed(exchange(one.probe()))
        thread.join()


def test_invalid_frame_closes_the_session():
    session = adapter().session(0, "ann", "d0")
    [request] = session.start(0.0)
    session.received(Response(request.ref, 200, b'{"token": "t"}'), 0.1)
    [login] = session.received(Connected(), 0.2)
    assert b'"login"' in login
    [_, closed] = session.received(b"{", 0.3)
    assert "the server sent an invalid frame" in closed.reason


def test_lost_connection_is_reported_with_its_reason():
    session = adapter().session(0, "ann", "d0")
    session.start(0.0)
    session.received(Response("token", 200, b'{"token": "t"}'), 0.1)
    session.received(Connected(), 0.2)
    outs = session.received(Disconnected("reset"), 0.3)
    assert Offline("reset") in outs
    assert any(isinstance(out, events.Disconnected) for out in outs)
    session.send(Message("r:1", Conversation(Scene.P2P, "bob"), "hello"), 0.4)  # kept until the next login


def test_member_that_does_not_create_a_group_is_in_it_at_once():
    group = Conversation(Scene.GROUP, "g")
    session = adapter().session(0, "ann", "d0")
    assert session.join(group, ["ann", "bob"], False, 0.0) == [Joined(group)]
