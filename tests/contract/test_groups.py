"""Tests of groups: membership, rights, notices and system messages."""

from __future__ import annotations

import pytest

from imsim.core import events
from imsim.core.model import Code

TEAM = "group:team"


def notices(device):
    """Return (event, operator, targets) of each notice that the device has shown."""
    files = [event.message.file for event in device.of(events.Shown) if event.message.type == "notification"]
    return [(file["event"], file["operator"], file["targets"]) for file in files]


def system(device):
    """Return (type, sender) of each system message that the device has shown."""
    shown = [event.message for event in device.of(events.Shown) if event.message.scene == "system"]
    return [(message.type, message.sender) for message in shown]


def failures(device):
    return [event.code for event in device.of(events.SendFailed)]


def make_team(world, *users, **settings):
    """Create a group of alice and these users. Alice, bob, carol and dave are online; return their devices."""
    devices = {user: world.device(user).start() for user in ("alice", "bob", "carol", "dave")}
    devices["alice"].change("#team", "create", "create", *users, **settings)
    return tuple(devices.values())


def test_members_see_the_creation_of_the_group(world):
    alice, bob, carol, dave = make_team(world, "bob", "carol", title="The team")
    assert notices(bob) == notices(carol) == [("create", "alice", ["bob", "carol"])]
    assert notices(dave) == []
    assert alice.seqs == {"create": 1}
    assert bob.of(events.Shown)[0].message.file["data"] == {"title": "The team"}
    assert bob.lines[TEAM].last_msg.type == "notification"


def test_unread_count_excludes_notices(world):
    alice, bob, *_ = make_team(world, "bob")
    alice.change("#team", "configure", "2", title="new")
    assert bob.unread(TEAM) == 0
    alice.send("#team", "hello", "3")
    assert bob.unread(TEAM) == 1


def test_member_sees_messages_from_joining_to_leaving(world):
    alice, bob, carol, _ = make_team(world, "bob")
    alice.send("#team", "before", "1")
    alice.change("#team", "invite", "2", "carol")
    alice.send("#team", "while", "3")
    alice.change("#team", "kick", "4", "carol")
    alice.send("#team", "after", "5")
    assert carol.shown == ["while"]
    assert notices(carol) == [("invite", "alice", ["carol"]), ("kick", "alice", ["carol"])]
    assert bob.shown == ["before", "while", "after"]
    carol.send("#team", "let me in", "6")
    assert failures(carol) == [Code.NOT_MEMBER]
    late = world.device("carol", "d1").start()
    assert late.shown == ["while"]
    assert notices(late) == notices(carol)
    late.history(TEAM, 1, 100)
    assert [message.content for message in late.of(events.History)[0].messages] == ["", "while", ""]
    assert late.unread(TEAM) == carol.unread(TEAM) == 0  # a former member has no unread messages
    world.restart_server()
    world.advance(60)
    assert world.device("carol", "d2").start().shown == ["while"]


def test_returning_member_does_not_see_messages_sent_during_the_absence(world):
    alice, bob, *_ = make_team(world, "bob")
    bob.change("#team", "leave", "1")
    alice.send("#team", "without bob", "2")
    alice.change("#team", "invite", "3", "bob")
    alice.send("#team", "with bob", "4")
    assert bob.shown == ["with bob"]
    late = world.device("bob", "d1").start()
    assert late.shown == ["with bob"]
    assert notices(late) == [("create", "alice", ["bob"]), ("leave", "bob", []), ("invite", "alice", ["bob"])]


def test_kicked_user_has_no_unread_messages_of_the_group(world):
    alice, _, carol, _ = make_team(world, "bob", "carol")
    carol.stop()
    alice.send("#team", "one", "1")
    alice.change("#team", "kick", "2", "carol")
    alice.send("#team", "two", "3")
    carol.start()
    assert carol.shown == ["one"]
    assert carol.unread(TEAM) == 0
    assert system(carol) == [("group_kicked", "alice")]


@pytest.mark.parametrize(
    ("who", "event", "targets", "data", "code"),
    [
        ("bob", "kick", ["carol"], {}, Code.FORBIDDEN),
        ("alice", "kick", ["dave"], {}, Code.CONFLICT),
        ("alice", "configure", [], {"join": "sometimes"}, Code.BAD_REQUEST),
        ("alice", "create", ["bob"], {}, Code.CONFLICT),
        ("alice", "friend_request", [], {}, Code.BAD_REQUEST),
        ("dave", "kick", ["bob"], {}, Code.NOT_MEMBER),
        ("dave", "join", [], {}, Code.FORBIDDEN),
    ],
)
def test_forbidden_change_of_a_group_has_no_effect(world, who, event, targets, data, code):
    devices = dict(zip(("alice", "bob", "carol", "dave"), make_team(world, "bob", "carol"), strict=True))
    devices[who].change("#team", event, "9", *targets, **data)
    assert failures(devices[who]) == [code]
    devices["alice"].send("#team", "still here", "10")
    assert devices["alice"].seqs["10"] == 2
    assert devices["bob"].shown == devices["carol"].shown == ["still here"]
    assert devices["dave"].shown == []


