"""The session of the MQTT adapter, by hand: the test gives it the packets of a broker."""

from __future__ import annotations

import itertools
import sys

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.exceptions import UsageError
from imsim.core.model import Code, Scene
from imsim.core.policies import Policies
from imsim.load.adapters import (
    Acked,
    Closed,
    Connect,
    Connected,
    Conversation,
    Delivered,
    Disconnect,
    Disconnected,
    Failed,
    Feature,
    Joined,
    Message,
    NotJoined,
    Offline,
    Out,
    Ready,
    Sent,
    Target,
    find,
)
from imsim.load.adapters.mqtt import MqttAdapter
from imsim.load.adapters.mqtt.session import MqttSession

URL = "ws://broker:8080/mqtt"
POLICIES = Policies(
    send_timeout=5, send_attempts=3, heartbeat=30, heartbeat_timeout=75, reconnect_min=1, reconnect_max=8
)
BOB = Conversation(Scene.P2P, "bob")
ALICE = Conversation(Scene.P2P, "alice")
TEAM = Conversation(Scene.GROUP, "team")
HALL = Conversation(Scene.CHATROOM, "hall")
QOS1 = mqtt5.QoS.AT_LEAST_ONCE
GRANTED = mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE
RESUMED = mqtt5.ConnAckPacket(session_present=True)


def adapter(key: str = "", **options: str) -> MqttAdapter:
    return MqttAdapter(Target(URL, key, "n", POLICIES, options, lambda number: lambda: 0.5))


def packets(outs: list[Out]) -> list[mqtt5.Packet]:
    """Return the packets in the frames of a session."""
    found = []
    for out in outs:
        rest = memoryview(out) if isinstance(out, bytes) else memoryview(b"")
        while rest:
            packet, length = mqtt5.read(rest)
            found.append(packet)
            rest = rest[length:]
    return found


def filters(outs: list[Out]) -> list[str]:
    """Return the topics that a session subscribes to."""
    subscribes = [packet for packet in packets(outs) if isinstance(packet, mqtt5.SubscribePacket)]
    return [one.pattern for packet in subscribes for one in packet.topic_filters]


def events(outs: list[Out]) -> list[Out]:
    return [out for out in outs if not isinstance(out, bytes)]


def subacks(outs: list[Out], code: mqtt5.SubAckReasonCode = GRANTED) -> bytes:
    """Return the answers to all SUBSCRIBEs."""
    subscribes = [packet for packet in packets(outs) if isinstance(packet, mqtt5.SubscribePacket)]
    return b"".join(mqtt5.SubAckPacket(packet.packet_id, [code]).write() for packet in subscribes)


def pubacks(outs: list[Out], code: str = "SUCCESS") -> bytes:
    """Return the answers to all PUBLISHes."""
    reason = getattr(mqtt5.PubAckReasonCode, code)
    publishes = [packet for packet in packets(outs) if isinstance(packet, mqtt5.PublishPacket)]
    return b"".join(mqtt5.PubAckPacket(packet.packet_id, reason_code=reason).write() for packet in publishes)


def publish(topic: str, text: str, id: int = 1) -> bytes:
    return mqtt5.PublishPacket(topic, text.encode(), qos=QOS1, packet_id=id).write()


def started(made_by: MqttAdapter | None = None) -> MqttSession:
    """Return a session of alice that connects at the time 0."""
    session = (made_by or adapter()).session(0, "alice", "phone")
    session.start(0.0)
    return session


def greet(session: MqttSession, connack: mqtt5.ConnAckPacket | None = None, now: float = 0.0) -> list[Out]:
    """Open the connection that the session has requested, and answer its CONNECT."""
    session.received(Connected("mqtt"), now)
    return session.received((connack or mqtt5.ConnAckPacket()).write(), now)


def online(made_by: MqttAdapter | None = None, connack: mqtt5.ConnAckPacket | None = None) -> MqttSession:
    """Return a session of alice that has logged in at the time 0."""
    session = started(made_by)
    assert events(session.received(subacks(greet(session, connack)), 0.0)) == [Ready()]
    return session


