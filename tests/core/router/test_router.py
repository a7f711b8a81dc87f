"""A router: each frame reaches its part, and what a part sends to users leaves addressed to the router of each."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, change, send, session

from imsim.core import frames, internal_frames, storage
from imsim.core.placement import Placement
from imsim.core.policies import Policies
from imsim.core.router.router import Router
from imsim.core.storage.memory import MemoryStorage
from imsim.testing import RecordingPort

NAMES = ("router0", "router1")


class Routers:
    """Two routers on one storage that answers at once; frames between them, and to themselves, arrive at once."""

    def __init__(self) -> None:
        self.port = RecordingPort()
        self.storage = MemoryStorage()
        placement = Placement(NAMES, lambda name, nodes: name in ("bob", TEAM))  # the others: router0
        self.routers = {name: Router(self.port, Policies(), placement, epoch=1_000.0) for name in NAMES}
        self.to_gateways: list[tuple[str, object]] = []
        self.between: list[tuple[str, internal_frames.ToRouter]] = []

    def receive(self, router: str, frame: internal_frames.ToRouter, now: float = 0.0) -> None:
        self.routers[router].receive(frame, now)
        self.run(router, now)

    def run(self, at: str, now: float = 0.0) -> None:
        for method, arguments in self.port.take():
            if method == "store":
                self.routers[at].stored(arguments[0], self.storage.execute(arguments[0]), now)
                self.run(at, now)
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


def test_a_message_reaches_users_through_the_router_of_each(routers):
    routers.receive("router0", internal_frames.Up(session(), send("1"), AB))
    delivered = [(router, list(frame.users)) for router, frame in routers.between]
    assert delivered == [("router0", ["alice"]), ("router1", ["bob"])]
    pushed = [frame.sessions[0].user for _, frame in routers.to_gateways if type(frame.frame) is frames.Push]
    assert "bob" in pushed


def test_a_frame_goes_whole_where_one_router_owns_all_its_users(routers):
    routers.receive("router1", internal_frames.Up(session("bob"), change("1", "create", by="bob"), TEAM))
    (router, frame), *_ = routers.between
    assert (router, tuple(frame.users)) == ("router1", ("bob",))


def test_chatrooms_and_users_get_their_frames(routers):
    routers.receive("router0", internal_frames.Up(session(), frames.Enter("lounge"), "chatroom:lounge"))
    routers.log_in("carol", "router0")
    (_, entered), (_, attached) = routers.to_gateways
    assert (type(entered.frame), attached.session.user) == (frames.Entered, "carol")
    routers.receive("router0", internal_frames.Up(attached.session, frames.EndSession("d1"), ""))
    assert type(routers.to_gateways[-1][1].frame) is frames.Done


def test_a_revocation_is_a_frame(routers):
    routers.receive("router1", internal_frames.Revoke("bob", 2_000.0))
    ((gateway, frame),) = routers.to_gateways
    assert (gateway, type(frame), frame.session.user) == ("gateway0", internal_frames.Kick, "bob")


def test_the_next_deadline_is_the_earliest_of_all_parts():
    port = RecordingPort()
    router = Router(port, Policies(storage_timeout=10.0))
    assert router.next_deadline() is None
    router.receive(internal_frames.Attach("alice", "d0", "gateway0", 1), 3.0)
    assert router.next_deadline() == 13.0  # the user's opening
    router.open(AB, 1.0)
    assert router.next_deadline() == 11.0  # the conversation's
    router.handle_timer(13.0)
    refusals = [arguments[1] for method, arguments in port.take() if method == "to_gateway"]
    assert [type(frame) for frame in refusals] == [internal_frames.Attached]


def test_a_lost_gateway_takes_its_sessions_and_guests_along(routers):
    routers.receive("router0", internal_frames.Up(session(), frames.Enter("lounge"), "chatroom:lounge"))
    routers.routers["router0"].gateway_lost("gateway0", 1.0)
    routers.routers["router0"].gateway_lost("g0", 1.0)
    routers.to_gateways.clear()
    routers.receive("router0", internal_frames.Up(session("carol"), frames.Enter("lounge"), "chatroom:lounge"), 2.0)
    ((_, frame),) = routers.to_gateways
    assert frame.frame.users == 1


def test_devices_look_into_storage_again_after_a_router_was_away(routers):
    routers.routers["router0"].router_back(1.0)
    routers.run("router0")
    assert [type(frame.frame) for _, frame in routers.to_gateways] == [frames.Resync]
    routers.to_gateways.clear()
    routers.routers["router0"].handle_timer(1.0 + Policies().storage_timeout)
    routers.run("router0")
    assert [type(frame.frame) for _, frame in routers.to_gateways] == [frames.Resync]


def test_devices_look_into_storage_once_its_requests_of_an_earlier_life_are_done(routers):
    routers.routers["router1"].restarted(1.0)
    assert routers.port.take() == []
    routers.routers["router1"].handle_timer(1.0 + Policies().storage_timeout)
    routers.run("router1")
    assert [type(frame.frame) for _, frame in routers.to_gateways] == [frames.Resync]


def test_answers_of_storage_reach_the_part_that_asked(routers):
    asked = RecordingPort()
    router = Router(asked, Policies())
    router.open(AB, 0.0)
    router.receive(internal_frames.Attach("alice", "d0", "gateway0", 1), 0.0)
    requests = [arguments[0] for method, arguments in asked.take() if method == "store"]
    assert [type(request) for request in requests] == [storage.OpenConversation, storage.OpenUser]
    for request in requests:
        router.stored(request, routers.storage.execute(request), 0.0)
    assert router.next_deadline() is None
