"""Pushes: they are repeated until acknowledged. Chatroom messages are sent once."""

from __future__ import annotations

from core.builders import AB, TEAM, Access, refused, state, summary

from imsim.core import events, frames, internal_frames
from imsim.core.model import Code, Scene

LOUNGE = "chatroom:lounge"


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_push_is_repeated_with_backoff_until_it_is_acknowledged(access):
    one = access.live()
    access.push(one)
    assert access.pushed() == [(1, 1, 1)]
    for attempt, wait in enumerate((2, 4, 8, 16), 2):
        access.advance(wait - 0.1)
        assert access.pushed() == []
        access.advance(0.1)
        assert access.pushed() == [(1, 1, attempt)]
        access.receive(frames.Ping())
        access.port.take()
    access.receive(frames.Delivered(AB, 1))
    access.advance(60)
    assert access.pushed() == []


def test_first_attempts_are_reported_only_if_the_shell_asks_for_them(access):
    access.machine._reports_all = False
    one = access.live()
    access.push(one)
    assert [type(arguments[-1]) for _, arguments in access.port.take()[-1:]] == [frames.Push]
    access.advance(2)
    assert access.pushed() == [(1, 1, 2)]


def test_the_backoff_has_an_upper_bound():
    access = Access(heartbeat_timeout=1e9, push_backoff=10.0)
    access.push(access.live())
    access.advance(2 + 20 + 60 * 5)
    assert [attempt for _, _, attempt in access.pushed()] == list(range(1, 9))


def test_pushes_continue_forever_to_a_device_that_pings_but_never_acknowledges():
    """A backoff computed as a power of the attempts would overflow."""
    access = Access(heartbeat_timeout=1e9, push_backoff=10.0)
    access.push(access.live())
    access.advance(60 * 500)
    assert access.pushed()[-1][2] > 490


def test_an_acknowledgement_covers_all_before_it_in_its_conversation_only(access):
    one = access.live()
    for seq in (1, 2, 3):
        access.push(one, seq=seq)
    access.push(one, seq=1, conversation_id=TEAM)
    access.receive(frames.Delivered(AB, 2))
    access.port.take()
    access.advance(2)
    assert access.pushed() == [(1, 3, 2), (1, 1, 2)]


def test_empty_and_repeated_acknowledgements_are_harmless(access):
    one = access.live()
    access.push(one, seq=2)
    access.port.take()
    for seq in (0, -1, 1):
        access.receive(frames.Delivered(AB, seq))
    access.advance(2)
    assert access.pushed() == [(1, 2, 2)]
    for _ in range(2):
        access.receive(frames.Delivered(AB, 2))
    access.receive(frames.Delivered("p2p:no:such", 7))
    access.advance(60)
    assert access.pushed() == []


def test_gateway_closes_the_connection_of_a_slow_reader_and_allows_a_reconnect():
    access = Access(send_queue=3)
    one = access.live()
    for seq in (1, 2, 3):
        access.push(one, seq=seq)
    access.port.take()
    access.push(one, seq=4)
    assert summary(access.port.take()) == [
        *refused(Code.SLOW_READER),
        ("to_router", "bob", internal_frames.Detach(one)),
    ]
    assert access.machine.next_deadline() is None


# --- states ---------------------------------------------------------------------------------------------------------


def states_sent(access):
    """Return the versions of the states sent, and clear the record."""
    return [frame.state.version for _, frame in access.sent() if isinstance(frame, frames.State)]


def send_state(access, one, version, conversation=AB):
    access.from_router(internal_frames.Down((one,), frames.State(state(version, conversation=conversation))))


def test_a_state_is_sent_until_it_is_acknowledged(access):
    one = access.live()
    send_state(access, one, 1)
    access.advance(2)
    access.advance(4)
    assert states_sent(access) == [1, 1, 1]
    access.receive(frames.StateAck(AB, 1))
    access.advance(60)
    assert states_sent(access) == []
    assert access.machine.unacknowledged == 0


def test_an_ack_of_an_older_version_does_not_count_and_a_newer_one_does(access):
    one = access.live()
    send_state(access, one, 5)
    access.receive(frames.StateAck(AB, 4))
    access.receive(frames.StateAck(TEAM, 5))
    access.advance(2)
    assert states_sent(access) == [5, 5]
    access.receive(frames.StateAck(AB, 6))
    access.advance(60)
    assert states_sent(access) == []
    assert access.machine.unacknowledged == 0


def test_a_newer_state_of_the_conversation_replaces_an_older_one(access):
    one = access.live()
    send_state(access, one, 1)
    send_state(access, one, 2, TEAM)
    send_state(access, one, 3)
    send_state(access, one, 2)  # late: version 3 was sent before
    assert states_sent(access) == [1, 2, 3]
    assert access.machine.unacknowledged == 2
    access.advance(2)
    assert states_sent(access) == [2, 3]
    access.receive(frames.StateAck(AB, 1))  # a late acknowledgement
    access.advance(4)
    assert states_sent(access) == [2, 3]