def send(session: MqttSession, id: str, conversation: Conversation = BOB, now: float = 1.0) -> list[Out]:
    return session.send(Message(id, conversation, "Hello, how are you?"), now)


# --- login -----------------------------------------------------------------------------------------------------------


def test_session_is_ready_after_login_and_subscriptions():
    session = adapter(key="secret").session(0, "alice", "phone")
    assert session.start(0.0) == [Connect(URL, ("mqtt",), timeout=10.0)]
    (connect,) = packets(session.received(Connected("mqtt"), 0.1))
    assert (connect.client_id, connect.clean_start, connect.keep_alive) == ("alice:phone", False, 30)
    assert (connect.username, connect.password, connect.session_expiry_interval) == ("alice", b"secret", 3600)
    requests = session.received(mqtt5.ConnAckPacket().write(), 0.2)
    assert filters(requests) == ["n/u/alice/+", "n/u/+/alice"]
    assert all(one.no_local and one.max_qos == QOS1 for packet in packets(requests) for one in packet.topic_filters)
    first, second = (mqtt5.SubAckPacket(packet.packet_id, [GRANTED]).write() for packet in packets(requests))
    assert session.received(first, 0.3) == []
    assert session.received(second, 0.3) == [Ready()]


def test_session_of_earlier_run_is_dropped():
    session = started()
    outs = session.received(Connected("mqtt"), 0.0)
    outs = session.received(RESUMED.write() + publish("n/u/alice/bob", "n:5 Hi"), 0.0)
    assert outs == [Disconnect(), Connect(URL, ("mqtt",), timeout=10.0)]
    (connect,) = packets(session.received(Connected("mqtt"), 0.0))
    assert connect.clean_start
    assert filters(session.received(mqtt5.ConnAckPacket().write(), 0.0)) == ["n/u/alice/+", "n/u/+/alice"]


def test_session_after_clean_start_is_invalid():
    session = started(adapter(qos="0"))
    _, closed = greet(session, RESUMED)
    assert isinstance(closed, Closed)
    assert closed.reason.endswith("CONNACK with a session, in answer to Clean Start")


def test_session_logs_in_without_credentials_if_there_is_no_key():
    (connect,) = packets(started().received(Connected("mqtt"), 0.0))
    assert (connect.username, connect.password) == (None, None)


def test_all_users_can_log_in_with_one_name():
    session = started(adapter(key="secret", username="load"))
    (connect,) = packets(session.received(Connected("mqtt"), 0.0))
    assert (connect.username, connect.password) == ("load", b"secret")


@pytest.mark.parametrize("code", ["BAD_USER_NAME_OR_PASSWORD", "NOT_AUTHORIZED", "BANNED", "CLIENT_ID_NOT_VALID"])
def test_final_refusal_of_login_closes_session(code):
    session = started()
    refusal = mqtt5.ConnAckPacket(reason_code=getattr(mqtt5.ConnAckReasonCode, code), reason_str="go away")
    reason = f"the broker refused the login: {code.lower().replace('_', ' ')} (go away)"
    assert greet(session, refusal) == [Disconnect(), Closed(reason)]
    assert session.next_deadline() is None


def test_refusal_by_busy_broker_is_retried():
    session = started()
    outs = greet(session, mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.SERVER_BUSY))
    assert outs == [Disconnect(), Offline("the broker refused the login: server busy")]
    assert session.next_deadline() == 0.5
    assert session.handle_timer(0.5) == [Connect(URL, ("mqtt",), timeout=10.0)]


def test_broker_without_mqtt_5_closes_session():
    session = started()
    session.received(Connected("mqtt"), 0.0)
    _, closed = session.received(b"\x20\x02\x00\x01", 0.0)  # CONNACK of MQTT 3.1.1: unacceptable protocol version
    assert isinstance(closed, Closed)
    assert "the broker must support MQTT 5" in closed.reason


def test_other_subprotocol_closes_session():
    reason = "the server does not offer the WebSocket subprotocol mqtt"
    assert started().received(Connected(None), 0.0) == [Disconnect(), Closed(reason)]


