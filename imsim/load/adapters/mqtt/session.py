"""The session of a device with an MQTT broker."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import mqtt5
from mqtt5 import ConnAckReasonCode, DisconnectReasonCode, PubAckPacket, PubAckReasonCode, PublishPacket, QoS

from imsim.core.model import Code, Scene
from imsim.load.adapters.interface import (
    Acked,
    Closed,
    Connect,
    Connected,
    Conversation,
    Delivered,
    Disconnect,
    Disconnected,
    Event,
    Failed,
    Item,
    Joined,
    Message,
    NotJoined,
    Offline,
    Out,
    Ready,
    Sent,
    Session,
    Target,
)
from imsim.load.adapters.mqtt.topics import Topics
from imsim.load.adapters.text import id_in, with_id, without_id

_LARGEST = 1 << 24  # the size of the largest packet that the broker may send (bytes)
_QOS = (QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE)
_HEADER = 5  # the most bytes before the body of a packet
_OVERHEAD = 16  # the most bytes of a PUBLISH besides its topic and its payload
_LAST_ID = 0xFFFF  # of the packets of a session

# The enumerations of mqtt5 are not hashable and have no order, although its stub file calls them IntEnum.
_WAIT_AND_RETRY = (
    ConnAckReasonCode.UNSPECIFIED_ERROR,
    ConnAckReasonCode.SERVER_UNAVAILABLE,
    ConnAckReasonCode.SERVER_BUSY,
    ConnAckReasonCode.QUOTA_EXCEEDED,
    ConnAckReasonCode.CONNECTION_RATE_EXCEEDED,
)
_FINAL = (
    DisconnectReasonCode.NOT_AUTHORIZED,
    DisconnectReasonCode.SESSION_TAKEN_OVER,
    DisconnectReasonCode.ADMINISTRATIVE_ACTION,
)
_REFUSED = 0x80  # the least reason code that stands for a failure
_CODES: dict[str, str] = {
    PubAckReasonCode.NOT_AUTHORIZED.name: Code.FORBIDDEN,
    PubAckReasonCode.TOPIC_NAME_INVALID.name: Code.BAD_REQUEST,
    PubAckReasonCode.PAYLOAD_FORMAT_INVALID.name: Code.BAD_REQUEST,
    PubAckReasonCode.QUOTA_EXCEEDED.name: Code.RATE_LIMITED,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of all sessions of a run.

    keepalive: the seconds of silence before a ping. session_expiry: the seconds that the broker keeps the session of an
    offline device.
    """

    target: Target
    topics: Topics
    qos: int
    keepalive: float
    session_expiry: int


class State(IntEnum):
    """The state of a session. Packets are exchanged from LOGGING_IN on."""

    STOPPED = 0
    WAITING = 1  # for the next attempt to connect
    CONNECTING = 2
    LOGGING_IN = 3  # CONNECT is sent
    SUBSCRIBING = 4  # until the broker has answered all subscriptions of the login
    ONLINE = 5


class Outgoing:
    """A message that is not sent yet, or not acknowledged."""

    __slots__ = ("attempts", "deadline", "id", "payload", "sent_at", "topic")

    def __init__(self, id: str, topic: str, payload: bytes) -> None:
        self.id = id
        self.topic = topic
        self.payload = payload
        self.attempts = 0
        self.sent_at = 0.0
        self.deadline = math.inf  # when the answer is overdue


