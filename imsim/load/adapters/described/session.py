"""The session of a device with a server whose protocol is described.

Its phases: stopped → (HTTP requests) → connecting → login → online. When the connection ends, the session pauses, and
connects again. `closed` is the end: the server refused the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from math import inf
from typing import Any

import msgspec

from imsim.core.model import Code
from imsim.load.adapters.described.frames import Frames
from imsim.load.adapters.described.joins import Joins
from imsim.load.adapters.described.outbox import Outbox, request_number
from imsim.load.adapters.described.paths import MISSING, Getter
from imsim.load.adapters.described.protocol import Protocol, Rule, shown, text_of, value_of
from imsim.load.adapters.interface import (
    Closed,
    Connect,
    Connected,
    Conversation,
    Delivered,
    Disconnect,
    Disconnected,
    Failed,
    Item,
    Message,
    NotJoined,
    Offline,
    Out,
    Read,
    Ready,
    Response,
    Session,
    Target,
)

_KEPT_DELIVERIES = 256  # the latest messages to this device, for receipts

_decode = msgspec.json.Decoder().decode


class Phase(Enum):
    """The phase of a session."""

    STOPPED = auto()
    REQUESTS = auto()  # an HTTP request is pending
    CONNECTING = auto()
    LOGIN = auto()
    ONLINE = auto()
    PAUSE = auto()
    CLOSED = auto()


class DescribedSession(Session):
    """The session of a device. A subclass can add a framing between the WebSocket and the documents."""

    def __init__(self, protocol: Protocol, target: Target, number: int, user: str, device: str) -> None:
        url = target.url.rstrip("/")
        self._protocol = protocol
        self._policies = target.policies
        self._draw = target.draw(number)
        self._user = user
        self._names: dict[str, object] = protocol.first_values | {
            "url": url,
            "http": "http" + url.removeprefix("ws"),
            "user": user,
            "device": device,
            "number": number,
            "namespace": target.namespace,
            "key": target.key,
        }
        self._frames = Frames(self._names)
        self._outbox = Outbox(protocol, target.policies, self._frames)
        self._joins = Joins(protocol, target.policies.login_timeout, self._frames)
        self._rules = protocol.rules
        self._phase = Phase.STOPPED
        self._phase_due = inf  # when the phase has lasted too long, or the pause ends
        self._failures = 0  # connections in a row that did not lead to a login
        self._next_request = 0  # the number of the next HTTP request; those of the earlier ones are answered
        self._starts = 0  # an answer to a request of an earlier start is ignored
        self._step = 0  # the number of the step of the login
        self._kept: dict[str, dict[str, object]] = {}  # message id → values for its receipt
        self._reads: dict[str, int] = {}  # message id → request number of its receipt
        self._heard = 0.0  # the time of the last frame
        self._ping_due = inf
        self._silence = protocol.silence  # seconds; a longer one ends the connection

    # --- the application's calls --------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Out]:
        if self._phase is not Phase.STOPPED:
            return []
        self._starts += 1
        self._failures = 0
        return self._open(now)

    def stop(self, now: float) -> list[Out]:
        if self._phase in (Phase.STOPPED, Phase.CLOSED):
            return []
        return [Disconnect(), *self._leave(Phase.STOPPED, inf)]

    def send(self, message: Message, now: float) -> list[Out]:
        if self._phase is Phase.ONLINE and message.conversation.scene in self._protocol.sends:
            return [self._outbox.send(message, now)]
        scene = message.conversation.scene
        if scene not in self._protocol.sends:
            return [Failed(message.id, Code.BAD_REQUEST, f"the description has no send.{scene}")]
        if self._phase is Phase.CLOSED:
            return [Failed(message.id, Code.TIMEOUT, "the session has ended")]
        self._outbox.keep(message, now)
        return []

    def join(self, conversation: Conversation, members: Sequence[str], creates: bool, now: float) -> list[Out]:
        if conversation.scene not in self._protocol.joins:
            return [NotJoined(conversation, "not a group or chatroom")]
        if self._phase is Phase.CLOSED:
            return [NotJoined(conversation, "the session has ended")]
        return self._joins.join(conversation, list(members), creates, now, is_online=self._phase is Phase.ONLINE)

    def read(self, conversation: Conversation, id: str, now: float) -> list[Out]:
        template = self._protocol.read
        kept = self._kept.get(id)
        if template is None or self._phase is not Phase.ONLINE or (kept is None and self._protocol.delivery_names):
            return []
        values: dict[str, object] = dict.fromkeys(self._protocol.delivery_names)
        values |= {"id": id, "to": conversation.name, "scene": conversation.scene} | (kept or {})
        frame = self._frames.render(template, values, now)
        self._reads[id] = self._frames.n if "n" in template.names else 0
        return [frame]

    # --- time ---------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        due = self._phase_due
        if self._outbox.due < due:
            due = self._outbox.due
        if self._joins.due < due:
            due = self._joins.due
        if self._phase is Phase.ONLINE:
            if self._ping_due < due:
                due = self._ping_due
            if self._silence and self._heard + self._silence < due:
                due = self._heard + self._silence
        return None if due == inf else due

    def handle_timer(self, now: float) -> list[Out]:
        outs: list[Out] = []
        if now >= self._phase_due:
            if self._phase is Phase.PAUSE:
                outs += self._open(now)
            else:
                outs += self._retry("the login was not complete in time", now)
        if self._phase is Phase.ONLINE:
            outs += self._keep_alive(now)
        if now >= self._outbox.due:
            outs += self._outbox.handle_timer(now, is_online=self._phase is Phase.ONLINE)
        if now >= self._joins.due:
            outs += self._joins.handle_timer(now)
        return outs

    def _keep_alive(self, now: float) -> list[Out]:
        if self._silence and now >= self._heard + self._silence:
            return self._retry(f"the server was silent for {self._silence:g} s", now)
        if now >= self._ping_due:
            assert self._protocol.ping is not None
            self._ping_due = now + self._protocol.ping_every
            return [self._frames.render(self._protocol.ping, {}, now)]
        return []

    # --- the connection -----------------------------------------------------------------------------------------------

    def received(self, item: Item, now: float) -> list[Out]:
        if type(item) is bytes:
            self._heard = now
            try:
                if self._protocol.is_lines:
                    return self._lines(item, now)
                document = _decode(item)
            except (ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
                return self._close(f"the server sent a frame that is not JSON: {shown(item)}")
            return self._document(document, now)
        if isinstance(item, Connected):
            return self._connected(now) if self._phase is Phase.CONNECTING else []
        if isinstance(item, Disconnected):
            return self._retry(item.reason, now, is_open=False)
        assert isinstance(item, Response)
        return self._responded(item, now)

    def _lines(self, frame: bytes, now: float) -> list[Out]:
        outs: list[Out] = []
        for line in frame.splitlines():
            if line and self._phase is not Phase.CLOSED:
                outs += self._document(_decode(line), now)
        return outs

    def _open(self, now: float) -> list[Out]:
        """Make the next HTTP request, or connect."""
        timeout = self._policies.login_timeout
        if self._next_request < len(self._protocol.requests):
            self._enter(Phase.REQUESTS, now + 2 * timeout)  # the driver reports its own timeout before
            call = self._protocol.requests[self._next_request]
            return [call.request(f"login:{self._starts}", self._names, timeout)]
        self._enter(Phase.CONNECTING, now + 2 * timeout)
        headers = tuple((name, text.fill(self._names)) for name, text in self._protocol.headers)
        return [Connect(self._protocol.url.fill_url(self._names), self._protocol.subprotocols, headers, timeout)]

    def _responded(self, response: Response, now: float) -> list[Out]:
        """Handle the answer to an HTTP request."""
        if response.ref != f"login:{self._starts}":
            return [] if response.ref.startswith("login:") else self._joins.responded(response.ref, response, now)
        if self._phase is not Phase.REQUESTS:
            return []
        call = self._protocol.requests[self._next_request]
        if not call.is_success(response.status):
            reason = call.reason(response)
            is_temporary = response.status in (0, 429) or response.status >= 500
            return self._retry(reason, now) if is_temporary else self._close(reason)
        if call.keep:
            try:
                self._keep(call.keep, _decode(response.body))
            except _Missing as error:
                return self._close(f"{call.reason(response)}: it has no {error}")
            except (ValueError, RecursionError):
                return self._close(f"{call.reason(response)}: it is not JSON")
        self._next_request += 1
        return self._open(now)

    def _keep(self, keep: Sequence[tuple[str, Getter, str]], document: Any) -> None:
        for name, get, path in keep:
            try:
                value = get(document)
            except MISSING:
                raise _Missing(path) from None
            if isinstance(value, str) and not value.isprintable():  # it can be in a header
                raise _Missing(f"{path} without control characters")
            self._names[name] = value

    def _connected(self, now: float) -> list[Out]:
        """Handle the start of the connection. A framing can have something to do before the login."""
        return self._log_in(now)

    def _log_in(self, now: float) -> list[Out]:
        self._heard = now
        self._step = 0
        self._enter(Phase.LOGIN, now + self._policies.login_timeout)
        return self._next_step(now)

    def _next_step(self, now: float) -> list[Out]:
        """Do the steps of the login up to one that waits for an answer."""
        outs: list[Out] = []
        for step in self._protocol.steps[self._step :]:
            if step.frame is not None:
                outs.append(self._frames.render(step.frame, {}, now))
            if step.waits:
                return outs
            self._step += 1
        self._enter(Phase.ONLINE, inf)
        self._failures = 0
        if self._protocol.ping is not None:
            self._ping_due = now + self._protocol.ping_every
        return [*outs, Ready(), *self._joins.online(now), *self._outbox.online(now)]

    def _retry(self, reason: str, now: float, *, is_open: bool = True) -> list[Out]:
        """Go offline, and connect again after a pause."""
        if self._phase in (Phase.STOPPED, Phase.CLOSED, Phase.PAUSE):
            return []
        pause = self._draw() * self._policies.longest_pause(self._failures)
        self._failures += 1
        failed = self._leave(Phase.PAUSE, now + pause)
        return [*([Disconnect()] if is_open else []), *failed, Offline(reason)]

    def _close(self, reason: str) -> list[Out]:
        """End the session."""
        if self._phase in (Phase.STOPPED, Phase.CLOSED):
            return []
        failed = self._leave(Phase.CLOSED, inf)
        return [Disconnect(), *failed, *self._outbox.closed(), *self._joins.closed(reason), Closed(reason)]

    def _leave(self, phase: Phase, due: float) -> list[Out]:
        """Enter a phase without a connection. Return the events of the messages that have failed with it."""
        failed = self._outbox.connection_lost()
        self._joins.connection_lost()
        self._reads.clear()
        self._ping_due = inf
        self._enter(phase, due)
        return failed

    def _enter(self, phase: Phase, due: float) -> None:
        self._phase = phase
        self._phase_due = due

    # --- frames of the server -----------------------------------------------------------------------------------------

    def _document(self, document: Any, now: float) -> list[Out]:
        """Handle a document that the server sent."""
        outs: list[Out] = []
        for rule in self._rules.of(document):
            if not rule.conditions or rule.matches(document, self._names):
                _ACTS[rule.act](self, rule, document, now, outs)
        return outs

    def _step_answered(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        if self._phase is not Phase.LOGIN or self._step != rule.step:
            return
        try:
            self._keep(rule.keep, document)
        except _Missing as error:
            outs += self._close(f"login: the answer has no {error}: {shown(document)}")
            return
        self._step += 1
        outs += self._next_step(now)

    def _step_refused(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        if self._phase is Phase.LOGIN and self._step == rule.step:
            outs += self._close(f"the server refused the login: {rule.reason_in(document)}")

    def _ended(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        outs += self._close(f"the server ended the session: {rule.reason_in(document)}")

    def _delivered(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        assert rule.id is not None
        for item in (document,) if rule.each is None else rule.items(document, self._names):
            try:
                id = rule.id(item)
            except MISSING:
                continue  # a notice, for example, but not a message of the run
            # A server can send a message to all devices of a group, including the one that sent it.
            if type(id) is not str or id in self._outbox.own:
                continue
            conversation = None
            if rule.scene is not None:
                conversation = self._conversation(rule, document if rule.to_of_frame else item)
            if rule.keep:
                if len(self._kept) >= _KEPT_DELIVERIES:
                    del self._kept[next(iter(self._kept))]
                self._kept[id] = {name: value_of(get, item) for name, get, _ in rule.keep}
            for name, get, _ in rule.last:
                if (value := value_of(get, item)) is not None:
                    self._names[name] = value
            sender = text_of(rule.sender, document if rule.sender_of_frame else item)
            outs.append(Delivered(id, conversation, rule.synced, sender, text_of(rule.text, item)))

    def _conversation(self, rule: Rule, source: Any) -> Conversation | None:
        assert rule.scene is not None
        if rule.to is None:
            return Conversation(rule.scene, self._user)
        name = text_of(rule.to, source)
        return None if name is None else Conversation(rule.scene, name)

    def _acked(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        self._outbox.acked(rule, document, self._names, outs)

    def _weakly_acked(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        self._outbox.weakly_acked(rule, document, self._names, outs)

    def _failed(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        self._outbox.failed(rule, document, self._names, outs)

    def _created(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        self._joins.created(rule, document, now, outs)

    def _entered(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        self._joins.entered(rule, document, now, outs)

    def _join_refused(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        self._joins.refused(rule, document, now, outs)

    def _receipt(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        for item in rule.items(document, self._names):
            id: Any = None
            if rule.id is not None:
                id = value_of(rule.id, item)
            elif rule.n is not None:
                number = request_number(value_of(rule.n, item))
                id = next((one for one, n in self._reads.items() if n == number), None)
            elif self._reads:
                id = next(iter(self._reads))
            if type(id) is str and self._reads.pop(id, None) is not None:
                outs.append(Read(id))

    def _reply_to(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        reply = rule.reply
        assert reply is not None
        for item in (document,) if rule.each is None else rule.items(document, self._names):
            try:
                values = {name: get(document if at_frame else item) for name, get, at_frame in rule.reply_values}
            except MISSING:
                continue  # there is nothing to send back
            outs.append(reply.render(values) if rule.reply_is_complete else self._frames.render(reply, values, now))


_ACTS = {
    "step_answered": DescribedSession._step_answered,
    "step_refused": DescribedSession._step_refused,
    "created": DescribedSession._created,
    "entered": DescribedSession._entered,
    "join_refused": DescribedSession._join_refused,
    "failed": DescribedSession._failed,
    "weakly_acked": DescribedSession._weakly_acked,
    "acked": DescribedSession._acked,
    "delivered": DescribedSession._delivered,
    "receipt": DescribedSession._receipt,
    "reply_to": DescribedSession._reply_to,
    "end": DescribedSession._ended,
}
"""The act of a rule → the method that carries it out."""


class _Missing(Exception):
    """An answer has no value at a path."""