def test_broker_without_qos_1_closes_session():
    outs = greet(started(), mqtt5.ConnAckPacket(max_qos=mqtt5.QoS.AT_MOST_ONCE))
    assert outs == [Disconnect(), Closed("the broker does not support QoS 1; use the option qos=0")]


@pytest.mark.parametrize(("inputs", "request_"), [(0, "connection"), (1, "login"), (2, "subscription")])
def test_login_without_answer_is_retried(inputs, request_):
    session = started()
    for item in [Connected("mqtt"), mqtt5.ConnAckPacket().write()][:inputs]:
        session.received(item, 0.0)
    assert session.next_deadline() == 10.0
    assert session.handle_timer(10.0) == [Disconnect(), Offline(f"no answer to the {request_} in time")]
    assert session.next_deadline() == 10.5


def test_refused_subscription_to_own_topic_closes_session():
    session = started()
    outs = session.received(subacks(greet(session), mqtt5.SubAckReasonCode.NOT_AUTHORIZED), 0.0)
    reason = "the broker refused the subscription to n/u/alice/+: not authorized"
    assert outs == [Disconnect(), Closed(reason)]


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conversation", "topic"),
    [(BOB, "n/u/bob/alice"), (TEAM, "n/g/team"), (HALL, "n/c/hall")],
    ids=["p2p", "group", "room"],
)
def test_message_is_published_to_topic_of_conversation(conversation, topic):
    session = online()
    outs = send(session, "n:1", conversation)
    (packet,) = packets(outs)
    assert (packet.topic, packet.qos, packet.duplicate, packet.retain) == (topic, QOS1, False, False)
    assert packet.payload == b"n:1 Hello, how are you?"
    assert session.received(pubacks(outs), 1.1) == [Acked("n:1")]
    assert session.received(pubacks(outs), 1.2) == []


def test_message_without_subscribers_is_acked():
    session = online()
    assert session.received(pubacks(send(session, "n:1"), "NO_MATCHING_SUBSCRIBERS"), 1.0) == [Acked("n:1")]


@pytest.mark.parametrize(
    ("reason", "code"),
    [("NOT_AUTHORIZED", Code.FORBIDDEN), ("IMPLEMENTATION_SPECIFIC_ERROR", "implementation_specific_error")],
)
def test_refused_message_fails(reason, code):
    session = online()
    answer = pubacks(send(session, "n:1"), reason)
    assert session.received(answer, 1.0) == [Failed("n:1", code, reason.lower().replace("_", " "))]


def test_deliveries_are_reported_and_acknowledged():
    session = online()
    session.received(subacks(session.join(TEAM, ["alice", "bob"], True, 0.0)), 0.0)
    data = publish("n/u/alice/bob", "n:5 Hi", 7) + publish("n/g/team", "n:6 Hi", 8) + publish("else", "x", 9)
    *delivered, acks = session.received(data, 2.0)
    assert delivered == [Delivered("n:5", ALICE), Delivered("n:6", TEAM), Delivered("x", None)]
    assert [packet.packet_id for packet in packets([acks])] == [7, 8, 9]


def test_message_of_other_device_of_user_is_delivered_as_its_sender_addressed_it():
    assert events(online().received(publish("n/u/bob/alice", "n:5 Hi"), 2.0)) == [Delivered("n:5", BOB)]


def test_messages_beyond_receive_maximum_wait():
    session = online(connack=mqtt5.ConnAckPacket(receive_max=2))
    first, second = send(session, "n:1"), send(session, "n:2")
    assert send(session, "n:3") == send(session, "n:4") == []
    acked, sent, frame = session.received(pubacks(first), 2.0)
    assert (acked, sent) == (Acked("n:1"), Sent("n:3"))
    assert [packet.payload[:3] for packet in packets([frame])] == [b"n:3"]
    assert events(session.received(pubacks([*second, frame]), 3.0)) == [Acked("n:2"), Acked("n:3"), Sent("n:4")]


def test_message_larger_than_broker_accepts_fails():
    session = online(connack=mqtt5.ConnAckPacket(max_packet_size=60))
    assert packets(send(session, "n:1"))
    too_large = Failed("n:2", Code.TOO_LARGE, "the broker accepts packets of 60 bytes")
    assert session.send(Message("n:2", BOB, "x" * 60), 1.0) == [too_large]


