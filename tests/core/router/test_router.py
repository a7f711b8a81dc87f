"""A router: each frame reaches its part, and frames to users reach the router of each user."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, change, send, session

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Code
from imsim.core.placement import Placement
from imsim.core.policies import Policies
from imsim.core.router.router import Router
from imsim.core.storage.memory import MemoryStorage
from imsim.testing import RecordingPort

NAMES = ("router0", "router1")


class Port(RecordingPort):
    """A port with which a frame takes the router no time."""

    def charge(self, frame: internal_frames.ToRouter, kept: object, now: float) -> float:
        return now


class Routers:
    """Two routers on one storage that answers at once; frames between them arrive at once."""

    def __init__(self) -> None:
        self.port = Port()
        self.storage = MemoryStorage()
        placement = Placement(NAMES, lambda name, nodes: name in ("bob", TEAM))  # router0 owns all others
        self.routers = {name: Router(self.port, Policies(), name, placement, epoch=1_000.0) for name in NAMES}
        self.to_gateways: list[tuple[str, object]] = []
        self.between: list[tuple[str, internal_frames.ToRouter]] = []

    def receive(self, router: str, frame: internal_frames.ToRouter, now: float = 0.0) -> None:
        self.routers[router].receive(frame, now)
        self.run(router, now)

    def run(self, at: str, now: float = 0.0) -> None:
        for method, arguments in self.port.take():
            if method == "store":
                _, request = arguments
                self.routers[at].stored(request, self.storage.execute(request), now)
                self.run(at, now)
            elif method == "keep":
                self.between.append((at, arguments[0]))
            elif method == "to_router":
                self.between.append(arguments)
                self.receive(*arguments)
            elif method == "to_gateway":
                self.to_gateways.append(arguments)

    def log_in(self, user: str, router: str) -> None:
        self.receive(router, internal_frames.Attach(user, "d0", "gateway0", 1))


@pytest.fixture
def routers() -> Routers:
    both = Routers()
    both.log_in("alice", "router0")
    both.log_in("bob", "router1")
    both.to_gateways.clear()
    return both


def test_message_reaches_each_user_through_the_users_router(routers):
    routers.receive("router0", internal_frames.Up(session(), send("1"), AB))
    delivered = [(router, list(frame.users)) for router, frame in routers.between]
    assert delivered == [("router0", ["alice"]), ("router1", ["bob"])]
    pushed = [frame.sessions[0].user for _, frame in routers.to_gateways if type(frame.frame) is frames.Push]
    assert "bob" in pushed


def test_frame_is_not_split_if_one_router_owns_all_its_users(routers):
    routers.receive("router1", internal_frames.Up(session("bob"), change("1", "create", by="bob"), TEAM))
    (router, frame), *_ = routers.between
    assert (router, tuple(frame.users)) == ("router1", ("bob",))


def test_frames_reach_chatrooms_and_users(routers):
    routers.receive("router0", internal_frames.Up(session(), frames.Enter("lounge"), "chatroom:lounge"))
    routers.log_in("carol", "router0")
    (_, entered), (_, attached) = routers.to_gateways
    assert (type(entered.frame), attached.session.user) == (frames.Entered, "carol")
    routers.receive("router0", internal_frames.Up(attached.session, frames.EndSession("d1"), ""))
    assert type(routers.to_gateways[-1][1].frame) is frames.Done


def test_revocation_kicks_the_sessions_of_the_user(routers):
    routers.receive("router1", internal_frames.Revoke("bob", 2_000.0))
    ((gateway, frame),) = routers.to_gateways
    assert (gateway, type(frame), frame.session.user) == ("gateway0", internal_frames.Kick, "bob")


def test_next_deadline_is_the_earliest_of_all_parts():
    port = Port()
    router = Router(port, Policies(storage_timeout=10.0))
    assert router.next_deadline() is None
    router.receive(internal_frames.Attach("alice", "d0", "gateway0", 1), 3.0)
    assert router.next_deadline() == 13.0  # the user's opening
    router.open(AB, 1.0)
    assert router.next_deadline() == 11.0  # the conversation's
    router.handle_timer(13.0)
    refusals = [arguments[1] for method, arguments in port.take() if method == "to_gateway"]
    assert [type(frame) for frame in refusals] == [internal_frames.Attached]


def test_lost_gateway_ends_its_sessions_and_removes_them_from_rooms(routers):
    routers.receive("router0", internal_frames.Up(session(), frames.Enter("lounge"), "chatroom:lounge"))
    routers.routers["router0"].gateway_lost("gateway0", 1.0)
    routers.routers["router0"].gateway_lost("g0", 1.0)
    routers.to_gateways.clear()
    routers.receive("router0", internal_frames.Up(session("carol"), frames.Enter("lounge"), "chatroom:lounge"), 2.0)
    ((_, frame),) = routers.to_gateways
    assert frame.frame.users == 1


def test_devices_sync_twice_after_a_router_is_back(routers):
    routers.routers["router0"].router_back(1.0)
    routers.run("router0")
    assert [type(frame.frame) for _, frame in routers.to_gateways] == [frames.Resync]
    routers.to_gateways.clear()
    routers.routers["router0"].handle_timer(1.0 + Policies().storage_timeout)
    routers.run("router0")
    assert [type(frame.frame) for _, frame in routers.to_gateways] == [frames.Resync]


def test_devices_sync_after_a_restart_when_the_earlier_requests_are_done(routers):
    routers.routers["router1"].restarted(1.0)
    assert routers.port.take() == []
    routers.routers["router1"].handle_timer(1.0 + Policies().storage_timeout)
    routers.run("router1")
    assert [type(frame.frame) for _, frame in routers.to_gateways] == [frames.Resync]


def test_answer_of_storage_reaches_the_part_that_sent_the_request(routers):
    asked = Port()
    router = Router(asked, Policies())
    router.open(AB, 0.0)
    router.receive(internal_frames.Attach("alice", "d0", "gateway0", 1), 0.0)
    requests = [arguments[1] for method, arguments in asked.take() if method == "store"]
    assert [type(request) for request in requests] == [storage.OpenConversation, storage.OpenUser]
    for request in requests:
        router.stored(request, routers.storage.execute(request), 0.0)
    assert router.next_deadline() is None


# --- frames of a router to itself -------------------------------------------------------------------------------------


class Busy(RecordingPort):
    """A port with which each frame keeps the router busy for a second. Frames with an op in `full` are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.full: set[str] = set()
        self.charged: list[tuple[str, object, float]] = []

    def keep(self, frame: internal_frames.ToRouter) -> str:
        return f"kept {frame.op}"

    def charge(self, frame: internal_frames.ToRouter, kept: object, now: float) -> float | None:
        self.charged.append((frame.op, kept, now))
        return None if frame.op in self.full else now + 1.0