def test_states_count_towards_the_bound_of_the_queue():
    access = Access(send_queue=2)
    one = access.live()
    send_state(access, one, 1)
    access.push(one)
    send_state(access, one, 2)  # replaces version 1
    access.port.take()
    send_state(access, one, 3, TEAM)
    assert [frame.code for _, frame in access.sent() if isinstance(frame, frames.Refused)] == [Code.SLOW_READER]
    access.port.take()
    access.advance(60)
    assert states_sent(access) == []  # the end of the connection ends their repetition
    assert access.machine.next_deadline() is None


# --- notices --------------------------------------------------------------------------------------------------------


def notify(access, seq, *sessions, conversation=AB):
    access.from_router(internal_frames.Down(sessions, frames.Notify(conversation, seq)))


def notices(access):
    """Return (conversation, seq) of the notices sent, and clear the record."""
    return [(f.conversation_id, f.seq) for _, f in access.sent() if isinstance(f, frames.Notify)]


def test_a_notice_is_repeated_until_the_device_has_the_message(access):
    one = access.live()
    notify(access, 3, one)
    access.advance(2)
    assert notices(access) == [(AB, 3)] * 2
    access.receive(frames.Delivered(AB, 2))
    access.receive(frames.Delivered(TEAM, 9))
    access.receive(frames.StateAck(AB, 9))
    access.advance(4)
    assert notices(access) == [(AB, 3)]
    access.receive(frames.Delivered(AB, 4))
    access.advance(60)
    assert notices(access) == []
    assert access.machine.unacknowledged == 0


def test_only_the_latest_notice_of_a_conversation_is_repeated(access):
    one = access.live()
    notify(access, 1, one)
    notify(access, 2, one)
    notify(access, 1, one)  # arrives late
    notify(access, 2, one)  # arrives again
    notify(access, 1, one, conversation=TEAM)
    assert notices(access) == [(AB, 1), (AB, 2), (TEAM, 1)]
    access.advance(2)
    assert notices(access) == [(AB, 2), (TEAM, 1)]
    assert access.machine.unacknowledged == 2


def test_a_notice_emits_no_event(access):
    notify(access, 1, access.live())
    assert [method for method, _ in access.port.take()] == ["send"]


def test_notices_of_many_conversations_are_bounded_and_those_of_one_are_not():
    access = Access(send_queue=2)
    one = access.live()
    for seq in range(1, 10):
        notify(access, seq, one)
    notify(access, 1, one, conversation=TEAM)
    access.port.take()
    notify(access, 1, one, conversation="group:other")
    assert summary(access.port.take()) == [
        *refused(Code.SLOW_READER),
        ("to_router", "bob", internal_frames.Detach(one)),
    ]
    assert access.machine.next_deadline() is None


# --- resyncs --------------------------------------------------------------------------------------------------------


def resync(access, *sessions):
    access.from_router(internal_frames.Down(sessions, frames.Resync()))


def resyncs(access):
    return [(to, frame.number) for to, frame in access.sent() if isinstance(frame, frames.Resync)]


def test_a_resync_is_repeated_until_a_sync_has_its_number(access):
    one = access.live()
    resync(access, one)
    access.advance(2)
    assert resyncs(access) == [(1, 1), (1, 1)]
    access.receive(frames.Sync({}))  # was sent before the resync arrived, so it does not count
    assert access.port.take() == [("to_router", ("bob", internal_frames.Up(one, frames.Sync({}), "")))]
    access.advance(4)
    assert resyncs(access) == [(1, 1)]
    access.receive(frames.Sync({}, resync=1))
    access.port.take()
    access.advance(60)
    assert resyncs(access) == []
    assert access.machine.unacknowledged == 0


def test_a_later_resync_replaces_an_earlier_one(access):
    one = access.live()
    resync(access, one)
    resync(access, one)
    access.receive(frames.Sync({}, resync=1))
    access.advance(2)
    assert resyncs(access) == [(1, 1), (1, 2), (1, 2)]
    assert access.machine.unacknowledged == 1


def test_unacknowledged_frames_end_with_their_connection(access):
    one = access.live()
    resync(access, one)
    notify(access, 1, one)
    send_state(access, one, 1)
    access.push(one)
    access.machine.disconnected(1, 0.0)
    assert access.machine.next_deadline() is None


# --- messages of chatrooms ------------------------------------------------------------------------------------------


def test_room_messages_beyond_the_rate_of_a_connection_are_shed_and_counted():
    access = Access(room_rate=1.0, room_burst=2)
    one, other = access.live(1), access.live(2, "carol")
    for seq in (1, 2, 3):
        access.push(one, seq=seq, conversation_id=f"chatroom:{seq}", scene=Scene.CHATROOM)
    access.push(other, seq=3, conversation_id=LOUNGE, scene=Scene.CHATROOM)
    calls = access.port.take()
    sent = [(arguments[0], arguments[1].message.seq) for method, arguments in calls if method == "send"]
    assert sent == [(1, 1), (1, 2), (2, 3)]
    emitted = [arguments[0] for method, arguments in calls if method == "emit"]
    assert [(type(event), event.session, event.message.seq) for event in emitted] == [
        *((events.Pushed, one, seq) for seq in (1, 2)),
        (events.Shed, one, 3),
        (events.Pushed, other, 3),
    ]
    access.clock.now = 1.0
    access.push(one, seq=4, conversation_id=LOUNGE, scene=Scene.CHATROOM)
    assert access.pushed() == [(1, 4, 1)]