def test_messages_wait_for_login():
    session = adapter().session(0, "alice", "phone")
    assert send(session, "n:1") == []
    session.start(0.0)
    assert send(session, "n:2") == []
    outs = session.received(subacks(greet(session)), 0.0)
    assert events(outs) == [Ready(), Sent("n:1"), Sent("n:2")]
    assert [packet.payload[:3] for packet in packets(outs)] == [b"n:1", b"n:2"]


def test_qos_0_publishes_without_ack_and_session():
    session = online(adapter(qos="0"))
    (packet,) = packets(send(session, "n:1"))
    assert (packet.qos, packet.packet_id) == (mqtt5.QoS.AT_MOST_ONCE, None)
    data = mqtt5.PublishPacket("n/u/alice/bob", b"n:5 Hi").write()
    assert session.received(data, 1.0) == [Delivered("n:5", ALICE)]
    session.received(Disconnected("gone"), 2.0)
    session.handle_timer(9.0)
    (connect,) = packets(session.received(Connected("mqtt"), 9.0))
    assert (connect.clean_start, connect.session_expiry_interval) == (True, 0)


def test_ids_of_packets_start_again_and_skip_those_in_use():
    session = online()
    assert packets(send(session, "n:1"))[0].packet_id == 3  # after two SUBSCRIBEs
    session._last_id = 0xFFFE  # instead of 65,000 messages
    assert [packets(send(session, "n:x"))[0].packet_id for _ in range(4)] == [0xFFFF, 1, 2, 4]


# --- groups ----------------------------------------------------------------------------------------------------------


def test_join_subscribes_once():
    session = online()
    outs = session.join(TEAM, ["alice", "bob"], True, 1.0)
    assert filters(outs) == ["n/g/team"]
    assert packets(outs)[0].topic_filters[0].no_local
    assert session.join(TEAM, ["alice", "bob"], True, 1.0) == []  # the answer is still missing
    assert session.received(subacks(outs), 1.1) == [Joined(TEAM)]
    assert session.join(TEAM, ["alice", "bob"], True, 1.2) == [Joined(TEAM)]
    assert session.join(BOB, ["alice", "bob"], True, 1.3) == [Joined(BOB)]


def test_join_of_offline_device_subscribes_at_login():
    session = adapter().session(0, "alice", "phone")
    assert session.join(HALL, [], False, 0.0) == []
    session.start(0.0)
    assert session.received(subacks(greet(session)), 0.0) == [Joined(HALL), Ready()]


def test_refused_join_is_reported():
    session = online()
    answer = subacks(session.join(TEAM, ["alice"], True, 1.0), mqtt5.SubAckReasonCode.QUOTA_EXCEEDED)
    reason = "the broker refused the subscription to n/g/team: quota exceeded"
    assert session.received(answer, 1.0) == [NotJoined(TEAM, reason)]


def test_join_without_answer_reconnects_and_subscribes_again():
    session = online()
    session.join(TEAM, ["alice"], True, 1.0)
    send(session, "n:1", now=10.0)
    assert session.next_deadline() == 11.0
    assert session.handle_timer(11.0) == [Disconnect(), Offline("no answer to the subscription in time")]
    session.handle_timer(11.5)
    outs = greet(session, RESUMED, 11.5)
    assert filters(outs) == ["n/g/team"]
    outs = session.received(subacks(outs), 11.6)
    assert events(outs) == [Joined(TEAM), Ready(), Sent("n:1")]
    assert packets(outs)[0].duplicate


# --- the connection --------------------------------------------------------------------------------------------------