class Alone:
    """A router with this port and two storages. The first storage owns the names before "n"."""

    def __init__(self, port: RecordingPort) -> None:
        self.port = port
        storages = Placement(("storage0", "storage1"), lambda name, _: name.rpartition(":")[2] >= "n")
        self.machine = Router(port, Policies(longest_wait=60.0), storages=storages)

    def asked(self) -> list[tuple[str, storage.Request]]:
        return [arguments for method, arguments in self.port.take() if method == "store"]

    def attach(self, user: str, now: float = 0.0) -> storage.Request:
        self.machine.receive(internal_frames.Attach(user, "d0", "gateway0", 1), now)
        ((_, request),) = self.asked()
        return request

    def attached(self) -> list[Code | None]:
        """Return the codes with which logins were answered since the last call."""
        sent = [arguments[1] for method, arguments in self.port.take() if method == "to_gateway"]
        return [frame.code for frame in sent if isinstance(frame, internal_frames.Attached)]


def opened(user: str) -> storage.UserState:
    return storage.UserState(1, [])


def test_frame_to_itself_is_charged_when_the_frame_before_it_is_done():
    port = Busy()
    router = Alone(port).machine
    router.open(AB, 0.0, ("alice", "bob"))
    (request,) = (arguments[1] for method, arguments in port.take() if method == "store")
    router.stored(request, storage.LogState(1, 0, ("alice", "bob")), 1.0)
    router.receive(internal_frames.Up(session(), send("1"), AB), 2.0)
    (append,) = (arguments[1] for method, arguments in port.take() if method == "store")
    router.receive(internal_frames.Up(session("bob"), send("2", to="alice"), AB), 3.0)
    (second,) = (arguments[1] for method, arguments in port.take() if method == "store")
    router.stored(second, storage.Appended(), 5.0)  # released after the one before it
    port.charged.clear()
    router.stored(append, storage.Appended(), 6.0)
    assert port.charged == [("deliver", "kept deliver", 6.0), ("deliver", "kept deliver", 7.0)]


