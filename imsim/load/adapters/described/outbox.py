"""The messages that a device sends, and the answers of the server to them."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any

from imsim.core.model import Code, Scene
from imsim.core.policies import Policies
from imsim.load.adapters.described.frames import Frames
from imsim.load.adapters.described.paths import MISSING
from imsim.load.adapters.described.protocol import Protocol, Rule, optional
from imsim.load.adapters.described.templates import Template
from imsim.load.adapters.interface import Acked, Failed, Message, Out, Received, Sent
from imsim.load.adapters.text import with_id

_OWN_MESSAGES = 64  # the latest messages of this device; a server that echoes them does so soon
_CODES = frozenset(Code)


class _Pending:
    """A message without an answer.

    attempt: counts how often it was sent.
    due: when to send it again, or to give it up.
    end: when to give it up.
    """

    __slots__ = ("attempt", "due", "end", "message")

    def __init__(self, message: Message, end: float) -> None:
        self.message = message
        self.attempt = 0
        self.due = self.end = end


class Outbox:
    """The messages of a device.

    due: no deadline of a message is earlier.
    own: the ids of the latest messages that were sent.
    """

    def __init__(self, protocol: Protocol, policies: Policies, frames: Frames) -> None:
        self.due = inf
        self.own: set[str] = set()
        self._protocol = protocol
        self._policies = policies
        self._frames = frames
        #: Seconds from the sending of a message until it is given up.
        self._patience = sum(map(policies.timeout_of, range(1, policies.send_attempts + 1)))
        self._templates: dict[Scene, Template] = {}  # with the values of the session
        self._own_order: deque[str] = deque()
        self._pending: dict[str, _Pending] = {}
        self._order: deque[str] = deque()  # the messages whose answers come in order
        self._numbers: dict[int, str] = {}  # request number → message id

    # --- sending ------------------------------------------------------------------------------------------------------

    def keep(self, message: Message, now: float) -> None:
        """Keep a message until the device is online."""
        pending = self._pending[message.id] = _Pending(message, now + self._patience)
        self._wake(pending.due)

    def send(self, message: Message, now: float, pending: _Pending | None = None) -> bytes:
        """Return the frame of a message, and expect its answer."""
        protocol = self._protocol
        scene, to = message.conversation
        id = message.id
        template = self._templates[scene]
        names = template.names
        values: dict[str, object] = {"id": id, "to": to, "text": message.text, "scene": scene}
        if "text_with_id" in names:
            values["text_with_id"] = with_id(id, message.text)
        if "time" in names:
            values["time"] = int(now * 1000)
        if "n" in names:
            values["n"] = self._frames.n = self._frames.n + 1
            if protocol.answers_by_number:
                self._numbers[self._frames.n] = id
        if protocol.answers_in_order:
            self._order.append(id)
        if protocol.has_answers:
            if pending is None:
                pending = self._pending[id] = _Pending(message, now + self._patience)
            pending.attempt += 1
            if protocol.resend:
                pending.due = min(pending.end, now + self._policies.timeout_of(pending.attempt))
            self._wake(pending.due)
        elif pending is not None:
            del self._pending[id]
        if id not in self.own:
            if len(self._own_order) == _OWN_MESSAGES:
                self.own.discard(self._own_order.popleft())
            self._own_order.append(id)
            self.own.add(id)
        return template.render(values)

    def online(self, now: float) -> list[Out]:
        """Send the messages that wait for the login, and again those without an answer if the server allows it."""
        self._templates = {scene: template.bind(self._frames.names) for scene, template in self._protocol.sends.items()}
        outs: list[Out] = []
        for pending in list(self._pending.values()):
            if pending.attempt == 0 or self._protocol.resend:
                outs += [self.send(pending.message, now, pending), Sent(pending.message.id)]
        return outs

    def connection_lost(self) -> list[Out]:
        """Expect no more answers on this connection. Messages that must not be sent again have failed."""
        self._order.clear()
        self._numbers.clear()
        if self._protocol.resend:
            return []
        lost = [id for id, pending in self._pending.items() if pending.attempt]
        for id in lost:
            del self._pending[id]
        return [Failed(id, Code.TIMEOUT, "the connection ended before the answer") for id in lost]

    def closed(self) -> list[Out]:
        """Give all messages up."""
        outs: list[Out] = [Failed(id, Code.TIMEOUT, "the session has ended") for id in self._pending]
        self._pending.clear()
        self.due = inf
        return outs

    # --- time ---------------------------------------------------------------------------------------------------------

    def handle_timer(self, now: float, *, is_online: bool) -> list[Out]:
        """Send messages again, or give them up."""
        outs: list[Out] = []
        for pending in [one for one in self._pending.values() if one.due <= now]:
            id = pending.message.id
            if now >= pending.end:
                del self._pending[id]
                what = "no answer" if pending.attempt else "the device was offline for too long"
                outs.append(Failed(id, Code.TIMEOUT, what))
            elif is_online:
                outs += [self.send(pending.message, now, pending), Sent(id)]
            else:  # it is sent again after the login
                pending.due = pending.end
        self.due = min((one.due for one in self._pending.values()), default=inf)
        return outs

    def _wake(self, due: float) -> None:
        if due < self.due:
            self.due = due

    # --- answers ------------------------------------------------------------------------------------------------------

    def acked(self, rule: Rule, document: Any, names: dict[str, object], outs: list[Out]) -> None:
        """Handle an acknowledgement."""
        for id, _ in self._answered(rule, document, names, is_last=True):
            del self._pending[id]
            outs.append(Acked(id))

    def weakly_acked(self, rule: Rule, document: Any, names: dict[str, object], outs: list[Out]) -> None:
        """Handle an acknowledgement that a stronger one follows."""
        for id, _ in self._answered(rule, document, names, is_last=False):
            outs.append(Received(id))

    def failed(self, rule: Rule, document: Any, names: dict[str, object], outs: list[Out]) -> None:
        """Handle a refusal."""
        for id, item in self._answered(rule, document, names, is_last=True):
            del self._pending[id]
            if rule.id is not None and id in self._order:
                self._order.remove(id)
            code, text = optional(rule.code, item), optional(rule.reason, item)
            if code in _CODES:
                outs.append(Failed(id, code, text))
            else:
                outs.append(Failed(id, Code.BAD_REQUEST, ": ".join(filter(None, (code, text)))))

    def _answered(self, rule: Rule, document: Any, names: dict[str, object], *, is_last: bool) -> list[tuple[str, Any]]:
        """Return the ids of the messages that an answer is about, each with its part of the document.

        is_last: whether no other answer about the same messages comes.
        """
        found = []
        for item in (document,) if rule.each is None else rule.items(document, names):
            id: Any
            try:
                if rule.id is not None:
                    id = rule.id(item)
                elif rule.n is not None:
                    number = request_number(rule.n(item))
                    id = self._numbers.pop(number, None) if is_last else self._numbers.get(number)
                elif self._order:
                    id = self._order.popleft() if is_last else self._order[0]
                else:
                    continue
            except MISSING:
                continue
            if isinstance(id, str) and id in self._pending:
                found.append((id, item))
        return found


def request_number(value: object) -> int:
    """Return a request number, which some servers send back as a text; 0 if it is not a number."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() else 0
    return value if isinstance(value, int) else 0