def test_session_resumes_and_resends_with_dup():
    session = online()
    first, second = packets(send(session, "n:1") + send(session, "n:2"))
    session.received(pubacks([first.write()]), 1.5)
    assert session.received(Disconnected("reset"), 2.0) == [Offline("reset")]
    assert send(session, "n:3", now=2.1) == []
    assert session.next_deadline() == 2.5
    assert session.handle_timer(2.5) == [Connect(URL, ("mqtt",), timeout=10.0)]
    (connect,) = packets(session.received(Connected("mqtt"), 2.6))
    assert not connect.clean_start
    outs = session.received(RESUMED.write(), 2.7)
    assert events(outs) == [Ready(), Sent("n:2"), Sent("n:3")]
    again, third = packets(outs)
    assert (again.packet_id, again.payload, again.duplicate) == (second.packet_id, second.payload, True)
    assert (third.payload[:3], third.duplicate) == (b"n:3", False)
    assert third.packet_id != again.packet_id


def test_session_that_broker_lost_is_made_again():
    session = online()
    session.received(subacks(session.join(TEAM, ["alice"], True, 0.0)), 0.0)
    send(session, "n:1")
    session.received(Disconnected("reset"), 2.0)
    session.handle_timer(2.5)
    outs = greet(session, now=2.5)
    assert filters(outs) == ["n/u/alice/+", "n/u/+/alice", "n/g/team"]
    outs = session.received(subacks(outs), 2.6)
    assert events(outs) == [Ready(), Sent("n:1")]
    assert not packets(outs)[0].duplicate


def test_backoff_doubles_and_ends_after_long_connection():
    session = online()
    pauses = []
    now = 1.0
    for _ in range(5):
        session.received(Disconnected("reset"), now)
        pauses.append(session.next_deadline() - now)
        now = session.next_deadline()
        session.handle_timer(now)
    greet(session, RESUMED, now)
    session.received(Disconnected("reset"), now + 8.0)
    pauses.append(session.next_deadline() - now - 8.0)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 4.0, 0.5]


def test_overdue_message_on_silent_connection_is_resent_on_next_connection():
    session = online()
    send(session, "n:1")
    assert session.next_deadline() == 6.0
    assert session.handle_timer(5.9) == []
    assert session.handle_timer(6.0) == [Disconnect(), Offline("the broker was silent after a message")]
    session.handle_timer(6.5)
    assert events(greet(session, RESUMED, 6.5)) == [Ready(), Sent("n:1")]
    assert session.next_deadline() == 6.5 + 8.0


def test_message_without_answer_fails_after_all_attempts():
    session = online()
    send(session, "n:1")
    for _ in range(2):
        session.handle_timer(session.next_deadline())
        session.handle_timer(now := session.next_deadline())
        assert events(greet(session, RESUMED, now)) == [Ready(), Sent("n:1")]
    assert session.handle_timer(session.next_deadline()) == [
        Failed("n:1", Code.TIMEOUT, "no PUBACK after 3 attempts"),
        Disconnect(),
        Offline("the broker did not acknowledge a message"),
    ]


def test_message_whose_last_attempt_lost_its_connection_fails_at_login():
    session = online()
    send(session, "n:1")
    for _ in range(2):
        session.received(Disconnected("reset"), 2.0)
        session.handle_timer(now := session.next_deadline())
        assert events(greet(session, RESUMED, now)) == [Ready(), Sent("n:1")]
    session.received(Disconnected("reset"), 9.0)
    session.handle_timer(now := session.next_deadline())
    assert greet(session, RESUMED, now) == [Ready(), Failed("n:1", Code.TIMEOUT, "no PUBACK after 3 attempts")]


def test_message_is_not_resent_to_slow_broker():
    session = online()
    outs = send(session, "n:1")
    session.received(publish("n/u/alice/bob", "n:5 Hi"), 2.0)
    assert session.handle_timer(6.0) == []
    assert session.next_deadline() == 14.0
    assert session.received(pubacks(outs), 13.0) == [Acked("n:1")]


def test_slow_broker_that_never_answers_fails_message():
    session = online()
    send(session, "n:1")
    session.received(publish("n/u/alice/bob", "n:5 Hi"), 2.0)
    for deadline in (6.0, 14.0):
        assert session.handle_timer(deadline) == []
    assert session.handle_timer(22.0)[0] == Failed("n:1", Code.TIMEOUT, "no PUBACK after 3 attempts")