class MqttSession(Session):
    """The protocol of one device.

    Messages are not resent on a connection that lives, because MQTT 5 forbids it [MQTT-4.4.0-1]. An answer that is
    overdue on a silent connection means that the connection is dead: the session reconnects, and resends.
    """

    def __init__(self, settings: Settings, number: int, user: str, device: str, username: str) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._policies = settings.target.policies
        self._username = username
        self._client_id = f"{user}:{device}"
        self._to = settings.topics.p2p_from(user)
        self._draw = settings.target.draw(number)
        self._qos = settings.qos
        self._state = State.STOPPED
        self._wake: float | None = None  # not after the earliest deadline
        # The connection
        self._failures = 0  # the count of failed or short connections in a row
        self._retry_at = math.inf
        self._answer_by = math.inf  # when the answer to the connection, the login or a subscription is overdue
        self._since = 0.0  # when the latest login succeeded
        self._sent_at = 0.0  # when a packet was last sent
        self._heard_at = 0.0  # when a packet was last received
        self._ping_at = math.inf
        self._keepalive = settings.keepalive
        self._rest = b""  # the start of a packet whose end has not arrived; a frame may end anywhere [MQTT-6.0.0-2]
        # The broker's session of this device
        self._has_session = False  # whether the broker may have one, with the subscriptions below
        # Clean Start only where necessary: a restarted Mosquitto 2.0 has lost the sessions that began with it.
        self._clean = not settings.qos
        self._is_resumed = False  # whether the broker had it at the latest login
        self._quota = _LAST_ID  # how many messages may wait for their PUBACK at once
        self._largest = _LARGEST  # the size of the largest packet that the broker accepts
        self._last_id = 0  # of a packet
        self._unanswered: dict[int, Outgoing] = {}  # QoS 1: sent, by the id of the packet, in the order of sending
        self._waiting: deque[Outgoing] = deque()  # not sent yet
        self._wanted: dict[str, Conversation | None] = dict.fromkeys(settings.topics.own_filters(user))
        self._subscribed: set[str] = set()
        self._subscribing: dict[int, str] = {}  # by the id of the packet
        self._joining: set[str] = set()  # the topics of `join`s without an answer

    # --- the application --------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Out]:
        if self._state is not State.STOPPED:
            return []
        self._failures = 0
        return self._connect(now)

    def stop(self, now: float) -> list[Out]:
        goodbye: list[Out] = [mqtt5.DisconnectPacket().write()] if self._state > State.LOGGING_IN else []
        was_stopped = self._state is State.STOPPED
        self._end(State.STOPPED)
        return [] if was_stopped else [*goodbye, Disconnect()]

    def send(self, message: Message, now: float) -> list[Out]:
        topic = self._topic(message.conversation)
        outgoing = Outgoing(message.id, topic, with_id(message.id, message.text).encode())
        if self._state is not State.ONLINE or self._waiting or len(self._unanswered) >= self._quota:
            self._waiting.append(outgoing)
            return []
        return [self._publish(outgoing, now)]

    def join(self, conversation: Conversation, members: Iterable[str], creates: bool, now: float) -> list[Out]:
        topic = self._topic(conversation)
        if conversation.scene is Scene.P2P or topic in self._subscribed:
            return [Joined(conversation)]
        self._wanted[topic] = conversation
        self._joining.add(topic)
        if self._state < State.SUBSCRIBING or topic in self._subscribing.values():
            return []
        return [self._subscribe(topic, now)]

    def _topic(self, conversation: Conversation) -> str:
        if conversation.scene is Scene.P2P:
            return self._to.before + conversation.name + self._to.after
        return self._topics.room_topic(conversation)

    # --- the driver -------------------------------------------------------------------------------------------------

    def received(self, item: Item, now: float) -> list[Out]:
        if type(item) is bytes:
            return self._read(item, now)
        if type(item) is Connected and self._state is State.CONNECTING:
            if item.subprotocol != "mqtt":
                return self._close("the server does not offer the WebSocket subprotocol mqtt")
            self._state = State.LOGGING_IN
            return [self._login(now)]
        if type(item) is Disconnected and self._state > State.WAITING:
            return self._offline(item.reason, now)
        return []

    def next_deadline(self) -> float | None:
        return self._wake

    def handle_timer(self, now: float) -> list[Out]:
        outs: list[Out] = []
        if now >= self._retry_at:
            outs = self._connect(now)
        elif now >= self._answer_by:
            request = {State.CONNECTING: "connection", State.LOGGING_IN: "login"}.get(self._state, "subscription")
            outs = self._reconnect(f"no answer to the {request} in time", now)
        elif self._state >= State.SUBSCRIBING:
            outs = self._check(now)
        self._plan()
        return outs

    # --- the connection ---------------------------------------------------------------------------------------------

    def _connect(self, now: float) -> list[Out]:
        self._end(State.CONNECTING)
        timeout = self._policies.login_timeout
        self._answer_by = now + timeout
        self._plan()
        return [Connect(self._settings.target.url, ("mqtt",), timeout=timeout)]

    def _login(self, now: float) -> bytes:
        self._sent_at = self._heard_at = now
        settings = self._settings
        key = settings.target.key
        return mqtt5.ConnectPacket(
            self._client_id,
            username=self._username or None,
            password=key.encode() if key else None,
            clean_start=self._clean,
            keep_alive=math.ceil(settings.keepalive),
            session_expiry_interval=settings.session_expiry if self._qos else 0,
            max_packet_size=_LARGEST,
        ).write()

    def _logged_in(self, packet: mqtt5.ConnAckPacket, now: float) -> list[Out]:
        reason = packet.reason_code
        if reason is not ConnAckReasonCode.SUCCESS:
            text = f"the broker refused the login: {_words(reason, packet.reason_str)}"
            return self._reconnect(text, now) if reason in _WAIT_AND_RETRY else self._close(text)
        if packet.max_qos.value < self._qos:
            return self._close("the broker does not support QoS 1; use the option qos=0")
        if packet.session_present and self._clean:
            return self._invalid("CONNACK with a session, in answer to Clean Start")
        if packet.session_present and not self._has_session:  # the session of an earlier run with the same names
            self._clean = True
            return [Disconnect(), *self._connect(now)]
        self._state = State.SUBSCRIBING
        self._since = now
        self._has_session = self._qos > 0
        self._clean = not self._has_session
        self._quota = packet.receive_max
        self._largest = min(packet.max_packet_size or _LARGEST, _LARGEST)
        if packet.server_keep_alive is not None:
            self._keepalive = packet.server_keep_alive or math.inf
        self._ping_at = now + self._keepalive
        self._is_resumed = packet.session_present
        if not self._is_resumed:
            self._subscribed.clear()
        self._answer_by = math.inf
        requests = [self._subscribe(topic, now) for topic in self._wanted if topic not in self._subscribed]
        if requests:
            return [b"".join(requests)]
        return self._ready(now)

    def _subscribe(self, topic: str, now: float) -> bytes:
        id = self._next_id()
        self._subscribing[id] = topic
        self._sent_at = now
        self._answer_by = now + self._policies.login_timeout
        self._plan()
        return mqtt5.SubscribePacket(
            id,
            [
                mqtt5.TopicFilter(
                    topic,
                    max_qos=_QOS[self._qos],
                    no_local=True,
                    retain_handling=mqtt5.RetainHandling.SEND_NEVER,
                )
            ],
        ).write()

    def _subscription_answered(self, packet: mqtt5.SubAckPacket, now: float) -> list[Out]:
        topic = self._subscribing.pop(packet.packet_id, None)
        if topic is None or len(packet.reason_codes) != 1:
            return self._invalid("a SUBACK that answers no SUBSCRIBE")
        conversation = self._wanted[topic]
        outs: list[Out] = []
        if (reason := packet.reason_codes[0]).value >= _REFUSED:
            text = f"the broker refused the subscription to {topic}: {_words(reason, packet.reason_str)}"
            if conversation is None:
                return self._close(text)
            del self._wanted[topic]
            outs.append(NotJoined(conversation, text))
        else:
            self._subscribed.add(topic)
            if conversation is not None and topic in self._joining:
                outs.append(Joined(conversation))
        self._joining.discard(topic)
        if not self._subscribing:
            self._answer_by = math.inf
            if self._state is State.SUBSCRIBING:
                outs += self._ready(now)
        return outs

    def _ready(self, now: float) -> list[Out]:
        """Resend the messages without PUBACK, and send those that wait."""
        self._state = State.ONLINE
        outs: list[Out] = [Ready()]
        packets = []
        for id, outgoing in list(self._unanswered.items()):
            if outgoing.attempts >= self._policies.send_attempts:
                del self._unanswered[id]
                outs.append(self._given_up(outgoing))
            else:
                outs.append(Sent(outgoing.id))
                packets.append(self._packet(id, outgoing, self._is_resumed, now))
        if packets:
            outs.append(b"".join(packets))
        outs += self._send_waiting(now)
        self._plan()
        return outs

    def _close(self, reason: str) -> list[Out]:
        self._end(State.STOPPED)
        return [Disconnect(), Closed(reason)]

    def _invalid(self, text: str) -> list[Out]:
        return self._close(f"the server sent something that is not valid MQTT 5: {text}")

    def _reconnect(self, reason: str, now: float) -> list[Out]:
        return [Disconnect(), *self._offline(reason, now)]

    def _offline(self, reason: str, now: float) -> list[Out]:
        """Plan the next attempt after an exponential backoff with full jitter, as the core's client does."""
        policies = self._policies
        if self._state >= State.SUBSCRIBING and now - self._since >= policies.reconnect_max:
            self._failures = 0  # a short login does not reset the backoff
        pause = self._draw() * policies.longest_pause(self._failures)
        self._failures += 1
        self._end(State.WAITING)
        self._retry_at = now + pause
        self._plan()
        return [Offline(reason)]

    def _end(self, state: State) -> None:
        """Drop everything that belongs to the connection."""
        self._state = state
        self._wake = None
        self._retry_at = self._answer_by = self._ping_at = math.inf
        self._rest = b""
        self._subscribing.clear()
        self._keepalive = self._settings.keepalive

    # --- deadlines --------------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Compute the earliest deadline."""
        earliest = min(self._retry_at, self._answer_by, self._ping_at)
        if self._state >= State.SUBSCRIBING:
            for outgoing in self._unanswered.values():
                earliest = min(earliest, outgoing.deadline)
        self._wake = earliest if earliest < math.inf else None

    def _check(self, now: float) -> list[Out]:
        """Check the connection and the unanswered messages, and ping the broker if a side was silent."""
        outs: list[Out] = []
        dead_at = self._heard_at + max(self._policies.heartbeat_timeout, 1.5 * self._keepalive)
        if now >= dead_at:
            return self._reconnect(f"the broker was silent for {now - self._heard_at:.1f} s", now)
        for id, outgoing in list(self._unanswered.items()):
            if now < outgoing.deadline:
                continue
            if outgoing.attempts >= self._policies.send_attempts:
                # The connection ends, because the message still counts against the broker's Receive Maximum.
                del self._unanswered[id]
                return [self._given_up(outgoing), *self._reconnect("the broker did not acknowledge a message", now)]
            if self._heard_at <= outgoing.sent_at:
                return self._reconnect("the broker was silent after a message", now)
            outgoing.attempts += 1  # the broker lives but is slow; a resend on this connection is forbidden
            outgoing.deadline = now + self._policies.timeout_of(outgoing.attempts)
        if now >= self._ping_at:
            due = min(self._sent_at, self._heard_at) + self._keepalive
            if now >= due:
                outs.append(mqtt5.PingReqPacket().write())
                self._sent_at = now
                due = now + self._keepalive
            self._ping_at = min(due, dead_at)
        return outs

    # --- packets ----------------------------------------------------------------------------------------------------

    def _read(self, frame: bytes, now: float) -> list[Out]:
        if self._state < State.LOGGING_IN:
            return []
        self._heard_at = now
        data = self._rest + frame if self._rest else frame
        view = memoryview(data)
        outs: list[Out] = []
        acks = []
        begin, end = 0, len(data)
        while begin < end:
            try:
                packet, length = mqtt5.read(view[begin:] if begin else view)
            except IndexError:  # the rest of the packet has not arrived
                break
            except BaseException as error:
                # The library panics, with a BaseException, for a text that is not UTF-8.
                if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
                    raise
                hint = "; the broker must support MQTT 5" if self._state is State.LOGGING_IN else ""
                return [*outs, *self._invalid(f"{error}{hint}")]
            begin += length
            if type(packet) is PublishPacket and self._state > State.LOGGING_IN:
                if packet.packet_id is not None:
                    acks.append(PubAckPacket(packet.packet_id).write())
                text, topic = packet.payload.decode("utf-8", "replace"), packet.topic
                topics = self._topics
                conversation, sender = topics.conversation(topic), topics.sender(topic)
                outs.append(Delivered(id_in(text), conversation, False, sender, without_id(text)))
            elif type(packet) is PubAckPacket and self._state > State.LOGGING_IN:
                outgoing = self._unanswered.pop(packet.packet_id, None)
                if outgoing is not None:
                    outs.append(self._answered(outgoing, packet))
            else:
                outs += self._handle(packet, now)
                if self._state < State.LOGGING_IN:
                    return outs  # the session has closed the connection
        if acks:
            outs.append(b"".join(acks))
            self._sent_at = now
        if self._waiting and self._state is State.ONLINE:
            outs += self._send_waiting(now)
        self._rest = data[begin:]
        if len(self._rest) > _LARGEST + _HEADER:
            return [*outs, *self._invalid(f"a packet of more than {_LARGEST} bytes")]
        return outs

    def _handle(self, packet: mqtt5.Packet, now: float) -> list[Out]:
        """Handle a packet that is not part of the flow of messages."""
        kind = type(packet)
        if isinstance(packet, mqtt5.ConnAckPacket) and self._state is State.LOGGING_IN:
            return self._logged_in(packet, now)
        if isinstance(packet, mqtt5.DisconnectPacket):
            text = f"the broker ended the connection: {_words(packet.reason_code, packet.reason_str)}"
            return self._close(text) if packet.reason_code in _FINAL else self._reconnect(text, now)
        if isinstance(packet, mqtt5.SubAckPacket) and self._state > State.LOGGING_IN:
            return self._subscription_answered(packet, now)
        if isinstance(packet, mqtt5.PingRespPacket) and self._state > State.LOGGING_IN:
            return []
        return self._invalid(f"{kind.__name__} while the session is {self._state.name.lower()}")

    def _send_waiting(self, now: float) -> list[Out]:
        """Send the messages that wait, as many as the broker allows."""
        outs: list[Out] = []
        packets = []
        while self._waiting and len(self._unanswered) < self._quota:
            outgoing = self._waiting.popleft()
            out = self._publish(outgoing, now)
            if type(out) is bytes:
                outs.append(Sent(outgoing.id))
                packets.append(out)
            else:
                outs.append(out)
        if packets:
            outs.append(b"".join(packets))
        return outs

    def _publish(self, outgoing: Outgoing, now: float) -> bytes | Event:
        """Return the packet of a message that is sent for the first time."""
        if len(outgoing.payload) + len(outgoing.topic) + _OVERHEAD > self._largest:
            return Failed(outgoing.id, Code.TOO_LARGE, f"the broker accepts packets of {self._largest} bytes")
        if not self._qos:
            self._sent_at = now
            return PublishPacket(outgoing.topic, outgoing.payload).write()
        id = self._next_id()
        self._unanswered[id] = outgoing
        packet = self._packet(id, outgoing, False, now)
        if self._wake is None or outgoing.deadline < self._wake:
            self._wake = outgoing.deadline
        return packet

    def _packet(self, id: int, outgoing: Outgoing, again: bool, now: float) -> bytes:
        outgoing.attempts += 1
        outgoing.sent_at = self._sent_at = now
        outgoing.deadline = now + self._policies.timeout_of(outgoing.attempts)
        return PublishPacket(outgoing.topic, outgoing.payload, qos=_QOS[1], packet_id=id, duplicate=again).write()

    def _answered(self, outgoing: Outgoing, packet: PubAckPacket) -> Event:
        if (reason := packet.reason_code).value < _REFUSED:
            return Acked(outgoing.id)
        return Failed(outgoing.id, _CODES.get(reason.name, reason.name.lower()), _words(reason, packet.reason_str))

    def _given_up(self, outgoing: Outgoing) -> Event:
        return Failed(outgoing.id, Code.TIMEOUT, f"no PUBACK after {outgoing.attempts} attempts")

    def _next_id(self) -> int:
        id = self._last_id % _LAST_ID + 1
        while id in self._unanswered or id in self._subscribing:
            id = id % _LAST_ID + 1
        self._last_id = id
        return id


def _words(reason: IntEnum, text: str | None) -> str:
    words = reason.name.lower().replace("_", " ")
    return f"{words} ({text})" if text else words