def test_admins_have_rights_that_members_lack(world):
    alice, bob, carol, dave = make_team(world, "bob", "carol")
    alice.change("#team", "role", "1", "bob", role="admin")
    bob.change("#team", "invite", "2", "dave")
    bob.change("#team", "kick", "3", "carol")
    bob.change("#team", "configure", "4", title="bob's")
    assert failures(bob) == []
    assert notices(dave)[-1][0] == "configure"
    bob.change("#team", "kick", "5", "alice")
    bob.change("#team", "dismiss", "6")
    assert failures(bob) == [Code.FORBIDDEN] * 2
    alice.change("#team", "role", "7", "bob", role="member")
    bob.change("#team", "kick", "8", "dave")
    assert failures(bob)[2:] == [Code.FORBIDDEN]
    assert carol.shown == []


def test_owner_may_transfer_the_group_and_leave(world):
    alice, bob, carol, _ = make_team(world, "bob", "carol")
    alice.change("#team", "transfer", "1", "bob")
    alice.change("#team", "leave", "2")
    assert failures(alice) == []
    bob.change("#team", "dismiss", "3")
    assert failures(bob) == []
    assert system(carol) == [("group_dismissed", "bob")]
    carol.send("#team", "hello?", "4")
    assert failures(carol) == [Code.NOT_MEMBER]
    assert notices(carol)[-1] == ("dismiss", "bob", [])


def test_muted_users_cannot_send_until_they_are_unmuted(world):
    alice, bob, carol, _ = make_team(world, "bob", "carol")
    alice.change("#team", "mute", "1", "bob")
    bob.send("#team", "mmm", "2")
    carol.send("#team", "fine", "3")
    alice.change("#team", "mute", "4")
    carol.send("#team", "mmm", "5")
    alice.send("#team", "silence", "6")
    alice.change("#team", "unmute", "7")
    alice.change("#team", "unmute", "8", "bob")
    bob.send("#team", "thanks", "9")
    assert failures(bob) == failures(carol) == [Code.MUTED]
    assert alice.shown == ["fine", "thanks"]
    assert carol.shown == ["silence", "thanks"]


def test_muted_user_is_still_muted_after_rejoining(world):
    alice, bob, carol, _ = make_team(world, "bob", "carol", join="open")
    alice.change("#team", "mute", "1", "bob", "carol")
    bob.change("#team", "leave", "2")
    alice.change("#team", "kick", "3", "carol")
    bob.change("#team", "join", "4")
    bob.send("#team", "mmm", "5")
    alice.change("#team", "unmute", "6", "bob", "carol")
    carol.change("#team", "join", "7")
    bob.send("#team", "bob", "8")
    carol.send("#team", "carol", "9")
    assert failures(bob) == [Code.MUTED]
    assert alice.shown == ["bob", "carol"]
    alice.change("#team", "mute", "10", "bob")
    alice.change("#team", "dismiss", "11")
    carol.change("#team", "create", "12", "bob")
    bob.send("#team", "another group", "13")
    assert carol.shown[-1] == "another group"


def test_invited_applicant_becomes_a_member_and_invited_user_cannot_apply(world):
    alice, bob, carol, dave = make_team(world, "bob", join="approval")
    alice.change("#team", "configure", "1", consent=True)
    dave.change("#team", "apply", "2")
    bob.change("#team", "invite", "3", "carol", "dave")
    dave.send("#team", "here", "4")
    assert alice.shown == bob.shown == ["here"]
    assert [event.state for event in alice.of(events.Resolved)] == ["passed"]
    carol.change("#team", "apply", "5")
    assert failures(carol) == [Code.CONFLICT]
    assert carol.of(events.Resolved) == []
    carol.change("#team", "accept", "6")
    carol.send("#team", "here too", "7")
    assert bob.shown == ["here", "here too"]


def test_any_user_may_join_an_open_group(world):
    alice, bob, _, dave = make_team(world, "bob", join="open")
    alice.send("#team", "before", "1")
    dave.change("#team", "join", "2")
    bob.send("#team", "welcome", "3")
    assert dave.shown == ["welcome"]
    assert ("join", "dave", []) in notices(alice)
    late = world.device("dave", "d1").start()
    assert late.shown == ["welcome"]
    assert notices(late) == [("join", "dave", [])]