def test_silence_is_followed_by_pings():
    session = online()
    pings = []
    while (now := session.next_deadline()) < 200:
        if sent := packets(session.handle_timer(now)):
            assert isinstance(sent[0], mqtt5.PingReqPacket)
            pings.append(now)
        session.received(mqtt5.PingRespPacket().write(), now)
    assert pings == [30.0, 60.0, 90.0, 120.0, 150.0, 180.0]


def test_traffic_delays_ping():
    session = online()
    session.received(pubacks(send(session, "n:1", now=20.0)), 20.0)
    while not (outs := session.handle_timer(now := session.next_deadline())):
        pass
    assert now == 50.0
    assert isinstance(packets(outs)[0], mqtt5.PingReqPacket)


def test_connection_with_silent_broker_ends():
    session = online()
    outs: list[Out] = []
    times = []
    while not any(isinstance(out, Offline) for out in outs):
        times.append(session.next_deadline())
        outs = session.handle_timer(times[-1])
    assert times == [30.0, 60.0, 75.0]
    assert outs == [Disconnect(), Offline("the broker was silent for 75.0 s")]


def test_keepalive_of_option_or_broker_is_used():
    assert online(adapter(keepalive="9")).next_deadline() == 9.0
    assert online(connack=mqtt5.ConnAckPacket(server_keep_alive=7)).next_deadline() == 7.0
    assert online(connack=mqtt5.ConnAckPacket(server_keep_alive=0)).next_deadline() is None


@pytest.mark.parametrize(
    ("code", "is_final"), [("SERVER_SHUTTING_DOWN", False), ("SESSION_TAKEN_OVER", True), ("NOT_AUTHORIZED", True)]
)
def test_disconnect_of_broker(code, is_final):
    session = online()
    reason = getattr(mqtt5.DisconnectReasonCode, code)
    text = f"the broker ended the connection: {code.lower().replace('_', ' ')}"
    expected = [Disconnect(), Closed(text) if is_final else Offline(text)]
    assert session.received(mqtt5.DisconnectPacket(reason_code=reason).write(), 1.0) == expected
    assert (session.next_deadline() is None) == is_final


def test_stop_logs_out_and_start_resumes():
    session = online()
    send(session, "n:1")
    goodbye, disconnect = session.stop(2.0)
    assert isinstance(packets([goodbye])[0], mqtt5.DisconnectPacket)
    assert disconnect == Disconnect()
    assert session.next_deadline() is None
    assert session.stop(2.0) == []
    assert session.received(b"anything", 2.0) == []
    assert session.start(3.0) == [Connect(URL, ("mqtt",), timeout=10.0)]
    assert session.start(3.0) == []
    assert events(greet(session, RESUMED, 3.0)) == [Ready(), Sent("n:1")]


def test_stop_ends_attempt_to_connect():
    session = started()
    assert session.stop(1.0) == [Disconnect()]
    assert session.next_deadline() is None


# --- the stream of bytes ---------------------------------------------------------------------------------------------


def stream() -> bytes:
    """Return all that a broker sends to alice in a short run."""
    login = b"".join(mqtt5.SubAckPacket(id, [GRANTED]).write() for id in (1, 2))
    messages = b"".join(publish("n/u/alice/bob", f"n:{number} {'x' * 50 * number}", number) for number in range(1, 6))
    return mqtt5.ConnAckPacket(receive_max=20).write() + login + messages + mqtt5.PingRespPacket().write()


@given(cuts=st.lists(st.integers(0, len(stream())), max_size=30))
def test_frames_may_end_anywhere(cuts):
    borders = [0, *sorted(cuts), len(stream())]
    session = started()
    session.received(Connected("mqtt"), 0.0)
    outs: list[Out] = []
    for begin, end in itertools.pairwise(borders):
        outs += session.received(stream()[begin:end], 0.0)
    assert events(outs) == [Ready(), *(Delivered(f"n:{number}", ALICE) for number in range(1, 6))]
    acks = [packet.packet_id for packet in packets(outs) if isinstance(packet, mqtt5.PubAckPacket)]
    assert acks == [1, 2, 3, 4, 5]


