"""Tests of the conversation list: its state belongs to one user, and is equal on all devices of the user."""

from __future__ import annotations

from imsim.core import events
from imsim.core.model import Code

AB = "p2p:alice:bob"
BC = "p2p:bob:carol"
TEAM = "group:team"


def settings(device, conversation=AB):
    line = device.lines[conversation]
    return line.pinned, line.muted, line.custom


def listed(device):
    return [line.to for line in device.machine.conversations()]


def pair_of_bobs(world):
    """Return devices of alice and two devices of bob. Bob has a message from alice and a later one from carol."""
    alice, carol = world.device("alice").start(), world.device("carol").start()
    bobs = world.device("bob", "d0").start(), world.device("bob", "d1").start()
    alice.send("bob", "hello", "1")
    world.advance(1)
    carol.send("bob", "me too", "2")
    return alice, *bobs


# --- settings -------------------------------------------------------------------------------------------------------


def test_setting_made_on_one_device_shows_on_the_others_at_once(world):
    _, one, other = pair_of_bobs(world)
    assert listed(one) == listed(other) == ["carol", "alice"]
    one.set_conversation(AB, pinned=True, muted=True, custom='{"label": "work"}')
    for bob in (one, other):
        assert settings(bob) == (True, True, '{"label": "work"}')
        assert listed(bob) == ["alice", "carol"]
        assert bob.of(events.StateChanged) == [events.StateChanged(AB, True, True, 0, '{"label": "work"}')]
    assert [(event.request, event.ref) for event in one.of(events.RequestDone)] == [("set_conversation", AB)]
    assert other.of(events.RequestDone) == []


def test_undoing_a_setting_does_not_change_the_others(world):
    _, one, other = pair_of_bobs(world)
    one.set_conversation(AB, pinned=True, muted=True, custom="x")
    other.set_conversation(AB, pinned=False, custom="")
    assert settings(one) == settings(other) == (False, True, "")


def test_offline_device_receives_the_latest_settings_once_after_the_login(world):
    _, one, other = pair_of_bobs(world)
    other.break_connection()
    for custom in ("a", "b", "c"):
        one.set_conversation(AB, custom=custom)
    one.set_conversation(BC, muted=True)
    world.advance(40)
    assert (settings(other), settings(other, BC)) == ((False, False, "c"), (False, True, ""))
    assert len(other.of(events.StateChanged)) == 2
    late = world.device("bob", "d2").start()
    assert (settings(late), settings(late, BC)) == ((False, False, "c"), (False, True, ""))


def test_settings_survive_a_restart_of_the_server(world):
    alice, one, _ = pair_of_bobs(world)
    one.set_conversation(AB, pinned=True, muted=True, custom="x")
    one.hide(BC)
    one.read(AB)
    world.restart_server()
    world.advance(60)
    late = world.device("bob", "d2").start()
    assert settings(late) == settings(one) == (True, True, "x")
    assert listed(late) == listed(one) == ["alice"]
    assert late.unread(AB) == 0
    assert alice.lines[AB].peer_read_seq == 1
    one.set_conversation(AB, muted=False)  # the versions continue after the restart
    assert settings(late) == (True, False, "x")


def test_setting_made_offline_shows_locally_at_once_and_on_other_devices_after_the_login(world):
    _, one, other = pair_of_bobs(world)
    one.stop()
    one.set_conversation(AB, pinned=True)
    one.set_conversation(AB, muted=True)
    assert (settings(one), settings(other)) == ((True, True, ""), (False, False, ""))
    one.start()
    assert settings(one) == settings(other) == (True, True, "")


def test_settings_are_not_shown_to_other_users(world):
    alice, one, _ = pair_of_bobs(world)
    one.set_conversation(AB, pinned=True, muted=True, custom="secret")
    one.hide(AB)
    alice.break_connection()
    world.advance(40)
    for device in (alice, world.device("alice", "d1").start()):
        assert settings(device) == (False, False, "")
        assert device.of(events.StateChanged) == []


def test_simultaneous_settings_of_two_devices_end_equal_on_both(world):
    _, one, other = pair_of_bobs(world)
    one.set_conversation(AB, pinned=True, custom="one", run_until_idle=False)
    other.set_conversation(AB, muted=True, custom="other", run_until_idle=False)
    world.run_until_idle()
    assert settings(one) == settings(other)
    assert settings(one) in [(True, True, "one"), (True, True, "other")]
    late = world.device("bob", "d2").start()
    assert settings(late) == settings(one)


def test_setting_of_a_foreign_conversation_is_rejected_and_undone(world):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    alice.create_group("team")
    alice.send("#team", "to myself", "1")
    bob.set_conversation(TEAM, pinned=True)
    assert [(event.request, event.ref, event.code) for event in bob.of(events.RequestFailed)] == [
        ("set_conversation", TEAM, Code.NO_CONVERSATION)
    ]
    assert [event.pinned for event in bob.of(events.StateChanged)] == [True, False]
    world.advance(20)
    assert len(bob.of(events.RequestFailed)) == 1


