"""Tests of the requests for the state of a group, and for the list of friends."""

from __future__ import annotations

import pytest

from imsim.core import events, frames
from imsim.core.model import Code, Role

AB = "p2p:alice:bob"

#: Marks tests of users who are not friends at the start.
strangers = pytest.mark.design("push", "notify", "single")


def group(device, name="team", after=""):
    before = len(device.of(events.Group))
    device.group(name, after)
    (event,) = device.of(events.Group)[before:]
    return event.page


def friends(device, after=""):
    before = len(device.of(events.Friends))
    device.friends(after)
    (event,) = device.of(events.Friends)[before:]
    return event.page


def members(page):
    return [(member.user, member.role, member.muted) for member in page.members]


def make_team(world, *users, **settings):
    alice = world.device("alice").start()
    alice.change("#team", "create", "create", *users, **settings)
    return alice


# --- groups -----------------------------------------------------------------------------------------------------------


def test_group_has_its_title_owner_settings_and_members(world):
    alice = make_team(world, "dave", "bob", "carol", title="The team", join="approval", consent=False)
    alice.change("#team", "role", "1", "carol", role="admin")
    alice.change("#team", "mute", "2", "bob")
    page = group(world.device("bob").start())
    assert (page.conversation_id, page.seq, page.title, page.owner) == ("group:team", 3, "The team", "alice")
    assert page.settings == frames.GroupSettings("approval", False, False)
    assert members(page) == [
        ("alice", Role.OWNER, False),
        ("bob", Role.MEMBER, True),
        ("carol", Role.ADMIN, False),
        ("dave", Role.MEMBER, False),
    ]
    assert (page.count, page.next) == (4, "")


def test_group_shows_each_change(world):
    alice = make_team(world, "bob", "carol")
    changes = [
        ("configure", (), {"title": "new", "join": "open"}),
        ("mute", (), {}),
        ("mute", ("bob",), {}),
        ("kick", ("bob",), {}),
        ("invite", ("bob", "dave"), {}),
        ("transfer", ("carol",), {}),
        ("leave", (), {}),
    ]
    for number, (event, targets, data) in enumerate(changes):
        alice.change("#team", event, str(number), *targets, **data)
    page = group(world.device("carol").start())
    assert (page.seq, page.title, page.owner, page.count) == (8, "new", "carol", 3)
    assert page.settings == frames.GroupSettings("open", False, True)
    # bob stays muted after his return
    assert members(page) == [("bob", Role.MEMBER, True), ("carol", Role.OWNER, False), ("dave", Role.MEMBER, False)]


def test_members_of_a_group_come_in_pages_of_ascii_order(make_world):
    world = make_world(page=2)
    alice = make_team(world, "dave", "Bob", "carol", "_x", "bob")
    pages = [group(alice)]
    while pages[-1].next:
        pages.append(group(alice, after=pages[-1].next))
    assert [[member.user for member in page.members] for page in pages] == [
        ["Bob", "_x"],
        ["alice", "bob"],
        ["carol", "dave"],
    ]
    assert [page.after for page in pages] == ["", "_x", "bob"]
    assert {page.count for page in pages} == {6}
    assert group(alice, after="zoe").members == []


def test_only_members_get_the_state_of_a_group(world):
    alice = make_team(world, "bob", "carol")
    alice.change("#team", "kick", "1", "carol")
    codes = []
    for user in ("carol", "dave"):
        device = world.device(user).start()
        device.group("team")
        device.group("unknown")
        codes += [(event.request, event.code) for event in device.of(events.RequestFailed)]
        assert device.of(events.Group) == []
    assert codes == [("group", Code.NOT_MEMBER)] * 4
    alice.change("#team", "dismiss", "2")
    alice.group("team")
    assert [event.code for event in alice.of(events.RequestFailed)] == [Code.NOT_MEMBER]


def test_group_request_for_another_scene_is_rejected(world):
    alice = world.device("alice").start()
    alice.send("bob", "hello", "1")
    alice.act(lambda now: alice.machine._ask(frames.Group(AB), now))
    world.run_until_idle()
    (event,) = alice.of(events.RequestFailed)
    assert (event.ref, event.code) == (f"{AB}:", Code.BAD_REQUEST)
    assert event.text == "conversationId: expected group:<name>, got 'p2p:alice:bob'"


def test_listings_survive_a_restart_and_a_lost_answer(world):
    alice = make_team(world, "bob")
    before = group(alice), friends(alice)
    world.restart_server()
    world.advance(40)
    assert (group(alice).members, friends(alice).friends) == (before[0].members, before[1].friends)
    alice.lose_next("group_page")
    alice.group("team")
    alice.lose_next("friends_page")
    alice.friends()
    assert (len(alice.of(events.Group)), len(alice.of(events.Friends))) == (2, 2)
    world.advance(6)
    assert (len(alice.of(events.Group)), len(alice.of(events.Friends))) == (3, 3)


# --- friends ----------------------------------------------------------------------------------------------------------


@strangers
def test_friends_page_has_friends_and_open_requests(world):
    alice, bob, carol, dave = (world.device(user).start() for user in ("alice", "bob", "carol", "dave"))
    assert friends(alice) == frames.FriendsPage([], number=1)
    alice.change("bob", "friend_request", "1")
    carol.change("alice", "friend_request", "2")
    alice.change("dave", "friend_request", "3")
    dave.change("alice", "friend_accept", "4")
    alice.set_conversation("p2p:alice:dave", blocked=True)
    alice.send("alice", "note", "5")
    page = friends(alice)
    assert page.friends == [frames.Friend("dave", blocked=True)]
    assert [(one.user, one.by) for one in page.requests] == [("bob", "alice"), ("carol", "carol")]
    (asked,) = [event.message for event in bob.of(events.Shown) if event.message.type == "friend_request"]
    assert (page.requests[0].id, page.requests[0].expires) == (asked.id_client, asked.file["expires"])
    assert friends(dave).friends == [frames.Friend("alice")]  # the block is not shown to the friend
    bob.change("alice", "friend_reject", "6")
    alice.change("carol", "friend_accept", "7")
    dave.change("alice", "friend_delete", "8")
    page = friends(alice)
    assert ([one.user for one in page.friends], page.requests) == (["carol"], [])


@strangers
def test_friends_come_in_pages(make_world):
    world = make_world(page=2)
    alice = world.device("alice").start()
    for number, user in enumerate(("dave", "bob", "carol"), 1):
        alice.change(user, "friend_request", str(number))
    world.device("carol").start().change("alice", "friend_accept", "4")
    first = friends(alice)
    assert ([one.user for one in first.friends], [one.user for one in first.requests]) == (["carol"], ["bob"])
    last = friends(alice, after=first.next)
    assert (last.after, last.friends, [one.user for one in last.requests]) == ("carol", [], ["dave"])
    assert last.next == ""


# --- what a login reports ---------------------------------------------------------------------------------------------


def test_login_reports_the_limits_and_windows_of_the_server(make_world):
    alice = make_world(page=7, content_bytes=500, recall_window=9.0, send_timeout=4.0).device("alice").start()
    assert alice.machine.limits == frames.Limits(
        content_bytes=500, page=7, frame_bytes=alice.machine.limits.frame_bytes
    )
    assert alice.machine.limits.frame_bytes < frames.Limits().frame_bytes
    assert alice.machine.windows == frames.Windows(recall=9.0, answer=4.0)