# mqtt5 panics for a text that is not UTF-8: it prints a backtrace, and Python reports an exception without a handler.
panics = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@panics
@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff\xff\xff",
        b"\x00\x00",
        b"\x30\x05\x00\x03\x03!\xff",  # a topic that is not UTF-8
        b"\x40\x01\x00",
        mqtt5.ConnAckPacket().write(),  # at the wrong time
        mqtt5.ConnectPacket("x").write(),
        mqtt5.SubAckPacket(99, [GRANTED]).write(),
        b"\x30\xff\xff\xff\x7f" + bytes((1 << 24) + 1),  # a packet of 256 MiB
    ],
    ids=lambda garbage: garbage[:12].hex(),
)
def test_garbage_closes_session(garbage):
    session = online()
    *_, disconnect, closed = session.received(garbage, 1.0)
    assert disconnect == Disconnect()
    assert isinstance(closed, Closed)
    assert closed.reason.startswith("the server sent something that is not valid MQTT 5: ")
    assert session.next_deadline() is None
    assert session.received(garbage, 1.0) == []


@panics
@given(data=st.binary(max_size=60), is_online=st.booleans())
def test_session_raises_for_no_bytes(data, is_online):
    session = online()
    if not is_online:
        session.received(Disconnected("reset"), 1.0)
        session.handle_timer(9.0)
        session.received(Connected("mqtt"), 9.0)
    session.received(data, 9.0)


# --- the adapter -----------------------------------------------------------------------------------------------------


def test_features_depend_on_options():
    every = {Feature.ACK, Feature.GROUPS, Feature.CHATROOMS, Feature.OWN_DEVICES, Feature.RESUME}
    assert MqttAdapter.features == adapter().features == every
    assert adapter(qos="0").features == every - {Feature.ACK, Feature.RESUME}
    assert adapter(p2p_topic="chat/{to}").features == every - {Feature.OWN_DEVICES}


def test_topics_follow_patterns():
    session = started(adapter(p2p_topic="chat/{to}", group_topic="rooms/{group}/all"))
    outs = greet(session)
    assert filters(outs) == ["chat/alice"]
    session.received(subacks(outs), 0.0)
    topics = [packets(send(session, "n:1", conversation))[0].topic for conversation in (BOB, TEAM)]
    assert topics == ["chat/bob", "rooms/team/all"]
    assert events(session.received(publish("chat/alice", "n:2"), 1.0)) == [Delivered("n:2", ALICE)]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"qos": "2"}, r"option qos: must be a whole number from 0 to 1 \(got '2'\)"),
        ({"keepalive": "0"}, r"option keepalive: must be a whole number from 1 to 65535 \(got '0'\)"),
        ({"session_expiry": "x"}, r"option session_expiry: must be a whole number"),
        ({"p2p_topic": "all"}, r"option p2p_topic: must contain {to} once \(got 'all'\)"),
        ({"p2p_topic": "{to}/{to}"}, r"option p2p_topic: must contain {to} once"),
        ({"p2p_topic": "x{to}/{from}"}, r"option p2p_topic: {to} and {from} must each be between slashes"),
        ({"group_topic": "{group}/{to}"}, r"option group_topic: can contain only the fields {group}, {namespace}"),
        ({"room_topic": "{room"}, r"option room_topic: can contain only the fields {room}, {namespace}"),
        ({"group_topic": "{group}/#"}, r"option group_topic: must not contain the wildcards \+ and #"),
        ({"retain": "1"}, r"option retain: unknown name"),
    ],
)
def test_wrong_option_is_refused(options, error):
    with pytest.raises(UsageError, match=error):
        adapter(**options)


@pytest.mark.parametrize("url", ["mqtt://broker:1883", "tcp://broker:1883", "broker", "ws://"])
def test_url_must_be_websocket(url):
    with pytest.raises(UsageError, match=r"url: must be ws:// or wss://, the broker's WebSocket listener \(got "):
        MqttAdapter(Target(url))


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mqtt5", None)
    monkeypatch.delitem(sys.modules, "imsim.load.adapters.mqtt")
    with pytest.raises(UsageError, match=r"^adapter: mqtt needs the package mqtt5; run `pip install 'imsim\[mqtt\]'`$"):
        find("mqtt")