def test_too_large_custom_is_rejected(make_world):
    world = make_world(content_bytes=10)
    _, one, other = pair_of_bobs(world)
    one.set_conversation(AB, custom="12345678901")
    assert [event.code for event in one.of(events.RequestFailed)] == [Code.TOO_LARGE]
    one.set_conversation(AB, custom="1234567890")
    assert settings(one) == settings(other) == (False, False, "1234567890")


def test_group_can_be_pinned_before_its_first_message(world):
    alice = world.device("alice").start()
    alice.create_group("team")
    alice.set_conversation(TEAM, pinned=True)
    assert alice.of(events.RequestFailed) == []
    alice.send("#team", "first", "1")
    assert settings(alice, TEAM) == (True, False, "")


# --- deleting from the list -----------------------------------------------------------------------------------------


def test_hidden_conversation_disappears_on_all_devices_until_the_next_message(world):
    alice, one, other = pair_of_bobs(world)
    one.hide(AB)
    assert listed(one) == listed(other) == ["carol"]
    assert one.machine.total_unread() == other.machine.total_unread() == 1
    alice.send("bob", "are you there?", "3")
    for bob in (one, other):
        assert listed(bob) == ["alice", "carol"]
        assert bob.unread(AB) == 1
    late = world.device("bob", "d2").start()
    assert late.unread(AB) == 1


def test_offline_device_hides_the_conversation_after_the_login(world):
    alice, one, other = pair_of_bobs(world)
    other.stop()
    one.hide(AB)
    other.start()
    assert listed(other) == ["carol"]
    assert listed(alice) == ["bob"]


def test_message_not_yet_shown_when_the_conversation_was_hidden_remains_visible(world):
    alice, one, other = pair_of_bobs(world)
    one.stop()
    alice.send("bob", "wait", "3")
    one.hide(AB)
    assert listed(one) == ["carol"]
    one.start()
    assert (listed(one), listed(other)) == (["alice", "carol"], ["alice", "carol"])
    assert (one.unread(AB), other.unread(AB)) == (1, 1)


def test_own_message_makes_a_hidden_conversation_visible_again(world):
    _, one, other = pair_of_bobs(world)
    one.hide(AB)
    one.send("alice", "one more thing", "3")
    assert listed(one) == listed(other) == ["alice", "carol"]
    assert one.unread(AB) == other.unread(AB) == 0


# --- total unread count ---------------------------------------------------------------------------------------------


def test_total_unread_count_can_exclude_muted_conversations(world):
    alice, one, other = pair_of_bobs(world)
    alice.send("bob", "again", "3")
    one.set_conversation(AB, muted=True)
    for bob in (one, other):
        assert (bob.machine.total_unread(), bob.machine.total_unread(include_muted=False)) == (3, 1)
    one.read(BC)
    assert (other.machine.total_unread(), other.machine.total_unread(include_muted=False)) == (2, 0)


# --- read receipts --------------------------------------------------------------------------------------------------


def test_all_devices_of_the_sender_receive_the_read_mark(world):
    alice, one, _ = pair_of_bobs(world)
    other = world.device("alice", "d1").start()
    assert alice.lines[AB].peer_read_seq == 0
    one.read(AB)
    for device in (alice, other):
        assert device.lines[AB].peer_read_seq == 1
        assert device.of(events.PeerRead) == [events.PeerRead(AB, 1)]
    assert alice.lines[AB].read_seq == 0  # the read mark of alice herself
    assert one.of(events.PeerRead) == []


def test_offline_sender_receives_the_read_mark_after_the_login(world):
    alice, one, _ = pair_of_bobs(world)
    alice.break_connection()
    one.read(AB)
    assert alice.lines[AB].peer_read_seq == 0
    world.advance(40)
    assert alice.lines[AB].peer_read_seq == 1
    assert alice.of(events.PeerRead) == [events.PeerRead(AB, 1)]


def test_answer_marks_the_question_as_read(world):
    alice, one, _ = pair_of_bobs(world)
    one.send("alice", "hello yourself", "3")
    assert alice.of(events.PeerRead) == [events.PeerRead(AB, 1)]
    assert (alice.lines[AB].peer_read_seq, alice.unread(AB)) == (1, 1)


def test_answer_with_a_lost_ack_marks_the_question_as_read(world):
    alice, one, other = pair_of_bobs(world)
    one.lose_next("stored")
    one.send("alice", "hello yourself", "3")
    world.restart_server()
    world.advance(60)
    assert alice.lines[AB].peer_read_seq == 1
    assert one.unread(AB) == other.unread(AB) == 0