def test_frame_that_finds_the_queue_full_is_dropped():
    port = Busy()
    alone = Alone(port)
    port.full.add("attach")
    alone.machine.receive(internal_frames.Attach("alice", "d0", "gateway0", 1), 0.0)
    assert alone.asked() == []
    port.full.clear()
    assert isinstance(alone.attach("alice", 1.0), storage.OpenUser)


# --- storages ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def alone() -> Alone:
    return Alone(Port())


def test_request_goes_to_the_storage_that_owns_its_conversation_or_user(alone):
    alone.machine.receive(internal_frames.Attach("alice", "d0", "gateway0", 1), 0.0)
    alone.machine.receive(internal_frames.Attach("zoe", "d0", "gateway0", 2), 0.0)
    alone.machine.open("p2p:alice:zoe", 0.0)
    assert [(name, type(request)) for name, request in alone.asked()] == [
        ("storage0", storage.OpenUser), ("storage1", storage.OpenUser), ("storage1", storage.OpenConversation),
    ]  # fmt: skip


def test_unanswered_requests_of_a_lost_storage_fail_and_late_answers_are_ignored(alone):
    late, other = alone.attach("alice"), alone.attach("zoe")
    alone.machine.storage_lost("storage0", 1.0)
    assert alone.attached() == [Code.UNAVAILABLE]
    again = alone.attach("zoe2", 2.0)  # the other storage is still there
    alone.machine.stored(late, opened("alice"), 3.0)
    assert alone.attached() == []
    alone.machine.stored(other, opened("zoe"), 3.0)
    alone.machine.stored(again, opened("zoe2"), 3.0)
    assert alone.attached() == [None, None]


def test_new_requests_to_a_lost_storage_fail_until_it_is_back(alone):
    alone.machine.storage_lost("storage0", 1.0)
    alone.machine.receive(internal_frames.Attach("alice", "d0", "gateway0", 1), 2.0)
    assert (alone.asked(), alone.attached()) == ([], [])  # the failure comes after the call has returned
    assert alone.machine.next_deadline() == 2.0
    alone.machine.handle_timer(2.0)
    assert alone.attached() == [Code.UNAVAILABLE]
    alone.machine.storage_back("storage0")
    alone.machine.stored(alone.attach("alice", 3.0), opened("alice"), 4.0)
    assert alone.attached() == [None]


def test_answer_to_a_crashed_router_is_ignored_by_its_successor(alone):
    late = alone.attach("alice")
    successor = Alone(Port())
    successor.attach("alice")
    successor.machine.stored(late, opened("alice"), 1.0)
    assert successor.attached() == []


def test_an_answer_counts_once(alone):
    request = alone.attach("alice")
    alone.machine.stored(request, opened("alice"), 1.0)
    assert alone.attached() == [None]
    alone.machine.stored(request, storage.Failed("second answer"), 2.0)
    assert alone.port.take() == []
