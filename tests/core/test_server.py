"""A whole server in one process: no machine is ever re-entered, and each answer reaches its machine."""

from __future__ import annotations

import functools

import pytest
from core.builders import AB, change, send

from imsim.core import frames
from imsim.core.gateway.gateway import Gateway
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.router.chatrooms import Chatrooms
from imsim.core.router.conversations import Conversations
from imsim.core.router.router import Router
from imsim.core.router.users import Users
from imsim.core.server import Server as Machine
from imsim.core.storage.memory import MemoryStorage
from imsim.testing import RecordingPort

GATEWAY = (
    "connected", "disconnected", "receive", "receive_from_router", "authenticated", "refuse", "shut_down",
    "handle_timer",
)  # fmt: skip
ROUTER = ("receive", "stored", "gateway_lost", "handle_timer")
RECEIVE = ("receive",)
PARTS = (Conversations, Chatrooms, Users)


@pytest.fixture
def guarded(monkeypatch):
    """Fail if a machine is entered while a machine of its level runs. Return the machines that were entered."""
    entered = set()

    def guarded(method, machine, inside):
        @functools.wraps(method)
        def call(*arguments):
            assert not inside, f"{method.__qualname__} within {inside[-1]}"
            inside.append(method.__qualname__)
            entered.add(machine)
            try:
                return method(*arguments)
            finally:
                inside.pop()

        return call

    roles, parts = [], []
    entrances = {Gateway: (GATEWAY, roles), Router: (ROUTER, roles), **dict.fromkeys(PARTS, (RECEIVE, parts))}
    for machine, (names, inside) in entrances.items():
        for name in names:
            monkeypatch.setattr(machine, name, guarded(getattr(machine, name), machine, inside))
    for machine in (Conversations, Users):
        answered = {kind: guarded(call, machine, parts) for kind, call in machine.answered.items()}
        monkeypatch.setattr(machine, "answered", answered)
    return entered


class Server:
    """A server whose storage answers in `run`."""

    def __init__(self, **policies):
        self.port = RecordingPort()
        self.machine = Machine(self.port, Policies(**policies), epoch=1_000.0)
        self.storage = MemoryStorage()
        self.sent = []
        self.closed = []

    def run(self):
        """Answer all requests, the oldest first, until there are no more."""
        while calls := self.port.take():
            for method, arguments in calls:
                if method == "store":
                    self.machine.stored(arguments[0], self.storage.execute(arguments[0]), 0.0)
                elif method == "authenticate":
                    self.machine.authenticated(arguments[0], arguments[1], None, 0.0)
                elif method == "send":
                    self.sent.append(arguments)
                elif method == "close":
                    self.closed.append(arguments[0])

    def login(self, connection, user, device="d0"):
        self.machine.connected(connection, 0.0)
        self.receive(connection, frames.Login(user, device))

    def receive(self, connection, frame):
        self.machine.receive(connection, frame, 0.0)
        self.run()

    def ops(self, connection):
        found = [frame.op for to, frame in self.sent if to == connection]
        self.sent = [one for one in self.sent if one[0] != connection]
        return found


def test_no_machine_is_ever_re_entered(guarded):
    server = Server()
    server.login(1, "alice")
    server.login(2, "bob")
    server.receive(1, frames.Sync({}))
    server.receive(1, change("1", "create", "bob"))
    server.receive(1, frames.Enter("lounge"))
    server.receive(1, frames.Send("1", "chatroom", "lounge", "hello"))
    server.receive(1, send("1"))
    server.receive(2, frames.Read(AB, 1))
    server.receive(2, frames.SetConversation(AB, pinned=True))
    server.receive(2, frames.ReadCount(AB, 1))
    server.login(3, "alice")  # replaces the session of connection 1
    server.machine.handle_timer(5.0)
    server.machine.refuse(2, Code.BAD_FRAME, "not JSON", 5.0)
    server.machine.disconnected(2, 5.0)
    server.machine.shut_down(6.0)
    server.run()
    assert guarded == {Gateway, Router, *PARTS}
    assert server.closed == [1, 2, 3]


def test_a_message_is_stored_and_pushed():
    server = Server()
    server.login(1, "alice")
    server.login(2, "bob")
    server.receive(1, send("1", "hello"))
    assert server.ops(1) == ["logged_in", "stored"]
    assert server.ops(2) == ["logged_in", "push"]


def test_a_read_mark_reaches_the_reader_and_the_peer():
    server = Server()
    server.login(1, "alice")
    server.login(2, "bob")
    server.receive(1, send("1"))
    server.sent.clear()
    server.receive(2, frames.Read(AB, 1))
    assert server.ops(1) == ["state"]
    assert server.ops(2) == ["state", "done"]


def test_a_new_login_of_a_device_ends_the_old_one():
    server = Server()
    server.login(1, "alice")
    server.login(2, "alice")
    assert server.ops(1) == ["logged_in", "refused"]
    assert server.ops(2) == ["logged_in"]
    assert server.closed == [1]


def test_the_next_deadline_is_the_earliest_of_all_machines():
    server = Server()
    assert server.machine.next_deadline() is None
    server.machine.connected(1, 0.0)
    assert server.machine.next_deadline() == 10.0  # the login's
    server.receive(1, frames.Login("alice", "d0"))
    assert server.machine.next_deadline() == 75.0  # the heartbeat's
    server.machine.receive(1, send("1"), 0.0)
    assert server.machine.next_deadline() == 10.0  # the storage's


def test_a_server_with_silent_storage_refuses_the_login():
    server = Server(login_timeout=20.0, storage_timeout=10.0)
    server.machine.connected(1, 0.0)
    server.machine.receive(1, frames.Login("alice", "d0"), 0.0)
    server.port.take()
    server.machine.authenticated(1, "alice", None, 0.0)
    server.port.take()
    server.machine.handle_timer(10.0)
    server.run()
    assert [frame.code for _, frame in server.sent] == [Code.UNAVAILABLE]
    assert server.closed == [1]
