"""Sessions, places and who gets a push."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Registry, entry, failed, message, open_log, session, state

from imsim.core import frames, internal_frames, storage
from imsim.core.internal_frames import PresenceUpdate
from imsim.core.model import Code, MessageType
from imsim.core.policies import Policies
from imsim.core.router.users import _WAITING
from imsim.core.storage.memory import MemoryStorage


@pytest.fixture
def registry():
    store = MemoryStorage()
    open_log(store, "alice")  # seq 1: bob has one unread
    return Registry(store)


def up(one, frame):
    return internal_frames.Up(one, frame, "")


def placed(registry):
    """(user, device, read_seq, unread) of the places told since; other frames are forgotten with them."""
    return [(to.user, to.device, f.state.read_seq, f.state.unread) for to, f in registry.take(frames.State)]


def done(request="read", ref=AB, number=0):
    return frames.Done(request, ref, number)


def unread(registry, one, conversation=AB):
    """(read_seq, unread) as a fresh device is told."""
    told = {found.conversation_id: found for found in sync(registry, one)[-1].states}[conversation]
    return told.read_seq, told.unread


def sync(registry, one, cursors=None, number=0):
    registry.receive(up(one, frames.Sync(cursors or {}, number=number)))
    registry.answer_all()
    return [frame for to, frame in registry.take((frames.Page, frames.SyncDone)) if to == one]


# --- sessions -------------------------------------------------------------------------------------------------------


def test_a_login_gets_a_session(registry):
    registry.attach("bob", "d3", gateway="g7", connection=42)
    assert registry.told == []
    registry.answer()
    ((gateway, attached),) = registry.told
    assert (gateway, attached.connection, attached.code) == ("g7", 42, None)
    assert attached.session == session("bob", "d3", attached.session.epoch, "g7", 42)


def test_epochs_grow_with_every_login_of_the_user(registry):
    epochs = [registry.login("bob", device, connection=n).epoch for n, device in enumerate(("d0", "d1", "d0"))]
    assert epochs == sorted(set(epochs))


def test_epochs_grow_across_restarts(registry):
    before = [registry.login("bob", connection=n).epoch for n in range(5)]
    again = Registry(registry.storage)
    assert again.login("bob").epoch > max(before)


def test_epochs_grow_across_log_outs(registry):
    first = registry.login("bob")
    registry.receive(internal_frames.Detach(first))
    assert registry.login("bob").epoch > first.epoch


def test_the_same_device_replaces_itself_and_the_old_gateway_is_told(registry):
    old = registry.login("bob", "d0", gateway="g0", connection=1)
    registry.told.clear()
    new = registry.login("bob", "d0", gateway="g1", connection=1)
    assert registry.told == [
        ("g0", internal_frames.Kick(old, Code.REPLACED)),
        ("g1", internal_frames.Attached(1, new)),
    ]
    registry.take()
    registry.deliver(message(2))
    assert [to for to, _ in registry.take(frames.Push)] == [new]


def test_another_device_replaces_nobody(registry):
    registry.login("bob", "d0")
    registry.login("bob", "d1", connection=2)
    assert not [frame for _, frame in registry.told if isinstance(frame, internal_frames.Kick)]


def test_two_logins_of_one_device_while_its_user_is_being_opened(registry):
    registry.attach("bob", connection=1)
    registry.attach("bob", connection=2)
    assert len(registry.asked) == 1
    registry.answer()
    kinds = [type(frame) for _, frame in registry.told]
    assert kinds == [internal_frames.Attached, internal_frames.Kick, internal_frames.Attached]
    assert registry.told[2][1].session.epoch > registry.told[0][1].session.epoch


def test_a_stale_detach_is_ignored(registry):
    old = registry.login("bob", connection=1)
    new = registry.login("bob", connection=2)
    registry.receive(internal_frames.Detach(old))
    registry.take()
    registry.deliver(message(2))
    assert [to for to, _ in registry.take(frames.Push)] == [new]


def test_a_detached_session_gets_no_more_pushes(registry):
    registry.receive(internal_frames.Detach(registry.login("bob", "d0")))
    registry.take()
    registry.deliver(message(2))
    assert registry.told == []


def test_a_user_without_sessions_costs_nothing(registry):
    one, other = registry.login("bob", "d0"), registry.login("bob", "d1", connection=2)
    registry.receive(internal_frames.Detach(one))
    assert "bob" in registry.machine._users
    registry.receive(internal_frames.Detach(other))
    assert registry.machine._users == {}
    assert registry.machine.next_deadline() is None


def test_frames_of_a_replaced_session_do_nothing(registry):
    old = registry.login("bob", connection=1)
    registry.login("bob", connection=2)
    registry.take()
    registry.receive(up(old, frames.Read(AB, 1)))
    registry.receive(up(old, frames.Sync({})))
    assert not registry.asked
    assert registry.told == []


def test_frames_of_a_session_that_a_crash_has_ended_do_nothing(registry):
    registry.receive(up(session("bob"), frames.Sync({})))
    registry.receive(internal_frames.Detach(session("bob")))
    assert not registry.asked
    assert registry.told == []


# --- a login that overtakes another ---------------------------------------------------------------------------------


def attach(registry, connection, instance, attempt):
    registry.take()
    registry.attach("bob", connection=connection, instance=instance, attempt=attempt)
    return [(type(frame), getattr(frame, "code", None)) for frame in registry.take()]


IN = (internal_frames.Attached, None)
OUT = (internal_frames.Kick, Code.REPLACED)
LATE = (internal_frames.Attached, Code.REPLACED)


def test_a_late_login_does_not_throw_out_the_one_that_overtook_it(registry):
    registry.login("alice", connection=9)
    registry.attach("bob", connection=2, instance="x", attempt=2)
    registry.answer_all()
    current = next(frame.session for _, frame in registry.told if getattr(frame, "connection", 0) == 2)
    registry.told.clear()
    registry.attach("bob", connection=1, instance="x", attempt=1)
    assert registry.told == [("g0", internal_frames.Attached(1, None, Code.REPLACED))]
    registry.take()
    registry.deliver(message(2))
    assert [to for to, _ in registry.take(frames.Push) if to.user == "bob"] == [current]


def test_only_an_earlier_attempt_of_the_same_instance_is_late(registry):
    registry.attach("bob", connection=1, instance="x", attempt=5)
    registry.answer_all()
    assert attach(registry, 2, "x", 5) == [OUT, IN]
    assert attach(registry, 3, "x", 6) == [OUT, IN]
    assert attach(registry, 4, "x", 5) == [LATE]
    assert attach(registry, 5, "y", 1) == [OUT, IN]  # another copy, started since
    assert attach(registry, 6, "x", 9) == [OUT, IN]
    assert attach(registry, 7, "y", 1) == [OUT, IN]  # of which nothing is known any more: the last one wins
    assert attach(registry, 8, "", 0) == [OUT, IN]  # a client that tells nothing
    assert attach(registry, 9, "", 0) == [OUT, IN]
    assert attach(registry, 9, "", -1) == [OUT, IN]


def test_a_late_login_of_another_device_is_another_matter(registry):
    registry.attach("bob", "d0", connection=1, instance="x", attempt=2)
    registry.answer_all()
    registry.take()
    registry.attach("bob", "d1", connection=2, instance="x", attempt=1)
    assert [frame.session.device for frame in registry.take()] == ["d1"]


def test_the_attempts_of_a_session_that_has_ended_do_not_count(registry):
    other = registry.login("bob", "d1")  # keeps bob open
    registry.attach("bob", connection=2, instance="x", attempt=2)
    (attached,) = [frame for frame in registry.take() if frame.connection == 2]
    registry.receive(internal_frames.Detach(attached.session))
    assert attach(registry, 3, "x", 1) == [IN]
    assert other.device == "d1"


# --- opening a user -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["failed", "silent"])
def test_a_login_that_storage_does_not_answer_is_refused_and_the_next_one_may_succeed(registry, how):
    registry.attach("bob", "d0", connection=1)
    registry.attach("bob", "d1", connection=2)
    if how == "failed":
        registry.answer(result=failed)
    else:
        registry.asked.clear()
        registry.advance(registry.policies.storage_timeout)
    assert [(f.connection, f.session, f.code) for _, f in registry.told] == [
        (1, None, Code.UNAVAILABLE),
        (2, None, Code.UNAVAILABLE),
    ]
    registry.told.clear()
    assert registry.login("bob", connection=3).connection == 3
    assert registry.machine.next_deadline() is None


def test_an_answer_that_comes_after_giving_up_is_ignored(registry):
    registry.attach("bob", connection=1)
    late = registry.asked.popleft()
    registry.advance(10)
    registry.attach("bob", connection=2)
    registry.told.clear()
    registry.machine.stored(late, registry.storage.execute(late), registry.clock.now)
    registry._collect()
    assert registry.told == []
    registry.answer()
    assert [frame.connection for _, frame in registry.told] == [2]


def test_what_is_delivered_while_a_user_is_being_opened_is_pushed_once_it_is(registry):
    registry.attach("bob")
    registry.deliver(message(2))
    assert registry.told == []
    registry.answer()
    assert registry.pushes() == [("bob", "d0", 2)]


def test_a_message_that_the_opening_saw_is_not_counted_twice(registry):
    registry.attach("bob")
    state = registry.storage.execute(storage.OpenConversation(AB))
    registry.storage.execute(storage.Append(state.epoch, message(2), 0))
    registry.deliver(message(2))
    registry.answer()
    one = next(f.session for _, f in registry.told if isinstance(f, internal_frames.Attached))
    assert unread(registry, one) == (0, 2)


def test_what_waits_for_an_opening_is_bounded(registry):
    registry.attach("bob", connection=1)
    for _ in range(_WAITING):
        registry.deliver(message(2), users=("bob",))
    registry.attach("bob", connection=2)
    assert registry.told == [("g0", internal_frames.Attached(2, None, Code.UNAVAILABLE))]
    registry.told.clear()
    registry.answer()
    assert len(registry.pushes()) == _WAITING - 1  # the login's sync brings the others


# --- delivery -------------------------------------------------------------------------------------------------------


def test_every_device_but_the_one_that_sent_it(registry):
    origin = registry.login("alice", "d0", connection=1)
    for number, (user, device) in enumerate((("alice", "d1"), ("bob", "d0"), ("bob", "d1")), 2):
        registry.login(user, device, connection=number)
    registry.take()
    registry.deliver(message(2), origin)
    assert registry.pushes() == [("alice", "d1", 2), ("bob", "d0", 2), ("bob", "d1", 2)]


def test_a_newer_session_of_the_sending_device_gets_it_too(registry):
    """It may be another instance, without a memory of what the device sent."""
    old = registry.login("alice", "d0", connection=1)
    registry.login("alice", "d0", connection=2)
    registry.take()
    registry.deliver(message(2), old)
    assert registry.pushes() == [("alice", "d0", 2)]


def test_the_same_device_name_of_another_user_is_another_device(registry):
    origin = registry.login("alice", "d0")
    registry.login("bob", "d0", connection=2)
    registry.take()
    registry.deliver(message(2), origin)
    assert registry.pushes() == [("bob", "d0", 2)]


def test_one_frame_a_gateway(registry):
    users = [f"u{number}" for number in range(6)]
    for number, user in enumerate(users):
        registry.login(user, gateway=f"g{number % 2}", connection=number)
    registry.told.clear()
    registry.deliver(message(1, conversation_id=TEAM, sender="x"), users=users)
    assert [(gateway, [s.user for s in down.sessions]) for gateway, down in registry.told] == [
        ("g0", ["u0", "u2", "u4"]),
        ("g1", ["u1", "u3", "u5"]),
    ]
    assert registry.told[0][1].frame is registry.told[1][1].frame  # encoded once for all


def test_only_those_named_get_it(registry):
    registry.login("bob")
    registry.login("carol", connection=2)
    registry.take()
    registry.deliver(message(2), users=("carol",))
    assert registry.pushes() == [("carol", "d0", 2)]


def test_who_is_away_costs_nothing(registry):
    registry.deliver(message(2))
    assert registry.machine._users == {}
    assert not registry.asked


# --- unread and marks -----------------------------------------------------------------------------------------------


def test_unread_goes_on_from_what_storage_knows(registry):
    one = registry.login("bob")
    registry.deliver(message(2))
    registry.deliver(message(3, sender="bob"), session("bob"))
    registry.deliver(message(4, type=MessageType.NOTIFICATION))
    assert unread(registry, one) == (0, 2)


def test_a_message_delivered_again_is_pushed_again_and_counted_once(registry):
    one = registry.login("bob")
    registry.take()
    registry.deliver(message(2))
    registry.deliver(message(2))
    assert registry.pushes() == [("bob", "d0", 2), ("bob", "d0", 2)]
    assert unread(registry, one) == (0, 2)


def test_a_message_delivered_after_a_later_one_counts_too(registry):
    """Its append "failed" but happened, and its sender's retry came after somebody else's message."""
    one = registry.login("bob")
    registry.take()
    registry.deliver(message(3))
    registry.deliver(message(2))
    assert registry.pushes() == [("bob", "d0", 3), ("bob", "d0", 2)]
    assert unread(registry, one) == (0, 3)


def test_a_message_delivered_late_that_was_read_meanwhile_does_not_count(registry):
    one = registry.login("bob")
    open_log(registry.storage, "alice", "alice")
    registry.deliver(message(3))
    registry.receive(up(one, frames.Read(AB, 3)))
    registry.answer_all()
    registry.deliver(message(2))
    assert unread(registry, one) == (3, 0)


def test_reading_is_saved_first_and_then_told_to_every_device(registry):
    one, other = registry.login("bob", "d0"), registry.login("bob", "d1", connection=2)
    registry.take()
    asked = up(one, frames.Read(AB, 1, 7))
    registry.receive(asked)
    assert list(registry.asked) == [storage.SaveState("bob", AB, 1, asked=asked)]
    assert registry.told == []
    registry.answer()
    told = frames.State(state(1, 1))
    assert registry.take() == [(one, told), (other, told), (one, done(number=7))]


def test_the_peer_is_told_of_the_reading_wherever_it_is(registry):
    one = registry.login("bob")
    registry.receive(up(one, frames.Read(AB, 1)))
    registry.answer()
    moved = state(1, peer_read_seq=1, peer_delivered_seq=1)
    assert registry.told_users == [("alice", internal_frames.PeerMoved("alice", moved))]


def test_a_device_hears_that_the_peer_has_read(registry):
    one = registry.login("alice")
    registry.take()
    read = internal_frames.PeerMoved("alice", state(1, peer_read_seq=1))
    for _ in range(2):  # repeated, it is no news
        registry.receive(read)
    registry.receive(internal_frames.PeerMoved("bob", state(1)))  # who is away
    assert registry.take() == [(one, frames.State(read.state))]
    assert set(registry.machine._users) == {"alice"}


def test_what_the_peer_read_while_a_user_is_being_opened_is_told_once_it_is(registry):
    registry.attach("alice")
    registry.receive(internal_frames.PeerMoved("alice", state(1, peer_read_seq=1)))
    registry.answer()
    assert [frame.state.peer_read_seq for _, frame in registry.take(frames.State)] == [1]


def test_settings_are_saved_and_told(registry):
    one, other = registry.login("bob", "d0"), registry.login("bob", "d1", connection=2)
    registry.take()
    registry.receive(up(one, frames.SetConversation(AB, True, None, 1, "{}", 3)))
    registry.answer()
    told = frames.State(state(1, 1, pinned=True, hidden_seq=1, custom="{}"))
    assert registry.take() == [(one, told), (other, told), (one, done("set_conversation", number=3))]


def test_a_repeated_request_tells_what_a_lost_answer_would_have(registry):
    one = registry.login("bob")
    registry.take()
    for asked in (frames.SetConversation(AB, pinned=True), frames.Read(AB, 1)):
        registry.receive(up(one, asked))
        registry.answer(result=lambda request: (registry.storage.execute(request), failed(request))[1])
        assert [type(frame) for _, frame in registry.take()] == [frames.Rejected]
        assert registry.told_users == []
        registry.receive(up(one, asked))
        registry.answer()
        assert [type(frame) for _, frame in registry.take()] == [frames.State, frames.Done]
    assert [user for user, _ in registry.told_users] == ["alice"]


def test_a_sync_tells_the_other_devices_as_well_what_a_lost_answer_would_have(registry):
    registry.login("bob", "d0")
    registry.storage.execute(storage.SaveState("bob", AB, 1))
    one = registry.login("bob", "d1", connection=2)
    registry.take()
    registry.receive(up(one, frames.Sync({AB: 1}, 0)))
    registry.answer()
    told = registry.take()
    assert [to.device for to, frame in told if isinstance(frame, frames.State)] == ["d0", "d1"]
    assert told[-1] == (one, frames.SyncDone([], {AB: 1}, [state(1, 1)], 1))


def test_a_sync_tells_the_places_that_changed_since(registry):
    one = registry.login("bob")
    for asked in (frames.Read(AB, 1), frames.SetConversation(AB, muted=True)):
        registry.receive(up(one, asked))
    registry.answer_all()
    for version, states in ((0, [state(2, 1, muted=True)]), (1, [state(2, 1, muted=True)]), (2, [])):
        registry.take()
        registry.receive(up(one, frames.Sync({AB: 1}, version)))
        registry.answer_all()
        assert registry.take()[-1] == (one, frames.SyncDone([], {AB: 1}, states, 2))


def test_how_many_have_read_is_asked_of_storage(registry):
    one = registry.login("bob")
    registry.take()
    registry.receive(up(one, frames.ReadCount(AB, 1)))
    registry.receive(up(one, frames.ReadCount(AB, 2)))
    registry.receive(up(one, frames.ReadCount(AB, 1)))
    registry.answer()
    registry.answer()
    registry.answer(result=failed)
    counted, unknown, late = (frame for _, frame in registry.take())
    assert counted == frames.ReadCounted(AB, 1, 0, 1)
    assert (unknown.request, unknown.ref, unknown.code) == ("read_count", f"{AB}:2", Code.NO_CONVERSATION)
    assert (late.ref, late.code) == (f"{AB}:1", Code.UNAVAILABLE)


def test_a_place_that_could_not_be_saved_does_not_change(registry):
    one = registry.login("bob")
    registry.take()
    registry.receive(up(one, frames.Read(AB, 1)))
    registry.answer(result=failed)
    ((to, frame),) = registry.take()
    assert (to, frame.request, frame.ref, frame.code) == (one, "read", AB, Code.UNAVAILABLE)
    assert unread(registry, one) == (0, 1)


@pytest.mark.parametrize("seq", [0, -1])
def test_reading_nothing_new_asks_nothing(registry, seq):
    one = registry.login("bob")
    registry.take()
    registry.receive(up(one, frames.Read(AB, seq)))
    assert not registry.asked
    assert registry.take() == [(one, done())]


def test_nobody_reads_beyond_the_log(registry):
    one = registry.login("bob")
    registry.receive(up(one, frames.Read(AB, 99)))
    registry.answer_all()
    registry.deliver(message(2))
    assert unread(registry, one) == (1, 1)


def test_answers_out_of_order_never_move_a_mark_back(registry):
    one = registry.login("bob")
    registry.deliver(message(2))
    registry.take()
    for seq in (1, 2):
        registry.receive(up(one, frames.Read(AB, seq)))
    registry.answer(1, lambda _: storage.StatesSaved((("bob", state(2, 2)),)))
    registry.answer(0, lambda _: storage.StatesSaved((("bob", state(1, 1)),)))
    assert placed(registry) == [("bob", "d0", 2, 0)]


def test_reading_a_conversation_that_one_does_not_have_is_refused(registry):
    one = registry.login("bob")
    registry.take()
    registry.receive(up(one, frames.Read(TEAM, 1)))
    registry.answer()
    ((to, frame),) = registry.take()
    assert (to, frame.request, frame.ref, frame.code) == (one, "read", TEAM, Code.NO_CONVERSATION)


def test_a_saved_place_of_a_user_who_has_left_is_told_to_nobody_but_the_peer(registry):
    one = registry.login("bob")
    registry.receive(up(one, frames.Read(AB, 1)))
    registry.receive(internal_frames.Detach(one))
    registry.take()
    registry.answer()
    assert registry.take() == [(one, done())]  # which its gateway drops
    assert [user for user, _ in registry.told_users] == ["alice"]


def test_a_send_moves_its_senders_mark_and_nobody_elses(registry):
    for number, (user, device) in enumerate((("bob", "d0"), ("bob", "d1"), ("alice", "d0"))):
        registry.login(user, device, connection=number)
    registry.take()
    moved = (("bob", state(1, 1)), ("alice", state(1, peer_read_seq=1)))
    registry.deliver(message(2, sender="bob"), session("bob"), moved)
    assert placed(registry) == [("alice", "d0", 0, 1), ("bob", "d0", 1, 0), ("bob", "d1", 1, 0)]


def test_a_send_that_moves_no_mark_tells_of_none(registry):
    one = registry.login("bob")
    registry.login("alice", connection=2)
    registry.take()
    registry.deliver(message(2, sender="bob"), one)
    assert [type(frame) for _, frame in registry.take()] == [frames.Push]


# --- what was not heard of ------------------------------------------------------------------------------------------


def resynced(registry):
    """(user, device) of those told to sync again; other frames are forgotten with them."""
    return [(to.user, to.device) for to, _ in registry.take(frames.Resync)]


@pytest.fixture
def two(registry):
    """Bob on two devices, alice on one; the log has one message."""
    for number, (user, device) in enumerate((("bob", "d0"), ("bob", "d1"), ("alice", "d0"))):
        registry.login(user, device, connection=number)
    registry.take()
    return registry


BOTH = [("bob", "d0"), ("bob", "d1")]


def test_a_jump_in_what_is_delivered_sends_every_device_to_look(two):
    two.deliver(message(2), users=("bob",))
    assert resynced(two) == []
    two.deliver(message(4), users=("bob",))
    assert [(type(frame), to.device) for to, frame in two.take()] == [
        *((frames.Resync, device) for device in ("d0", "d1")),
        *((frames.Push, device) for device in ("d0", "d1")),
    ]
    for seq in (3, 4, 5):  # late, again, the next
        two.deliver(message(seq), users=("bob",))
    assert resynced(two) == []
    two.deliver(message(7), users=("bob",))
    assert resynced(two) == BOTH


def test_what_is_behind_does_not_move_back_what_was_heard(two):
    for seq in (2, 3, 2, 4):
        two.deliver(message(seq), users=("bob",))
    assert resynced(two) == []


def test_a_conversation_that_is_new_to_the_user_starts_at_nothing(two):
    """Or wherever: who is new in a group has nothing of what was before."""
    two.deliver(message(1, conversation_id=TEAM), users=("bob",))
    two.deliver(message(7, conversation_id="group:other"), users=("bob",))
    assert resynced(two) == []
    two.deliver(message(9, conversation_id="group:other"), users=("bob",))
    assert resynced(two) == BOTH


@pytest.mark.parametrize(("seq", "told"), [(1, []), (0, []), (2, BOTH), (9, BOTH)])
def test_a_writer_that_found_more_than_was_heard_of_sends_every_device_to_look(two, seq, told):
    two.receive(internal_frames.Opened(("bob", "carol"), AB, seq))
    assert resynced(two) == told
    two.receive(internal_frames.Opened(("bob", "carol"), AB, seq))
    assert resynced(two) == []
    two.deliver(message(max(seq, 1) + 1), users=("bob",))
    assert resynced(two) == []  # no jump: it is known to have been there
    assert set(two.machine._users) == {"alice", "bob"}


def test_a_writer_tells_all_members_that_it_names(two):
    two.receive(internal_frames.Opened(("alice", "bob"), AB, 2))
    assert resynced(two) == [("alice", "d0"), *BOTH]
    two.receive(internal_frames.Opened(("alice",), TEAM, 1))
    assert resynced(two) == [("alice", "d0")]


def test_who_is_being_opened_will_look_anyway(registry):
    registry.attach("bob")
    registry.receive(internal_frames.Opened(("bob",), AB, 5))
    assert registry.machine._users["bob"].states == {}
    registry.answer()
    assert [type(frame) for _, frame in registry.told] == [internal_frames.Attached]


def test_a_sync_of_one_device_is_not_what_the_others_have_heard(two):
    """Stored, and let out by nobody: one device comes upon it, the others still wait for it."""
    open_log(two.storage, "alice")
    one = two.login("bob", "d2", connection=5)
    two.take()
    assert [m.seq for m in sync(two, one)[0].messages] == [1, 2]
    two.receive(internal_frames.Opened(("bob",), AB, 2))
    assert resynced(two) == [*BOTH, ("bob", "d2")]


# --- notices --------------------------------------------------------------------------------------------------------


def test_under_notify_each_device_is_told_how_far_the_log_goes():
    registry = Registry(policies=Policies(delivery="notify"))
    for number, (user, device) in enumerate((("alice", "d0"), ("alice", "d1"), ("bob", "d0"))):
        registry.login(user, device, connection=number)
    (origin, other), (one,) = (registry.machine._users[user].sessions.values() for user in ("alice", "bob"))
    registry.take()
    registry.deliver(message(1), origin)
    assert registry.take() == [(other, frames.Notify(AB, 1)), (one, frames.Notify(AB, 1))]
    assert registry.machine._users["bob"].states[AB].view().unread == 1  # counted all the same


# --- delivered receipts ---------------------------------------------------------------------------------------------


@pytest.fixture
def receipts(registry):
    """Bob online under `receipts = delivered`; the log has one message."""
    made = Registry(registry.storage, Policies(receipts="delivered"))
    made.bob = made.login("bob")
    made.take()
    return made


def delivered(registry, seq, conversation=AB, one=None):
    registry.receive(up(one or registry.bob, frames.Delivered(conversation, seq)))


def test_what_a_device_has_got_is_saved_and_the_peer_told(receipts):
    delivered(receipts, 1)
    assert list(receipts.asked) == [storage.SaveState("bob", AB, delivered_seq=1)]
    receipts.answer()
    assert receipts.told_users == [("alice", internal_frames.PeerMoved("alice", state(1, peer_delivered_seq=1)))]
    assert receipts.told == []  # it is no news for bob, and nobody asked


def test_what_some_device_has_got_before_is_not_saved_again(receipts):
    other = receipts.login("bob", "d1", connection=2)
    for one in (receipts.bob, other, receipts.bob):
        delivered(receipts, 1, one=one)
    delivered(receipts, 0)
    assert len(receipts.asked) == 1
    receipts.deliver(message(2))
    delivered(receipts, 2, one=other)
    assert [request.delivered_seq for request in receipts.asked] == [1, 2]


def test_what_was_saved_before_the_user_was_opened_is_known(receipts):
    delivered(receipts, 1)
    receipts.answer_all()
    again = Registry(receipts.storage, receipts.policies)
    again.bob = again.login("bob")
    delivered(again, 1)
    assert not again.asked


@pytest.mark.parametrize("id", ["group:none", "p2p:bob:carol", "nonsense"])
def test_what_is_delivered_of_no_conversation_of_the_users_does_nothing(receipts, id):
    delivered(receipts, 1, id)
    assert not receipts.asked
    assert set(receipts.machine._users["bob"].states) == {AB}


def test_groups_have_no_delivered_receipts(receipts):
    receipts.deliver(message(1, conversation_id=TEAM))
    delivered(receipts, 1, TEAM)
    assert not receipts.asked


def test_a_receipt_that_was_not_saved_is_saved_again(receipts):
    delivered(receipts, 1)
    receipts.answer(result=failed)
    assert (receipts.told, receipts.told_users) == ([], [])
    delivered(receipts, 1)
    assert not receipts.asked
    receipts.advance(receipts.policies.storage_timeout)
    receipts.answer()
    assert len(receipts.told_users) == 1
    delivered(receipts, 1)
    assert not receipts.asked


def test_a_receipt_that_storage_has_no_place_for_tells_nobody(receipts):
    delivered(receipts, 1)
    receipts.answer(result=lambda request: storage.StatesSaved())
    assert (receipts.told, receipts.told_users) == ([], [])


@pytest.mark.parametrize("result", [failed, None], ids=["failed", "saved"])
def test_a_receipt_of_who_has_left_is_told_to_the_peer_at_most(receipts, result):
    delivered(receipts, 1)
    receipts.receive(internal_frames.Detach(receipts.bob))
    receipts.answer(result=result)
    assert (receipts.told, len(receipts.told_users)) == ([], 0 if result else 1)


def test_the_cursors_of_a_sync_are_receipts_too(receipts):
    receipts.receive(up(receipts.bob, frames.Sync({AB: 1, "group:none": 3})))
    assert [request.op for request in receipts.asked] == ["missed", "save_state"]
    receipts.answer_all()
    assert [user for user, _ in receipts.told_users] == ["alice"]


def test_without_the_policy_a_sync_is_no_receipt(registry):
    one = registry.login("bob")
    registry.receive(up(one, frames.Sync({AB: 1})))
    assert [request.op for request in registry.asked] == ["missed"]


# --- looking back ---------------------------------------------------------------------------------------------------


def test_a_range_is_asked_of_storage_a_page_at_most():
    store = MemoryStorage()
    open_log(store, "alice", "alice", "alice")
    registry = Registry(store, Policies(page=2))
    one, other = registry.login("bob"), registry.login("bob", "d1", connection=2)
    registry.take()
    asked = up(one, frames.History(AB, 1, 3))
    registry.receive(asked)
    assert list(registry.asked) == [storage.Range("bob", AB, 1, 3, 2, asked, registry.policies.page_bytes)]
    registry.answer()
    registry.receive(up(other, frames.History(AB, 1, 1)))
    registry.answer()
    assert registry.take() == [
        (one, frames.HistoryPage(AB, 1, 3, [message(2), message(3)], True)),
        (other, frames.HistoryPage(AB, 1, 1, [message(1)], False)),
    ]


def test_what_a_range_brings_for_the_first_time_counts(registry):
    """Stored, but let out by no writer: whoever pulled it has it unread."""
    one = registry.login("bob")
    open_log(registry.storage, "alice")
    registry.receive(up(one, frames.History(AB, 2, 2)))
    registry.answer()
    assert registry.machine._users["bob"].states[AB].view().unread == 2


def test_a_range_that_cannot_be_had_is_refused(registry):
    one = registry.login("bob")
    registry.take()
    registry.receive(up(one, frames.History(TEAM, 1, 3)))
    registry.answer()
    registry.receive(up(one, frames.History(AB, 1, 3)))
    registry.answer(result=failed)
    refusals = [(to, f.request, f.ref, f.code) for to, f in registry.take()]
    assert refusals == [
        (one, "history", f"{TEAM}:1-3", Code.NO_CONVERSATION),
        (one, "history", f"{AB}:1-3", Code.UNAVAILABLE),
    ]


def test_a_range_for_who_has_left_is_answered_to_the_session_that_asked(registry):
    one = registry.login("bob")
    registry.receive(up(one, frames.History(AB, 1, 1)))
    registry.receive(internal_frames.Detach(one))
    registry.attach("bob", connection=2)  # and is being opened again
    registry.take()
    registry.answer()
    assert registry.take() == [(one, frames.HistoryPage(AB, 1, 1, [message(1)]))]  # which its gateway drops
    assert registry.machine._users["bob"].states == {}  # storage will say


# --- login sync -----------------------------------------------------------------------------------------------------


def test_a_sync_asks_for_what_the_session_misses(registry):
    one = registry.login("bob")
    registry.deliver(message(5))
    registry.receive(up(one, frames.Sync({AB: 5}, 7, 8, 9, 10, 11)))
    page, page_bytes = registry.policies.page, registry.policies.page_bytes
    assert list(registry.asked) == [storage.Missed(one, {AB: 5}, page, 7, 8, 9, 11, page_bytes=page_bytes)]


def test_a_cursor_beyond_what_was_heard_of_is_doubted_but_may_be_right(registry):
    one = registry.login("bob")
    open_log(registry.storage, "alice")  # of which nobody has told this machine
    for cursors, doubted, answer in (({AB: 1}, False, frames.SyncDone), ({AB: 2}, True, frames.SyncDone)):
        registry.receive(up(one, frames.Sync(cursors)))
        assert registry.asked[0].doubted == doubted
        registry.answer()
        assert len(registry.take(answer)) == 1
    for cursors in ({AB: 3}, {AB: 2, TEAM: 1}):
        registry.receive(up(one, frames.Sync(cursors, number=4)))
        registry.answer()
        ((_, refusal),) = registry.take(frames.Rejected)
        assert (refusal.request, refusal.code, refusal.number) == ("sync", Code.AHEAD, 4)


def test_a_login_is_told_which_log_it_is():
    registry = Registry(MemoryStorage(log="the log"))
    registry.attach("bob")
    registry.answer()
    assert registry.told[-1][1].log == "the log"


@pytest.mark.parametrize("fanout", ["read", "write"])
def test_the_places_come_with_the_last_page(fanout):
    store = MemoryStorage(fanout)
    open_log(store, "alice", "alice", "alice")
    registry = Registry(store, Policies(page=2))
    one = registry.login("bob")
    registry.take()
    inbox = 2 if fanout == "write" else 0
    (page,) = sync(registry, one, number=4)
    assert page == frames.Page([message(1), message(2)], {AB: 2}, inbox, 4)
    (last,) = sync(registry, one, page.cursors, number=5)
    inbox = 3 if fanout == "write" else 0
    assert last == frames.SyncDone([message(3)], {AB: 3}, [state(0, 0, 3)], 0, inbox, 5)


def test_a_sync_that_storage_cannot_answer_is_refused(registry):
    one = registry.login("bob")
    registry.take()
    registry.receive(up(one, frames.Sync({}, number=6)))
    registry.answer(result=failed)
    ((to, frame),) = registry.take()
    assert (to, frame.request, frame.ref, frame.code, frame.number) == (one, "sync", "", Code.UNAVAILABLE, 6)


def test_a_page_for_a_session_that_was_replaced_meanwhile_goes_nowhere(registry):
    one = registry.login("bob", connection=1)
    registry.receive(up(one, frames.Sync({})))
    late = registry.asked.popleft()
    registry.login("bob", connection=2)
    registry.take()
    registry.machine.stored(late, registry.storage.execute(late), 0.0)
    registry._collect()
    assert registry.told == []


def test_what_a_device_got_by_a_sync_can_be_read():
    """Stored, but let out by no writer: its append was never answered, and its sender gave up."""
    registry = Registry()
    open_log(registry.storage)
    registry.login("bob", "d0")  # keeps bob open
    open_log(registry.storage, "alice")  # stored, and never delivered
    one = registry.login("bob", "d1", connection=2)
    registry.take()
    assert unread(registry, one) == (0, 1)
    registry.receive(up(one, frames.Read(AB, 1)))
    registry.answer_all()
    assert unread(registry, one) == (1, 0)


def test_a_lost_gateway_takes_its_sessions_with_it(registry):
    here = registry.login("bob", "d0", gateway="g1", connection=1)
    there = registry.login("bob", "d1", gateway="g2", connection=2)
    registry.machine.gateway_lost("g1", 0.0)
    registry.deliver(message(2))
    assert [to for to, _ in registry.take(frames.Push)] == [there]
    registry.machine.gateway_lost("g2", 0.0)
    registry.receive(up(here, frames.Read(AB, 1)))
    assert not registry.asked


def test_a_login_that_waits_outlives_another_gateways_loss(registry):
    registry.attach("bob", "d0", gateway="g1", connection=1)
    registry.attach("bob", "d1", gateway="g2", connection=2)
    registry.machine.gateway_lost("g1", 0.0)
    registry.answer_all()
    assert [frame.connection for frame in registry.take(internal_frames.Attached)] == [2]


def test_when_a_router_is_back_every_device_looks_what_it_missed(registry):
    sessions = {registry.login("bob", "d0", connection=1), registry.login("carol", "d0", connection=2)}
    registry.take()
    registry.machine.router_back(registry.clock.now)
    registry._collect()
    assert {to for to, _ in registry.take(frames.Resync)} == sessions


def test_a_revocation_that_storage_failed_to_keep_is_kept_after_all(registry):
    registry.machine.receive(internal_frames.Revoke("bob", 5.0), 0.0)
    registry._collect()
    registry.answer(result=lambda request: storage.Failed("full"))
    assert list(registry.asked) == []
    registry.advance(registry.policies.storage_timeout)
    registry.answer_all()
    assert registry.storage.execute(storage.OpenUser("bob")).revoked_before == 5.0


def test_a_revocation_that_is_not_kept_yet_outlives_what_is_known_of_the_user(registry):
    registry.machine.receive(internal_frames.Revoke("bob", 5.0), 0.0)
    registry._collect()
    registry.answer(result=lambda request: storage.Failed("full"))
    registry.attach("bob", issued_at=1.0)
    registry.answer_all()
    assert [frame.code for frame in registry.take(internal_frames.Attached)] == [Code.TOKEN_REVOKED]
    registry.advance(registry.policies.storage_timeout)
    registry.answer_all()
    assert registry.machine._revoking == {}


# --- changes that storage has not answered well ---------------------------------------------------------------------


def test_a_mark_that_storage_did_not_answer_for_is_saved_again_and_told_to_the_other_user(registry):
    """Whoever asked for it may be gone, or may have been answered from what a sync of another device had brought."""
    bob = registry.login("bob")
    registry.receive(up(bob, frames.Read(AB, 1)))
    registry.answer(result=lambda request: registry.storage.execute(request) and failed(request))
    sync(registry, registry.login("bob", "d1", connection=2))
    registry.receive(up(bob, frames.Read(AB, 1)))
    assert registry.told_users == []
    registry.advance(registry.policies.storage_timeout)
    registry.answer_all()
    ((user, moved),) = registry.told_users
    assert (user, moved.state.peer_read_seq) == ("alice", 1)
    registry.advance(60)
    assert not registry.asked
    assert registry.machine.next_deadline() is None


def test_it_is_saved_again_until_storage_answers(registry):
    registry.receive(up(registry.login("bob"), frames.Read(AB, 1)))
    for _ in range(3):
        assert registry.answer(result=failed).read_seq == 1
        registry.advance(registry.policies.storage_timeout)
    registry.answer_all()
    assert registry.machine.next_deadline() is None


# --- recalls, friends, hints ----------------------------------------------------------------------------------------


def test_what_is_recalled_counts_no_more_whatever_comes_later(registry):
    bob = registry.login("bob")
    registry.deliver(message(2))
    registry.deliver(entry(3, "recall", seq=2))
    assert unread(registry, bob) == (0, 1)
    registry.deliver(message(2))  # again, or late
    assert unread(registry, bob) == (0, 1)
    registry.deliver(entry(4, "recall", seq=5))  # what it is about comes later
    registry.deliver(message(5))
    assert unread(registry, bob) == (0, 1)


def test_a_page_from_before_a_recall_counts_nothing_again(registry):
    bob = registry.login("bob")
    registry.receive(up(bob, frames.History(AB, 1, 1)))
    request = registry.asked.popleft()
    result = registry.storage.execute(request)
    registry.deliver(entry(2, "recall", seq=1))
    registry.machine.stored(request, result, 0.0)
    assert registry.machine._users["bob"].states[AB].unread.count == 0


def friends_of(registry, **policies):
    return Registry(registry.storage, Policies(presence="friends", **policies))


def befriended(registry):
    """Alice and bob, in storage."""
    state = registry.storage.execute(storage.OpenConversation(AB))
    effects = storage.Effects(state={"friends": True, "request": None})
    registry.storage.execute(storage.Append(state.epoch, message(2), 0, effects))


def test_friends_are_told_who_comes_and_goes(registry):
    befriended(registry)
    open_log(registry.storage, "alice", conversation="p2p:bob:carol")
    friendly = friends_of(registry)
    bob = friendly.login("bob")
    assert friendly.told_users == [("alice", PresenceUpdate("alice", frames.Presence("bob", True), bob))]
    friendly.told_users.clear()
    other = friendly.login("bob", "d1", connection=2)
    assert friendly.told_users == [("alice", PresenceUpdate("alice", None, other))]  # it asks only
    friendly.told_users.clear()
    friendly.receive(internal_frames.Detach(bob))
    assert friendly.told_users == []
    friendly.receive(internal_frames.Detach(other))
    assert friendly.told_users == [("alice", PresenceUpdate("alice", frames.Presence("bob", False)))]


def test_friendship_follows_the_log(registry):
    friendly = friends_of(registry)
    bob = friendly.login("bob")
    friendly.deliver(entry(2, "friend_accept"))
    friendly.deliver(entry(2, "friend_accept"))
    friendly.receive(internal_frames.Detach(bob))
    told = [("alice", PresenceUpdate("alice", frames.Presence("bob", online))) for online in (True, False)]
    assert friendly.told_users == told
    friendly.told_users.clear()
    bob = friendly.login("bob")
    friendly.deliver(entry(3, "friend_accept"))
    friendly.deliver(entry(4, "friend_delete"))
    friendly.told_users.clear()
    friendly.receive(internal_frames.Detach(bob))
    assert friendly.told_users == []


def test_presence_is_off_by_default(registry):
    bob = registry.login("bob")
    registry.deliver(entry(2, "friend_accept"))
    registry.receive(internal_frames.Detach(bob))
    assert registry.told_users == []


def hinted(registry, hint):
    registry.take()
    registry.receive(hint)
    return [(to.user, to.device, frame) for to, frame in registry.take()]


def test_a_hint_reaches_whom_it_is_for(registry):
    befriended(registry)
    one = registry.login("bob")
    registry.login("bob", "d1", connection=2)
    news, typing = frames.Presence("alice", True), frames.IsTyping(AB)
    assert hinted(registry, PresenceUpdate("bob", typing)) == [
        ("bob", "d0", typing),
        ("bob", "d1", typing),
    ]
    assert hinted(registry, PresenceUpdate("bob", news, tells=one)) == [("bob", "d0", news)]
    assert hinted(registry, PresenceUpdate("carol", news)) == []
    assert registry.told_users == []
    alice = session("alice", epoch=9)
    assert len(hinted(registry, PresenceUpdate("bob", news, asks=alice))) == 2
    assert registry.told_users == [("alice", PresenceUpdate("alice", frames.Presence("bob", True), tells=alice))]


def test_who_is_no_friend_any_more_hears_of_nobody_though_the_own_router_has_not_heard_of_it(registry):
    befriended(registry)
    registry.login("bob")
    registry.deliver(entry(3, "friend_delete"))
    for asking in ("alice", "carol"):
        assert hinted(registry, PresenceUpdate("bob", None, asks=session(asking, epoch=9))) == []
    assert registry.told_users == []


def test_who_is_blocked_is_not_seen_writing(registry):
    registry.storage.execute(storage.SaveState("bob", AB, blocked=True))
    registry.login("bob")
    other = frames.IsTyping("p2p:bob:carol")
    assert hinted(registry, PresenceUpdate("bob", frames.IsTyping(AB))) == []
    assert hinted(registry, PresenceUpdate("bob", other)) == [("bob", "d0", other)]


def test_a_blocked_place_is_told_to_the_users_devices_only(registry):
    bob = registry.login("bob")
    registry.take()
    registry.receive(up(bob, frames.SetConversation(AB, blocked=True, number=3)))
    registry.answer_all()
    assert [(to, f.state.blocked) for to, f in registry.take(frames.State)] == [(bob, True)]
    assert registry.told_users == []


def test_what_an_ex_member_asks_is_about_what_the_member_saw(registry):
    state = registry.storage.execute(storage.OpenConversation(TEAM, ("alice", "bob")))
    for seq, left in ((1, ()), (2, ("bob",)), (3, ())):
        one = message(seq, conversation_id=TEAM)
        registry.storage.execute(storage.Append(state.epoch, one, 0, storage.Effects(left=left)))
    bob = registry.login("bob")
    assert unread(registry, bob, TEAM) == (0, 0)
    for frame in (frames.History(TEAM, 1, 9), frames.ReadCount(TEAM, 3), frames.Read(TEAM, 2, 1)):
        registry.receive(up(bob, frame))
    registry.receive(up(bob, frames.SetConversation(TEAM, pinned=True, number=2)))
    registry.answer_all()
    told = [frame for _, frame in registry.take() if not isinstance(frame, frames.State)]
    assert [one.seq for one in told[0].messages] == [1, 2]
    assert told[1].code == Code.NO_CONVERSATION
    assert told[2:] == [done("read", TEAM, 1), done("set_conversation", TEAM, 2)]


def test_typing_goes_to_the_other_user_of_ones_own_conversation(registry):
    bob = registry.login("bob")
    for id in (AB, "p2p:alice:carol", "p2p:bob:carol", TEAM, "nonsense"):
        registry.receive(up(bob, frames.Typing(id)))
    assert registry.told_users == [("alice", PresenceUpdate("alice", frames.IsTyping(AB)))]


def test_who_was_never_there_has_not_gone(registry):
    befriended(registry)
    friendly = friends_of(registry)
    friendly.machine.receive(internal_frames.Revoke("bob", 5.0), 0.0)
    friendly._collect()
    friendly.attach("bob", issued_at=1.0)
    friendly.answer_all()
    assert [frame.code for frame in friendly.take(internal_frames.Attached)] == [Code.TOKEN_REVOKED]
    assert friendly.told_users == []
    assert friendly.machine._users == {}


def test_whose_tokens_are_revoked_has_gone_and_is_forgotten(registry):
    befriended(registry)
    friendly = friends_of(registry)
    bob = friendly.login("bob")
    friendly.told_users.clear()
    friendly.machine.receive(internal_frames.Revoke("bob", 5.0), 0.0)
    friendly._collect()
    friendly.receive(internal_frames.Detach(bob))  # as the gateway answers the kick
    assert friendly.told_users == [("alice", PresenceUpdate("alice", frames.Presence("bob", False)))]
    assert friendly.machine._users == {}


def test_news_beyond_the_budget_wait_and_only_the_last_is_told(registry):
    befriended(registry)
    friendly = friends_of(registry, presence_rate=0.5, presence_burst=1)

    def told():
        news, friendly.told_users = friendly.told_users, []
        return [(to, hint.frame.online) for to, hint in news if hint.frame is not None]

    friendly.receive(internal_frames.Detach(friendly.login("bob")))
    friendly.receive(internal_frames.Detach(friendly.login("bob")))
    assert told() == [("alice", True)]
    assert friendly.machine._users == {}  # whoever is away waits for nothing in memory
    friendly.advance(1.9)
    assert told() == []
    friendly.advance(0.2)
    assert told() == [("alice", False)]
    bob = friendly.login("bob")
    friendly.receive(up(bob, frames.SetConversation(AB, blocked=True, number=1)))
    friendly.answer_all()
    friendly.advance(3)
    assert told() == [("alice", False)]
    friendly.receive(up(bob, frames.SetConversation(AB, blocked=False, number=2)))
    friendly.answer_all()
    friendly.deliver(entry(3, "friend_delete"))
    friendly.advance(3)
    assert told() == []
    assert friendly.machine.next_deadline() is None


def test_a_revocation_that_storage_does_not_answer_is_asked_again_until_it_does(registry):
    registry.machine.receive(internal_frames.Revoke("bob", 5.0), 0.0)
    registry._collect()
    registry.asked.clear()
    registry.advance(registry.policies.storage_timeout)
    registry.answer_all()
    assert registry.storage.execute(storage.OpenUser("bob")).revoked_before == 5.0
    registry.advance(3 * registry.policies.storage_timeout)
    assert (list(registry.asked), registry.machine.next_deadline()) == ([], None)


def test_logins_of_devices_that_are_gone_are_forgotten(registry):
    registry.login("bob")
    for connection in range(2, 5):
        registry.receive(internal_frames.Detach(registry.login("bob", f"web-{connection}", connection=connection)))
    bob = registry.machine._users["bob"]
    assert bob.logins.keys() == bob.sessions.keys() == {"d0"}


def test_who_was_opened_for_nobody_is_forgotten(registry):
    registry.attach("bob")
    registry.machine.gateway_lost("g0", 1.0)
    registry.answer_all()
    assert registry.machine._users == {}
    registry.attach("bob", issued_at=1.0)
    registry.deliver(message())
    registry.machine.receive(internal_frames.Revoke("bob", 5.0), 0.0)
    registry._collect()
    registry.answer_all()
    assert registry.machine._users == {}
