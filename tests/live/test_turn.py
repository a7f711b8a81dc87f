"""Tests of the bounds of the work in one turn of the event loop: of the budget, of the admission, of the listener."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct

import pytest

from imsim.core import storage
from imsim.live import SqliteStore
from imsim.live.admission import Admission, has_hung_up
from imsim.live.listener import ACCEPTED_PER_TURN, OPENED_PER_TURN, Listener, resolve
from imsim.live.turn import QUIET_AFTER, Quiet, TurnBudget, TurnClock


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    """Without pauses, turns can be counted."""
    monkeypatch.setattr("imsim.live.admission.PAUSE", 0.0)
    monkeypatch.setattr("imsim.live.listener.PAUSE", 0.0)


async def test_budget_has_a_pause_between_turns():
    resumed = []
    budget = TurnBudget(1, lambda: resumed.append(1), pause=0.01)
    assert budget.take()
    await turns(5)
    assert resumed == []
    assert not budget.take()
    while not resumed:
        await asyncio.sleep(0.005)
    assert budget.take()


async def test_budget_is_full_again_in_the_next_turn():
    resumed = []
    budget = TurnBudget(2, lambda: resumed.append(1))
    assert [budget.take() for _ in range(4)] == [True, True, False, False]
    await turns(1)
    assert resumed == [1]
    assert budget.take()
    await turns(3)
    assert resumed == [1, 1]  # once for each turn with work


async def test_budget_is_larger_while_the_loop_is_quiet():
    is_quiet = [True]
    budget = TurnBudget(2, lambda: None, is_quiet=lambda: is_quiet[0], size_if_quiet=5)
    counts = []
    for _ in range(2):
        budget.take()
        await turns(1)
        counts.append(sum(budget.take() for _ in range(100)))
        is_quiet[0] = False
        await turns(1)
    assert counts == [5, 2]


async def test_loop_is_quiet_after_a_second_without_work_that_must_not_wait(monkeypatch):
    now, count = [100.0], [0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    is_quiet = Quiet(lambda: count[0])
    assert is_quiet()
    count[0] = 1
    assert not is_quiet()
    now[0] += 0.9 * QUIET_AFTER
    assert not is_quiet()
    now[0] += 0.2 * QUIET_AFTER
    assert is_quiet()


async def test_clock_measures_from_the_first_call_in_a_turn():
    now = [5.0]
    clock = TurnClock(lambda: now[0])
    assert clock.elapsed() == 0.0
    now[0] = 5.5
    assert clock.elapsed() == 0.5
    await turns(1)
    assert clock.elapsed() == 0.0


class Newcomer:
    """A connection that records when it is served."""

    def __init__(self, served: list, name: str, more: int = 0, admission: Admission | None = None) -> None:
        self._served = served
        self._name = name
        self._more = more
        self._admission = admission

    def serve(self, *, waited: bool) -> None:
        self._served.append((self._name, waited))
        if self._more:
            self._more -= 1
            self._admission.submit(self, is_open=True)


async def test_admission_serves_a_few_at_once_and_then_the_latest_first():
    served: list = []
    admission = Admission(per_turn=2)
    for name in "abcdef":
        admission.submit(Newcomer(served, name), is_open=False)
    assert served == [("a", False), ("b", False)]
    await turns(1)
    assert served[2:] == [("f", True), ("e", True)]
    admission.submit(Newcomer(served, "late"), is_open=False)
    assert len(served) == 4  # a newcomer does not overtake those that wait in this turn
    await turns(1)
    assert served[4:] == [("late", True), ("d", True)]
    await turns(1)
    assert served[6:] == [("c", True)]


async def test_admission_serves_logins_before_handshakes_but_one_request_in_each_turn():
    served: list = []
    admission = Admission(per_turn=3)
    for _ in range(3):
        admission.submit(Newcomer(served, "now"), is_open=False)
    for number in range(4):
        admission.submit(Newcomer(served, f"login {number}"), is_open=True)
        admission.submit(Newcomer(served, f"request {number}"), is_open=False)
    del served[:]
    await turns(1)
    assert [name for name, _ in served] == ["request 3", "login 3", "login 2"]


async def test_withdrawn_newcomer_is_not_served():
    served: list = []
    admission = Admission(per_turn=1)
    admission.submit(Newcomer(served, "first"), is_open=False)
    gone = Newcomer(served, "gone")
    admission.submit(gone, is_open=True)
    assert admission.withdraw(gone)
    assert not admission.withdraw(gone)
    await turns(2)
    assert served == [("first", False)]


async def test_newcomer_with_more_to_do_takes_one_place_in_each_turn():
    served: list = []
    admission = Admission(per_turn=4)
    admission.submit(Newcomer(served, "busy", 100, admission), is_open=True)
    assert len(served) == 4
    await turns(1)
    assert len(served) == 8


class Accepted(asyncio.Protocol):
    """A protocol that records each connection, and when it was opened."""

    opened: list[asyncio.BaseTransport]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.opened.append(transport)


@pytest.fixture
def opened():
    return []


def factory(opened: list):
    def make() -> Accepted:
        protocol = Accepted()
        protocol.opened = opened
        return protocol

    return make


async def listening(opened: list, **arguments) -> Listener:
    listener = Listener(factory(opened), timeout=5.0, **arguments)
    listener.bind(await resolve("127.0.0.1", 0))
    return listener


def connect(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


def end(listener: Listener, opened: list, sockets: list) -> None:
    listener.close()
    for transport in opened:
        transport.abort()
    for one in sockets:
        one.close()


async def test_listener_accepts_and_opens_a_limited_count_in_one_turn(opened):
    listener = await listening(opened)
    sockets = connect(listener.port, 3 * ACCEPTED_PER_TURN)
    await listener.accept()
    counts, waiting = [], []
    while len(opened) < len(sockets):
        before = len(opened)
        await turns(1)
        counts.append(len(opened) - before)
        waiting.append(len(listener._accepted))
    assert max(counts) <= OPENED_PER_TURN
    assert max(waiting) > OPENED_PER_TURN
    peers = [transport.get_extra_info("peername") for transport in opened]
    of_first_turn = {one.getsockname() for one in sockets[:ACCEPTED_PER_TURN]}
    latest = [one.getsockname() for one in sockets[ACCEPTED_PER_TURN - OPENED_PER_TURN : ACCEPTED_PER_TURN]]
    assert peers[:OPENED_PER_TURN] == latest[::-1]
    assert of_first_turn <= set(peers)
    end(listener, opened, sockets)
    await turns(2)


async def test_listener_closes_sockets_of_clients_that_gave_up_while_they_waited(opened):
    is_behind = True
    listener = await listening(opened, is_behind=lambda: is_behind)
    sockets = connect(listener.port, 40)
    await listener.accept()
    while len(listener._accepted) < 40:
        await turns(1)
    for one in sockets[:30]:
        one.close()
    is_behind = False
    while listener._accepted:
        await turns(1)
    await turns(3)
    assert len(opened) == 10
    end(listener, opened, sockets)
    await turns(2)


async def test_listener_closes_sockets_that_have_waited_for_the_timeout(opened):
    listener = Listener(factory(opened), timeout=0.0, is_behind=lambda: True)
    listener.bind(await resolve("127.0.0.1", 0))
    (client,) = connect(listener.port, 1)
    await listener.accept()
    client.setblocking(False)
    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    end(listener, opened, [client])


class Full:
    """A listening socket that fails, as if the process had no file descriptor left."""

    def __init__(self, inner: socket.socket, failures: int) -> None:
        self.inner = inner
        self.failures = failures

    def accept(self):
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.inner.accept()


async def test_listener_makes_room_when_the_process_has_no_file_descriptor_left(opened, caplog):
    asked, failed = [], []
    listener = await listening(opened, make_room=lambda: asked.append(1) is None, failed=failed.append)
    (inner,) = listener._sockets
    full = Full(inner, 100)
    sockets = connect(listener.port, 3)
    asyncio.get_running_loop().add_reader(inner, listener._accept, full)
    while len(opened) < 3:
        await turns(1)
    assert len(asked) == 100
    assert failed == ["accept"] * 100
    assert not caplog.records  # the monitor reports the problem as a whole
    end(listener, opened, sockets)
    await turns(2)


async def test_listener_closes_the_oldest_accepted_sockets_for_room(opened):
    listener = await listening(opened, is_behind=lambda: True)
    sockets = connect(listener.port, 20)
    await listener.accept()
    while len(listener._accepted) < 20:
        await turns(1)
    listener._accept(Full(listener._sockets[0], 1))
    remaining = [accepted.getpeername() for accepted, _ in listener._accepted]
    assert remaining == [one.getsockname() for one in sockets[16:]]
    end(listener, opened, sockets)


async def test_listener_pauses_if_there_is_no_room(opened, monkeypatch):
    monkeypatch.setattr("imsim.live.listener._RETRY_AFTER", 0.01)
    listener = await listening(opened)
    (inner,) = listener._sockets
    full = Full(inner, 1)
    sockets = connect(listener.port, 1)
    asyncio.get_running_loop().add_reader(inner, listener._accept, full)
    while not opened:
        await asyncio.sleep(0.005)
    assert full.failures == 0
    end(listener, opened, sockets)
    await turns(2)


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
async def test_hang_up_is_seen_behind_unread_data(how):
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with accepted, client:
            client.sendall(b"unread")
            assert not has_hung_up(accepted.fileno())
            if how == "half-close":
                client.shutdown(socket.SHUT_WR)
            else:
                if how == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            assert has_hung_up(accepted.fileno())


async def test_store_delivers_a_large_commit_in_several_turns():
    delivered = []
    store = SqliteStore(":memory:")
    store.start(delivered.append)
    requests = [storage.OpenUser(f"u{number}") for number in range(200)]
    for request in requests:
        store.submit(request)
    await store.flush()
    assert [request for answers in delivered for request, _ in answers] == requests
    assert max(map(len, delivered)) <= 32
    store.close()