def test_application_accepted_by_one_admin_is_resolved_for_all(world):
    alice, bob, _, dave = make_team(world, "bob", join="approval")
    alice.change("#team", "role", "1", "bob", role="admin")
    dave.change("#team", "apply", "2")
    assert system(alice) == system(bob) == [("group_apply", "dave")]
    (applied,) = (event.message for event in alice.of(events.Shown) if event.message.scene == "system")
    assert applied.file["conversationId"] == TEAM
    assert applied.file["state"] == "init"
    bob.change("#team", "accept", "3", "dave")
    alice.change("#team", "accept", "4", "dave")
    assert failures(alice) == [Code.CONFLICT]
    for device in (alice, bob):
        assert device.of(events.Resolved) == [events.Resolved(applied.id_client, "passed")]
    assert system(dave) == [("group_accepted", "bob")]
    alice.send("#team", "welcome", "5")
    assert dave.shown == ["welcome"]
    assert notices(dave) == [("accept", "bob", ["dave"])]


def test_rejected_applicant_is_not_a_member_and_may_apply_again(world):
    alice, _, _, dave = make_team(world, join="approval")
    dave.change("#team", "apply", "1")
    alice.change("#team", "reject", "2", "dave")
    assert system(dave) == [("group_rejected", "alice")]
    dave.change("#team", "apply", "3")
    dave.change("#team", "apply", "4")
    assert [event.state for event in alice.of(events.Resolved)] == ["rejected", "expired"]
    alice.change("#team", "accept", "5", "dave")
    assert [event.state for event in alice.of(events.Resolved)] == ["rejected", "expired", "passed"]
    alice.send("#team", "welcome", "6")
    assert dave.shown == ["welcome"]


def test_consent_requires_that_the_user_accepts_an_invitation(world):
    alice, _, carol, dave = make_team(world, "bob", consent=True)
    alice.change("#team", "invite", "1", "carol", "dave")
    alice.send("#team", "not yet", "2")
    assert system(carol) == system(dave) == [("group_invite", "alice")]
    carol.change("#team", "accept", "3")
    dave.change("#team", "reject", "4")
    alice.send("#team", "welcome", "5")
    assert (carol.shown, dave.shown) == (["welcome"], [])
    assert system(alice) == [("group_accepted", "carol"), ("group_rejected", "dave")]
    assert [event.state for event in (*carol.of(events.Resolved), *dave.of(events.Resolved))] == ["passed", "rejected"]
    dave.change("#team", "accept", "6")
    assert failures(dave) == [Code.CONFLICT]


def test_expired_application_cannot_be_accepted(make_world):
    world = make_world(request_lifetime=100.0)
    alice, _, _, dave = make_team(world, join="approval")
    dave.change("#team", "apply", "1")
    world.advance(101)
    alice.change("#team", "accept", "2", "dave")
    assert failures(alice) == [Code.EXPIRED]
    dave.change("#team", "apply", "3")
    alice.change("#team", "accept", "4", "dave")
    assert failures(alice) == [Code.EXPIRED]
    assert [event.state for event in alice.of(events.Resolved)] == ["expired", "passed"]


def test_change_is_made_once_if_its_ack_is_lost(world):
    alice, bob, carol, _ = make_team(world, "bob")
    alice.lose_next("stored", 2)
    alice.change("#team", "invite", "1", "carol")
    world.advance(20)
    bob.change("#team", "leave", "2")
    assert failures(alice) == []
    assert [event for event, *_ in notices(carol)] == ["invite", "leave"]
    bob.lose_next("stored")
    alice.change("#team", "invite", "3", "bob")
    bob.lose_next("stored")
    bob.change("#team", "leave", "4")
    world.advance(20)
    assert failures(bob) == []
    assert bob.seqs["4"] == 5


def test_group_size_is_limited(make_world):
    world = make_world(group_size=2)
    alice, *_ = make_team(world, "bob")
    alice.change("#team", "invite", "1", "carol")
    alice.change("#club", "create", "2", "bob", "carol")
    assert failures(alice) == [Code.TOO_LARGE] * 2
    alice.change("#club", "create", "3", "bob")
    assert failures(alice) == [Code.TOO_LARGE] * 2


