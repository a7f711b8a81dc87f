"""Sessions and logins, delivery to devices, syncs and ranges, revocations."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Registry, done, failed, message, open_log, same, state, up

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.router.users import _WAITING
from imsim.core.storage.memory import MemoryStorage

# --- sessions -------------------------------------------------------------------------------------------------------


def test_second_login_of_a_device_replaces_the_first_session(registry):
    old = registry.login("bob", "d0", gateway="g0", connection=1)
    registry.sent.clear()
    new = registry.login("bob", "d0", gateway="g1", connection=1)
    assert registry.sent == [
        ("g0", internal_frames.Kick(old, Code.REPLACED)),
        ("g1", internal_frames.Attached(1, new)),
    ]
    registry.take()
    registry.deliver(message(2))
    assert [to for to, _ in registry.take(frames.Push)] == [new]


def test_two_logins_of_a_device_while_its_user_is_being_opened_are_answered_in_order(registry):
    registry.attach("bob", connection=1)
    registry.attach("bob", connection=2)
    assert len(registry.asked) == 1
    registry.answer()
    kinds = [type(frame) for _, frame in registry.sent]
    assert kinds == [internal_frames.Attached, internal_frames.Kick, internal_frames.Attached]
    assert registry.sent[2][1].session.epoch > registry.sent[0][1].session.epoch


def test_user_without_sessions_is_forgotten(registry):
    one, other = registry.login("bob", "d0"), registry.login("bob", "d1", connection=2)
    registry.receive(internal_frames.Detach(one))
    assert "bob" in registry.machine._users
    registry.receive(internal_frames.Detach(other))
    assert registry.machine._users == {}
    assert registry.machine.timers.next_deadline() is None


def test_device_that_logged_out_is_forgotten_while_its_user_is_online(registry):
    """A browser may be a new device at each login, so remembered devices would fill the memory."""
    registry.login("bob")
    for connection in range(2, 5):
        registry.receive(internal_frames.Detach(registry.login("bob", f"web-{connection}", connection=connection)))
    bob = registry.machine._users["bob"]
    assert [session.device for session in bob.sessions] == ["d0"]


def test_frames_of_a_replaced_session_are_ignored(registry):
    old = registry.login("bob", connection=1)
    registry.login("bob", connection=2)
    registry.take()
    registry.ask(old, frames.Read(AB, 1))
    registry.ask(old, frames.Sync({}))
    assert not registry.asked
    assert registry.sent == []


# --- a login that overtakes another ---------------------------------------------------------------------------------


def attach(registry, connection, instance, attempt):
    registry.take()
    registry.attach("bob", connection=connection, instance=instance, attempt=attempt)
    return [(type(frame), getattr(frame, "code", None)) for frame in registry.take()]


IN = (internal_frames.Attached, None)


OUT = (internal_frames.Kick, Code.REPLACED)


LATE = (internal_frames.Attached, Code.REPLACED)


def test_only_an_earlier_attempt_of_the_same_instance_is_late(registry):
    registry.attach("bob", connection=1, instance="x", attempt=5)
    registry.answer_all()
    assert attach(registry, 2, "x", 5) == [OUT, IN]
    assert attach(registry, 3, "x", 6) == [OUT, IN]
    assert attach(registry, 4, "x", 5) == [LATE]
    assert attach(registry, 5, "y", 1) == [OUT, IN]  # another instance of the client, started later
    assert attach(registry, 6, "x", 9) == [OUT, IN]
    assert attach(registry, 7, "y", 1) == [OUT, IN]  # the earlier login of y is forgotten, so the last login wins
    assert attach(registry, 8, "", 0) == [OUT, IN]  # a client without an instance
    assert attach(registry, 9, "", 0) == [OUT, IN]
    assert attach(registry, 9, "", -1) == [OUT, IN]


# --- opening a user -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["failed", "silent"])
def test_login_without_an_answer_of_storage_is_refused_and_a_later_one_succeeds(registry, how):
    registry.attach("bob", "d0", connection=1)
    registry.attach("bob", "d1", connection=2)
    if how == "failed":
        registry.answer(result=failed)
    else:
        registry.asked.clear()
        registry.advance(registry.policies.storage_timeout)
    assert [(f.connection, f.session, f.code) for _, f in registry.sent] == [
        (1, None, Code.UNAVAILABLE),
        (2, None, Code.UNAVAILABLE),
    ]
    registry.sent.clear()
    assert registry.login("bob", connection=3).connection == 3
    assert registry.machine.timers.next_deadline() is None


def test_answer_to_an_abandoned_opening_is_ignored(registry):
    registry.attach("bob", connection=1)
    late = registry.asked.popleft()
    registry.advance(10)
    registry.attach("bob", connection=2)
    registry.sent.clear()
    registry.stored(late, registry.storage.execute(late))
    registry._collect()
    assert registry.sent == []
    registry.answer()
    assert [frame.connection for _, frame in registry.sent] == [2]


def test_message_for_a_user_who_is_being_opened_is_pushed_afterwards(registry):
    registry.attach("bob")
    registry.deliver(message(2))
    assert registry.sent == []
    registry.answer()
    assert registry.pushes() == [("bob", "d0", 2)]


def test_requests_that_wait_for_an_opening_are_bounded(registry):
    registry.attach("bob", connection=1)
    for _ in range(_WAITING):
        registry.deliver(message(2), users=("bob",))
    registry.attach("bob", connection=2)
    assert registry.sent == [("g0", internal_frames.Attached(2, None, Code.UNAVAILABLE))]
    registry.sent.clear()
    registry.answer()
    assert len(registry.pushes()) == _WAITING - 1  # the login's sync delivers the others


# --- delivery -------------------------------------------------------------------------------------------------------


def test_newer_session_of_the_sending_device_gets_the_message_too(registry):
    """It may be another instance, without the data of the one that sent the message."""
    old = registry.login("alice", "d0", connection=1)
    registry.login("alice", "d0", connection=2)
    registry.take()
    registry.deliver(message(2), old)
    assert registry.pushes() == [("alice", "d0", 2)]


def test_message_is_sent_once_to_each_gateway(registry):
    users = [f"u{number}" for number in range(6)]
    for number, user in enumerate(users):
        registry.login(user, gateway=f"g{number % 2}", connection=number)
    registry.sent.clear()
    registry.deliver(message(1, conversation_id=TEAM, sender="x"), users=users)
    assert [(gateway, [s.user for s in down.sessions]) for gateway, down in registry.sent] == [
        ("g0", ["u0", "u2", "u4"]),
        ("g1", ["u1", "u3", "u5"]),
    ]
    assert registry.sent[0][1].frame is registry.sent[1][1].frame  # encoded once for all


# --- unread and marks -----------------------------------------------------------------------------------------------


def test_read_count_is_requested_from_storage(registry):
    one = registry.login("bob")
    registry.take()
    registry.ask(one, frames.ReadCount(AB, 1))
    registry.ask(one, frames.ReadCount(AB, 2))
    registry.ask(one, frames.ReadCount(AB, 1))
    registry.answer()
    registry.answer()
    registry.answer(result=failed)
    counted, unknown, late = (frame for _, frame in registry.take())
    assert counted == frames.ReadCounted(AB, 1, 0, 1)
    assert (unknown.request, unknown.ref, unknown.code) == ("read_count", f"{AB}:2", Code.NO_CONVERSATION)
    assert (late.ref, late.code) == (f"{AB}:1", Code.UNAVAILABLE)


# --- history --------------------------------------------------------------------------------------------------------


def test_range_is_requested_from_storage_with_the_page_limit():
    store = MemoryStorage()
    open_log(store, "alice", "alice", "alice")
    registry = Registry(store, Policies(page=2))
    one, other = registry.login("bob"), registry.login("bob", "d1", connection=2)
    registry.take()
    asked = up(one, frames.History(AB, 1, 3))
    registry.receive(asked)
    assert same(registry.asked, storage.Range("bob", AB, 1, 3, 2, asked, registry.policies.page_bytes))
    registry.answer()
    registry.ask(other, frames.History(AB, 1, 1))
    registry.answer()
    assert registry.take() == [
        (one, frames.HistoryPage(AB, 1, 3, [message(2), message(3)], True)),
        (other, frames.HistoryPage(AB, 1, 1, [message(1)], False)),
    ]


def test_range_that_storage_does_not_return_is_refused(registry):
    one = registry.login("bob")
    registry.take()
    registry.ask(one, frames.History(TEAM, 1, 3))
    registry.answer()
    registry.ask(one, frames.History(AB, 1, 3))
    registry.answer(result=failed)
    refusals = [(to, f.request, f.ref, f.code) for to, f in registry.take()]
    assert refusals == [
        (one, "history", f"{TEAM}:1-3", Code.NO_CONVERSATION),
        (one, "history", f"{AB}:1-3", Code.UNAVAILABLE),
    ]


def test_range_is_answered_to_the_session_that_requested_it_even_after_its_end(registry):
    one = registry.login("bob")
    registry.ask(one, frames.History(AB, 1, 1))
    registry.receive(internal_frames.Detach(one))
    registry.attach("bob", connection=2)  # the user is being opened again
    registry.take()
    registry.answer()
    assert registry.take() == [(one, frames.HistoryPage(AB, 1, 1, [message(1)]))]  # its gateway drops this
    assert registry.machine._users["bob"].states == {}  # the states come from the opening


# --- login sync -----------------------------------------------------------------------------------------------------


def test_sync_requests_missed_messages_from_storage(registry):
    one = registry.login("bob")
    registry.deliver(message(5))
    registry.ask(one, frames.Sync({AB: 5}, 7, 8, 9, 10, 11))
    page, page_bytes = registry.policies.page, registry.policies.page_bytes
    assert same(registry.asked, storage.Missed(one, {AB: 5}, page, 7, 8, 9, 11, page_bytes=page_bytes))


def test_cursor_beyond_the_known_log_is_checked_by_storage(registry):
    one = registry.login("bob")
    open_log(registry.storage, "alice")  # this machine did not receive the message
    for cursors, doubted, answer in (({AB: 1}, False, frames.SyncDone), ({AB: 2}, True, frames.SyncDone)):
        registry.ask(one, frames.Sync(cursors))
        assert registry.asked[0].doubted == doubted
        registry.answer()
        assert len(registry.take(answer)) == 1
    for cursors in ({AB: 3}, {AB: 2, TEAM: 1}):
        registry.ask(one, frames.Sync(cursors, number=4))
        registry.answer()
        ((_, refusal),) = registry.take(frames.Rejected)
        assert (refusal.request, refusal.code, refusal.number) == ("sync", Code.AHEAD, 4)


def test_login_gets_the_name_of_the_stored_data():
    registry = Registry(MemoryStorage(log="the log"))
    registry.attach("bob")
    registry.answer()
    assert registry.sent[-1][1].log == "the log"


@pytest.mark.parametrize("fanout", ["read", "write"])
def test_last_page_has_the_states(fanout):
    store = MemoryStorage(fanout)
    open_log(store, "alice", "alice", "alice")
    registry = Registry(store, Policies(page=2))
    one = registry.login("bob")
    registry.take()
    inbox = 2 if fanout == "write" else 0
    (page,) = registry.sync(one, number=4)
    assert page == frames.Page([message(1), message(2)], {AB: 2}, inbox, 4)
    (last,) = registry.sync(one, page.cursors, number=5)
    inbox = 3 if fanout == "write" else 0
    assert last == frames.SyncDone([message(3)], {AB: 3}, [state(0, 0, 3)], 0, inbox, 5)


def test_sync_that_storage_cannot_answer_is_refused(registry):
    one = registry.login("bob")
    registry.take()
    registry.ask(one, frames.Sync({}, number=6))
    registry.answer(result=failed)
    ((to, frame),) = registry.take()
    assert (to, frame.request, frame.ref, frame.code, frame.number) == (one, "sync", "", Code.UNAVAILABLE, 6)


def test_page_for_a_replaced_session_is_dropped(registry):
    one = registry.login("bob", connection=1)
    registry.ask(one, frames.Sync({}))
    late = registry.asked.popleft()
    registry.login("bob", connection=2)
    registry.take()
    registry.stored(late, registry.storage.execute(late))
    registry._collect()
    assert registry.sent == []


def test_lost_gateway_ends_its_sessions(registry):
    here = registry.login("bob", "d0", gateway="g1", connection=1)
    there = registry.login("bob", "d1", gateway="g2", connection=2)
    registry.machine.gateway_lost("g1", 0.0)
    registry.deliver(message(2))
    assert [to for to, _ in registry.take(frames.Push)] == [there]
    registry.machine.gateway_lost("g2", 0.0)
    registry.ask(here, frames.Read(AB, 1))
    assert not registry.asked


def test_waiting_login_survives_the_loss_of_another_gateway(registry):
    registry.attach("bob", "d0", gateway="g1", connection=1)
    registry.attach("bob", "d1", gateway="g2", connection=2)
    registry.machine.gateway_lost("g1", 0.0)
    registry.answer_all()
    assert [frame.connection for frame in registry.take(internal_frames.Attached)] == [2]


def test_every_device_syncs_when_a_router_is_back(registry):
    sessions = {registry.login("bob", "d0", connection=1), registry.login("carol", "d0", connection=2)}
    registry.take()
    registry.machine.router_back(registry.clock.now)
    registry._collect()
    assert {to for to, _ in registry.take(frames.Resync)} == sessions


def test_revocation_that_storage_failed_to_save_is_repeated(registry):
    registry.revoke("bob", 5.0)
    registry.answer(result=lambda request: storage.Failed("full"))
    assert list(registry.asked) == []
    registry.advance(registry.policies.storage_timeout)
    registry.answer_all()
    assert registry.storage.execute(storage.OpenUser("bob")).revoked_before == 5.0


def test_unsaved_revocation_is_kept_while_the_user_is_offline(registry):
    registry.revoke("bob", 5.0)
    registry.answer(result=lambda request: storage.Failed("full"))
    registry.attach("bob", issued_at=1.0)
    registry.answer_all()
    assert [frame.code for frame in registry.take(internal_frames.Attached)] == [Code.TOKEN_REVOKED]
    registry.advance(registry.policies.storage_timeout)
    registry.answer_all()
    assert registry.machine._revoking == {}


# --- former members, forgotten users ----------------------------------------------------------------------------------


def test_former_member_can_read_the_history_of_the_membership(registry):
    state = registry.storage.execute(storage.OpenConversation(TEAM, ("alice", "bob")))
    for seq, left in ((1, ()), (2, ("bob",)), (3, ())):
        one = message(seq, conversation_id=TEAM)
        registry.storage.execute(storage.Append(state.epoch, one, 0, storage.Effects(left=left)))
    bob = registry.login("bob")
    assert registry.unread(bob, TEAM) == (0, 0)
    for frame in (frames.History(TEAM, 1, 9), frames.ReadCount(TEAM, 3), frames.Read(TEAM, 2, 1)):
        registry.ask(bob, frame)
    registry.ask(bob, frames.SetConversation(TEAM, pinned=True, number=2))
    registry.answer_all()
    sent = [frame for _, frame in registry.take() if not isinstance(frame, frames.State)]
    assert [one.seq for one in sent[0].messages] == [1, 2]
    assert sent[1].code == Code.NO_CONVERSATION
    assert sent[2:] == [done("read", TEAM, 1), done("set_conversation", TEAM, 2)]


def test_revocation_without_an_answer_is_repeated(registry):
    registry.revoke("bob", 5.0)
    registry.asked.clear()
    registry.advance(registry.policies.storage_timeout)
    registry.answer_all()
    assert registry.storage.execute(storage.OpenUser("bob")).revoked_before == 5.0
    registry.advance(3 * registry.policies.storage_timeout)
    assert (list(registry.asked), registry.machine.timers.next_deadline()) == ([], None)


def test_user_opened_without_a_session_is_forgotten(registry):
    registry.attach("bob")
    registry.machine.gateway_lost("g0", 1.0)
    registry.answer_all()
    assert registry.machine._users == {}
    registry.attach("bob", issued_at=1.0)
    registry.deliver(message())
    registry.revoke("bob", 5.0)
    registry.answer_all()
    assert registry.machine._users == {}


def test_epochs_grow_across_log_outs(registry):
    first = registry.login("bob")
    registry.receive(internal_frames.Detach(first))
    assert registry.login("bob").epoch > first.epoch