def test_groups_have_read_counts_instead_of_peer_read_marks(world):
    alice, bob, carol = (world.device(user).start() for user in ("alice", "bob", "carol"))
    alice.create_group("team", "bob", "carol")
    alice.send("#team", "hello all", "1")
    alice.send("#team", "anybody?", "2")
    bob.read(TEAM)
    carol.send("#team", "yes", "3")
    alice.send("#team", "good", "4")
    assert alice.of(events.PeerRead) == []
    for seq in (2, 3, 4, 5):
        alice.read_count(TEAM, seq)
    counted = [(event.seq, event.read, event.members) for event in alice.of(events.ReadCounted)]
    assert counted == [(2, 2, 2), (3, 2, 2), (4, 1, 2), (5, 0, 2)]
    alice.read_count(TEAM, 6)
    dave = world.device("dave").start()
    dave.read_count(TEAM, 1)
    for device, ref in ((alice, f"{TEAM}:6"), (dave, f"{TEAM}:1")):
        failed = [(event.ref, event.code) for event in device.of(events.RequestFailed)]
        assert failed == [(ref, Code.NO_CONVERSATION)]
    assert dave.of(events.ReadCounted) == []


# --- lost frames -----------------------------------------------------------------------------------------------------


def test_server_repeats_a_lost_state(world):
    alice, one, other = pair_of_bobs(world)
    other.lose_next("state")
    alice.lose_next("state")
    one.read(AB)
    assert (other.unread(AB), alice.lines[AB].peer_read_seq) == (1, 0)
    world.advance(2.5)
    assert (other.unread(AB), alice.lines[AB].peer_read_seq) == (0, 1)


def test_state_repeated_after_a_lost_ack_changes_nothing(world):
    _, one, other = pair_of_bobs(world)
    other.lose_next("state_ack")
    one.set_conversation(AB, pinned=True)
    world.advance(30)
    assert len(other.of(events.StateChanged)) == 1


def test_latest_state_wins_if_an_earlier_one_is_lost(world):
    _, one, other = pair_of_bobs(world)
    other.lose_next("state")
    one.set_conversation(AB, custom="first")
    one.set_conversation(AB, custom="second")
    assert settings(other) == (False, False, "second")
    world.advance(30)
    assert settings(other) == (False, False, "second")


def test_client_repeats_a_lost_request(world):
    alice, one, other = pair_of_bobs(world)
    for op, request in (
        ("read", lambda: one.read(AB)),
        ("set_conversation", lambda: one.set_conversation(AB, pinned=True)),
        ("read_count", lambda: one.read_count(AB, 1)),
        ("end_session", lambda: one.end_session("d1")),
    ):
        one.lose_next(op)
        before = len(other.events), len(one.events)
        request()
        world.run_until_idle()
        assert len(other.events) == before[0], op
        world.advance(5.5)
        assert len(one.events) > before[1], op
    assert (other.unread(AB), settings(other)) == (0, (True, False, ""))
    assert alice.lines[AB].peer_read_seq == 1
    assert [(event.read, event.members) for event in one.of(events.ReadCounted)] == [(1, 1)]
    assert [event.code for event in other.of(events.Ended)] == [Code.KICKED]


def test_request_repeated_after_a_lost_done_makes_no_second_change(world):
    _, one, other = pair_of_bobs(world)
    one.lose_next("done")
    one.set_conversation(AB, pinned=True)
    world.advance(20)
    assert len(one.of(events.RequestDone)) == len(other.of(events.StateChanged)) == 1


def test_answer_to_an_older_request_does_not_end_the_newer_one(world):
    _, one, other = pair_of_bobs(world)
    sent = []
    one.lose(lambda frame: frame.op == "set_conversation" and (sent.append(frame) or len(sent) == 2))
    one.set_conversation(AB, pinned=True, run_until_idle=False)
    one.set_conversation(AB, custom="x", run_until_idle=False)  # lost
    world.run_until_idle()
    assert settings(other) == (True, False, "")
    world.advance(5.5)
    assert settings(one) == settings(other) == (True, False, "x")


def test_client_repeats_requests_lost_with_the_connection(world):
    alice, one, other = pair_of_bobs(world)
    one.lose(lambda frame: frame.op in ("read", "set_conversation"))
    one.read(AB)
    one.set_conversation(AB, muted=True)
    one.break_connection()
    one.lose_nothing()
    world.advance(40)
    assert (other.unread(AB), settings(other)) == (0, (False, True, ""))
    assert alice.lines[AB].peer_read_seq == 1


def test_device_that_acknowledges_no_state_is_disconnected_and_syncs_later(make_world):
    world = make_world(send_queue=3, push_timeout=1000.0)
    alices = world.device("alice", "d0").start(), world.device("alice", "d1").start()
    for number, user in enumerate(("bob", "carol", "dave", "alice"), 1):
        alices[0].send(user, "hello", str(number))
    alices[1].lose(lambda frame: frame.op in ("state", "state_ack"))
    for user in ("bob", "carol", "dave"):
        alices[0].set_conversation(f"p2p:alice:{user}", pinned=True)
    alices[0].set_conversation(AB, muted=True)  # it replaces the pending state of the same conversation
    assert alices[1].of(events.Disconnected) == []
    alices[0].set_conversation("p2p:alice:alice", pinned=True)
    assert [event.code for event in alices[1].of(events.Disconnected)] == [Code.SLOW_READER]
    alices[1].lose_nothing()
    world.advance(40)
    assert [line.pinned for line in alices[1].machine.conversations()] == [True] * 4