def test_pending_requests_count_towards_the_group_size(make_world):
    world = make_world(group_size=3)
    alice, bob, carol, dave = make_team(world, "bob", join="approval")
    carol.change("#team", "apply", "1")
    dave.change("#team", "apply", "2")  # too large: the group has two members and one application
    carol.change("#team", "apply", "3")  # it replaces the first application
    alice.change("#team", "configure", "4", consent=True)
    alice.change("#team", "invite", "5", "dave")
    alice.change("#team", "reject", "6", "carol")
    alice.change("#team", "invite", "7", "dave")
    alice.change("#crowd", "create", "8", "bob", "carol", "dave", consent=True)
    assert failures(dave) == [Code.TOO_LARGE]
    assert failures(alice) == [Code.TOO_LARGE] * 2
    assert (failures(bob), failures(carol)) == ([], [])
    dave.change("#team", "accept", "9")
    dave.send("#team", "here", "10")
    assert bob.shown == ["here"]


def test_changes_of_a_group_survive_a_restart_of_the_server(world):
    alice, bob, carol, dave = make_team(world, "bob", "carol", join="approval")
    alice.change("#team", "role", "1", "bob", role="admin")
    alice.change("#team", "mute", "2", "carol")
    dave.change("#team", "apply", "3")
    world.restart_server()
    world.advance(60)
    carol.send("#team", "mmm", "4")
    bob.change("#team", "accept", "5", "dave")
    assert failures(carol) == [Code.MUTED]
    assert failures(bob) == []
    assert system(dave) == [("group_accepted", "bob")]


def test_server_forwards_a_notice_with_an_unknown_event(world):
    alice, bob, *_ = make_team(world, "bob")
    alice.change("#team", "theme_changed", "1", colour="red")
    assert notices(bob)[-1] == ("theme_changed", "alice", [])


def test_blocked_user_cannot_add_the_blocker_to_a_group(world):
    devices = {user: world.device(user).start() for user in ("alice", "bob", "carol")}
    alice, bob = devices["alice"], devices["bob"]
    bob.set_conversation("p2p:alice:bob", blocked=True)
    alice.change("#team", "create", "1", "bob", "carol")
    assert failures(alice) == [Code.BLOCKED]
    alice.change("#team", "create", "2", "carol")
    alice.change("#team", "invite", "3", "bob")
    alice.change("#team", "configure", "4", consent=True)
    alice.change("#team", "invite", "5", "bob")  # the blocker receives no invitation, either
    assert failures(alice) == [Code.BLOCKED] * 3
    assert (notices(bob), system(bob)) == ([], [])
    devices["carol"].change("#team", "leave", "6")
    bob.set_conversation("p2p:alice:bob", blocked=False)
    alice.change("#team", "invite", "7", "bob")
    assert system(bob) == [("group_invite", "alice")]


def test_policy_refuse_strangers_requires_the_consent_of_members_who_are_not_friends(make_world):
    world = make_world(strangers="refuse")
    devices = {user: world.device(user).start() for user in ("alice", "bob", "carol")}
    alice, bob, carol = devices.values()
    alice.change("bob", "friend_request", "1")
    bob.change("alice", "friend_accept", "2")
    alice.change("#team", "create", "3", "bob", "carol")
    alice.change("#team", "create", "4", "bob")
    alice.change("#team", "invite", "5", "carol")
    assert failures(alice) == [Code.NOT_FRIENDS] * 2
    alice.change("#team", "configure", "6", consent=True)
    alice.change("#team", "invite", "7", "carol")
    assert system(carol) == [("group_invite", "alice")]
    carol.change("#team", "accept", "8")
    carol.send("#team", "hello", "9")
    assert bob.shown == ["hello"]


def test_group_with_consent_invites_its_first_members(world):
    alice, bob, carol, _ = make_team(world, "bob", "carol", consent=True)
    assert system(bob) == system(carol) == [("group_invite", "alice")]
    assert notices(bob) == []
    bob.change("#team", "accept", "1")
    carol.change("#team", "reject", "2")
    alice.send("#team", "hello", "3")
    assert (bob.shown, carol.shown) == (["hello"], [])


def test_repeated_old_change_does_not_affect_other_sends(world):
    """Another device repeats a change with the same idClient while another member sends messages."""
    alice, bob, *_ = make_team(world, "bob")
    alice.change("#team", "mute", "1", "bob")
    alice.change("#team", "unmute", "2", "bob")
    world.restart_server()
    world.advance(60)
    other = world.device("alice", "d1").start()
    bob.send("#team", "one", "3", run_until_idle=False)
    other.change("#team", "mute", "1", "bob", run_until_idle=False)
    bob.send("#team", "two", "4")
    assert other.seqs["1"] == alice.seqs["1"]
    assert (bob.seqs["3"], bob.seqs["4"]) == (4, 5)
    assert [event.attempt for event in bob.of(events.Sent) if event.id_client in "34"] == [1, 1]
