"""The session of a device with an XMPP server: its connection, its login, and the parts that handle its stanzas."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element

from imsim.core.model import Code, Scene
from imsim.load.adapters.interface import (
    Closed,
    Connect,
    Connected,
    Conversation,
    Disconnect,
    Disconnected,
    Failed,
    Item,
    Joined,
    Message,
    Offline,
    Out,
    Ready,
    Received,
    Sent,
    Session,
)
from imsim.load.adapters.xmpp.archives import Archives
from imsim.load.adapters.xmpp.login import Login
from imsim.load.adapters.xmpp.messages import MESSAGE, Messages
from imsim.load.adapters.xmpp.rooms import Rooms
from imsim.load.adapters.xmpp.settings import Settings
from imsim.load.adapters.xmpp.stanzas import (
    CLIENT,
    SASL,
    SM,
    Refusal,
    condition_of,
    described,
    escaped,
    node_of,
    number,
    parse,
)
from imsim.load.adapters.xmpp.stream import ACK_REQUEST, Outgoing, Stream

_PRESENCE, _IQ = f"{CLIENT}presence", f"{CLIENT}iq"
_FRAMING = "{urn:ietf:params:xml:ns:xmpp-framing}"
_STREAMS = "{http://etherx.jabber.org/streams}"

_CLOSE = b"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"
_PING = "<ping xmlns='urn:xmpp:ping'/>"
_ACCOUNT_WAIT = 0.05  # seconds after which a device checks again whether another one has registered the account

_PASSING = {
    "connection-timeout",
    "internal-server-error",
    "remote-connection-failed",
    "reset",
    "resource-constraint",
    "system-shutdown",
    "undefined-condition",  # for example, the counts of stanza acks do not match
}
"""The stream errors after which a client may connect again."""


class XmppSession(Session):
    """The session of a device with an XMPP server."""

    __slots__ = (
        "_archives",
        "_at_timer",
        "_awaits",
        "_bare",
        "_device",
        "_draw",
        "_failures",
        "_give_up_at",
        "_heard_at",
        "_is_announced",
        "_is_authenticated",
        "_is_on",
        "_is_ready",
        "_join_by",
        "_login",
        "_login_by",
        "_messages",
        "_own",
        "_policies",
        "_resume_id",
        "_rooms",
        "_settings",
        "_since",
        "_stream",
        "_timer",
        "_user",
        "_waiting",
        "_was_ready",
    )

    def __init__(self, settings: Settings, number: int, user: str, device: str) -> None:
        self._settings = settings
        self._policies = settings.target.policies
        self._draw = settings.target.draw(number)
        self._user = user
        self._device = device
        self._bare = f"{node_of(user)}@{settings.domain}"
        self._own = Conversation(Scene.P2P, user)
        # the connection
        self._is_on = False  # between `start` and `stop`, unless the server refused the device
        self._is_authenticated = False
        self._is_announced = False  # whether the server has handled the presence
        self._is_ready = False
        self._awaits = ""  # the name of the element that the login waits for: a second one is not an answer
        self._login: Login | None = None
        self._login_by = math.inf
        self._failures = 0  # the count of failed or short connections in a row
        self._since = 0.0  # the time of the latest login
        self._heard_at = 0.0
        self._timer = math.inf
        self._at_timer: Callable[[XmppSession, float], list[Out]] = XmppSession._connect
        # the session of the server, which can outlive a connection
        self._resume_id: str | None = None
        self._stream = Stream()
        self._archives = Archives(self._stream, self._bare) if settings.reads_archives else None
        self._was_ready = False
        self._rooms = Rooms(self._stream, self._archives, f"{node_of(user)}.{device}")
        self._join_by = math.inf
        # messages
        self._waiting: deque[Outgoing] = deque()  # to be sent when the device is ready
        self._give_up_at = math.inf  # the oldest message without an ack fails at this time, or later
        self._messages = Messages(settings, self._stream, self._rooms, self._archives, user, device)

    # --- what the driver calls --------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Out]:
        if self._is_on:
            return []
        self._is_on = True
        self._failures = 0
        return self._connect(now)

    def stop(self, now: float) -> list[Out]:
        if not self._is_on:
            return []
        outs: list[Out] = [_CLOSE, Disconnect()] if self._is_authenticated else [Disconnect()]
        self._end()
        return outs

    def received(self, item: Item, now: float) -> list[Out]:
        if not self._is_on:
            return []
        try:
            if type(item) is bytes:
                self._heard_at = now
                element = parse(item)
                if element.tag == MESSAGE:
                    self._stream.handled += 1
                    return self._messages.received(element)
                handler = _HANDLERS.get(element.tag)
                return handler(self, element, now) if handler else []
            if type(item) is Connected:
                return self._connected(item, now)
        except Refusal as refusal:
            if refusal.passes:
                return self._lost(str(refusal), now)
            self._end()
            return [Disconnect(), Closed(str(refusal))]
        return self._lost(item.reason, now, is_open=False) if type(item) is Disconnected else []

    def send(self, message: Message, now: float) -> list[Out]:
        outgoing = self._messages.outgoing(message, now)
        if self._give_up_at == math.inf:
            self._give_up_at = now + self._settings.patience
        if not self._is_ready:
            self._waiting.append(outgoing)
            return []
        return self._stream.put(outgoing)

    def join(self, conversation: Conversation, members: Sequence[str], creates: bool, now: float) -> list[Out]:
        if conversation.scene is Scene.P2P:
            return [Joined(conversation)]
        outs = self._rooms.join(conversation, self._settings.address(conversation), self._is_ready)
        if self._is_ready and self._rooms.joining:
            self._join_by = now + self._policies.login_timeout
        return outs

    def read(self, conversation: Conversation, id: str, now: float) -> list[Out]:
        """Send a displayed marker (XEP-0333), if the option `reads` is `markers`."""
        if not self._settings.has_markers or not self._is_ready or conversation == self._own:
            return []
        return self._stream.put(self._messages.marker(conversation, id, now))

    def next_deadline(self) -> float | None:
        deadline = min(self._timer, self._give_up_at, self._join_by)
        return None if deadline == math.inf else deadline

    def handle_timer(self, now: float) -> list[Out]:
        outs: list[Out] = []
        if now >= self._give_up_at:
            outs += self._give_up(now)
        if now >= self._join_by:
            self._join_by = math.inf
            outs += self._rooms.give_up(f"no answer within {self._policies.login_timeout:g} s")
        if now >= self._timer:
            outs += self._at_timer(self, now)
        return outs

    # --- the connection ---------------------------------------------------------------------------------------------

    def _arm(self, at: float, action: Callable[[XmppSession, float], list[Out]]) -> None:
        self._timer = at
        self._at_timer = action

    def _connect(self, now: float) -> list[Out]:
        timeout = self._policies.login_timeout
        self._login_by = now + timeout
        self._arm(self._login_by, XmppSession._login_timed_out)
        return [Connect(self._settings.target.url, ("xmpp",), timeout=timeout)]

    def _login_timed_out(self, now: float) -> list[Out]:
        return self._lost(f"no login within {self._policies.login_timeout:g} s", now)

    def _connected(self, connected: Connected, now: float) -> list[Out]:
        if connected.subprotocol != "xmpp":
            raise Refusal("the server did not choose the WebSocket subprotocol xmpp: check the path of the url")
        self._heard_at = now
        settings = self._settings
        nonce = f"{int(self._draw() * 2**53):x}"
        self._login = Login(self._user, settings.domain, settings.password, nonce)
        self._awaits = "features"
        return [settings.opening]

    def _lost(self, reason: str, now: float, *, is_open: bool = True) -> list[Out]:
        """Plan to connect again, after an exponential backoff with full jitter."""
        if self._is_ready and now - self._since >= self._policies.reconnect_max:
            self._failures = 0  # a short login does not reset the backoff: the server may end each login at once
        self._forget_connection()
        pause = self._draw() * self._policies.longest_pause(self._failures)
        self._failures += 1
        self._arm(now + pause, XmppSession._connect)
        return [Disconnect(), Offline(reason)] if is_open else [Offline(reason)]

    def _end(self) -> None:
        """Forget the connection and the session of the server, permanently or until `start`.

        Messages that were sent are not sent again: the server handles them before it handles the end of the stream.
        """
        self._forget_connection()
        self._forget_session()
        self._is_on = False
        self._timer = math.inf
        self._stream.take()

    def _forget_connection(self) -> None:
        self._is_ready = self._is_authenticated = False
        self._login = None
        self._awaits = ""
        if self._settings.accounts.get(self._user) is self:
            del self._settings.accounts[self._user]
        self._stream.pause()
        self._join_by = math.inf

    def _forget_session(self) -> None:
        """Forget the session of the server. The queue of stanzas remains."""
        self._resume_id = None
        self._is_announced = False
        self._stream.forget_requests()
        self._rooms.leave()
        if self._archives is not None:
            self._archives.forget_requests()

    def _beat(self, now: float) -> list[Out]:
        """Ping after a heartbeat without a frame, and end the connection after the heartbeat's timeout."""
        heartbeat, ends_at = self._policies.heartbeat, self._heard_at + self._policies.heartbeat_timeout
        if now >= ends_at:
            return self._lost(f"no frame from the server for {self._policies.heartbeat_timeout:g} s", now)
        if now < self._heard_at + heartbeat:
            self._arm(self._heard_at + heartbeat, XmppSession._beat)
            return []
        self._arm(min(now + heartbeat, ends_at), XmppSession._beat)
        if self._stream.counts:
            self._stream.requested = True
            return [ACK_REQUEST]
        return self._stream.ask("get", self._settings.domain, _PING)

    def _opened(self, opened: Element, now: float) -> list[Out]:
        return []

    def _stream_closed(self, close: Element, now: float) -> list[Out]:
        return self._lost("the server closed the stream", now)

    def _stream_failed(self, error: Element, now: float) -> list[Out]:
        condition, _ = condition_of(error)
        self._resume_id = None  # the session of the server ended with its stream
        reason = f"stream error {described(error)}"
        if condition == "conflict":
            reason += ": another connection logged in as the same device"
        raise Refusal(reason, passes=condition in _PASSING)

    # --- the login --------------------------------------------------------------------------------------------------

    def _features(self, features: Element, now: float) -> list[Out]:
        if self._awaits != "features":
            return []
        self._awaits = ""
        if self._login is not None:
            self._login.read(features)
            return self._prove_identity(now)
        has_acks = features.find(f"{SM}sm") is not None
        if not has_acks and not self._settings.uses_receipts:
            raise Refusal(
                "the server offers no stream management (XEP-0198): enable it (Prosody: smacks; ejabberd: "
                "mod_stream_mgmt), or pass acks=receipts"
            )
        if self._resume_id is not None:
            self._awaits = "resumed"
            id = escaped(self._resume_id)
            return [f"<resume xmlns='urn:xmpp:sm:3' h='{self._stream.handled}' previd='{id}'/>".encode()]
        return self._bind(has_acks, now)

    def _prove_identity(self, now: float) -> list[Out]:
        """Register the account, or log in if it exists.

        One device of a user registers the account while the others wait. Two registrations of one account at the same
        time leave ejabberd 23.01 with an account that cannot log in.
        """
        if self._login is None:
            return []
        if now >= self._login_by:
            return self._login_timed_out(now)
        accounts = self._settings.accounts
        if not self._settings.registers or (self._user in accounts and accounts[self._user] is None):
            self._arm(self._login_by, XmppSession._login_timed_out)
            return [self._login.authenticate().encode()]
        if self._user in accounts:
            self._arm(min(now + _ACCOUNT_WAIT, self._login_by), XmppSession._prove_identity)
            return []
        frame = self._login.register()
        accounts[self._user] = self
        return [frame.encode()]

    def _registered(self, iq: Element, now: float) -> list[Out]:
        if self._login is None:
            return []
        self._login.registered(iq)
        self._settings.accounts[self._user] = None
        return self._prove_identity(now)

    def _challenged(self, challenge: Element, now: float) -> list[Out]:
        return [self._login.challenge(challenge).encode()] if self._login else []

    def _authenticated(self, success: Element, now: float) -> list[Out]:
        if self._login is None:
            return []
        self._login.success(success)
        self._login = None
        self._is_authenticated = True
        self._awaits = "features"
        return [self._settings.opening]

    def _not_authenticated(self, failure: Element, now: float) -> list[Out]:
        if self._login is None:
            return []
        raise self._login.failure(failure)

    def _bind(self, has_acks: bool, now: float) -> list[Out]:
        """Begin a session of the server. The unacknowledged messages of the last one are sent again after the login."""
        again = [outgoing for outgoing in self._stream.take() if outgoing.message]
        self._waiting.extendleft(reversed(again))
        self._forget_session()
        query = f"<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{escaped(self._device)}</resource></bind>"
        return self._stream.ask("set", "", query, lambda iq, now: self._bound(iq, has_acks, now))

    def _bound(self, iq: Element, has_acks: bool, now: float) -> list[Out]:
        address = iq.findtext("*/{urn:ietf:params:xml:ns:xmpp-bind}jid")
        if not address:
            raise Refusal(f"the server did not bind the resource {self._device!r}, {described(iq)}")
        self._messages.address = address
        outs: list[Out] = []
        if has_acks:
            outs.append(b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
            self._stream.begin()
            self._awaits = "enabled"
        outs += self._stream.put(Outgoing("<presence xmlns='jabber:client'/>"))
        if self._archives is not None and self._was_ready:
            outs += self._archives.read(self._bare)
        outs += self._rooms.enter_all()
        # The server answers this request after it has handled the presence: then, messages reach the device.
        if self._settings.has_carbons:
            query, kind, to = "<enable xmlns='urn:xmpp:carbons:2'/>", "set", ""
        else:
            query, kind, to = _PING, "get", self._settings.domain
        return outs + self._stream.ask(kind, to, query, self._announced)

    def _announced(self, iq: Element, now: float) -> list[Out]:
        if self._settings.has_carbons and iq.get("type") == "error":
            raise Refusal(
                f"the server does not send carbons (XEP-0280), {described(iq)}: enable them (Prosody: carbons; "
                "ejabberd: mod_carboncopy), or pass carbons=off"
            )
        self._is_announced = True
        return []

    def _ready_if_joined(self, now: float) -> list[Out]:
        """Report that the device is ready, and send what waits, once its rooms have answered, too."""
        if self._rooms.joining:
            return []
        self._join_by = math.inf
        if self._is_ready or not self._is_announced:
            return []
        self._since = now
        self._is_ready = self._was_ready = True
        self._arm(now + self._policies.heartbeat, XmppSession._beat)
        outs: list[Out] = [Ready()]
        waiting, self._waiting = self._waiting, deque()
        for outgoing in waiting:
            outs += self._stream.put(outgoing)
            if outgoing.message:
                outs.append(Sent(outgoing.message))
        return outs

    # --- stream management ------------------------------------------------------------------------------------------

    def _enabled(self, enabled: Element, now: float) -> list[Out]:
        if self._awaits != "enabled":
            return []
        self._awaits = ""
        self._stream.handled = 0
        if enabled.get("resume") in ("true", "1"):
            self._resume_id = enabled.get("id")
        return []

    def _ack_requested(self, request: Element, now: float) -> list[Out]:
        return [b"<a xmlns='urn:xmpp:sm:3' h='%d'/>" % self._stream.handled]

    def _acknowledged(self, answer: Element, now: float) -> list[Out]:
        outs = self._stream.answered(number(answer, "h"))
        if self._settings.uses_receipts:  # a receipt can arrive before the ack
            return [out for out in outs if type(out) is not Received or self._messages.awaits_receipt(out.id)]
        return outs

    def _resumed(self, resumed: Element, now: float) -> list[Out]:
        """Continue the session of the lost connection: its rooms, its counters and its queue."""
        if self._awaits != "resumed":
            return []
        self._awaits = ""
        outs = self._stream.acknowledge(number(resumed, "h"))
        self._stream.counts = True
        for outgoing in self._stream.take():
            outs += self._stream.put(outgoing)
            if outgoing.message:
                outs.append(Sent(outgoing.message))
        outs += self._rooms.enter_all()
        return outs + self._ready_if_joined(now)

    def _not_enabled(self, failed: Element, now: float) -> list[Out]:
        awaited, self._awaits = self._awaits, ""
        if awaited == "enabled":
            raise Refusal(f"the server does not enable stream management, {described(failed)}")
        if awaited != "resumed":
            return []
        outs = self._stream.acknowledge(number(failed, "h")) if failed.get("h") else []
        return outs + self._bind(True, now)

    def _give_up(self, now: float) -> list[Out]:
        """Report the messages that got no ack in time. Their stanzas remain in the queue, because the server counts."""
        patience = self._settings.patience
        outs: list[Out] = []
        oldest = math.inf
        for queue in (self._stream.queue, self._waiting):
            for at, outgoing in enumerate(queue):
                if (id := outgoing.message) is None:
                    continue
                if now < outgoing.at + patience:
                    oldest = min(oldest, outgoing.at)
                    break
                outs.append(Failed(id, Code.TIMEOUT, f"no ack within {patience:g} s"))
                self._messages.give_up(id)
                queue[at] = outgoing._replace(ack=None)
        while self._waiting and self._waiting[0].ack is None:
            self._waiting.popleft()
        self._give_up_at = oldest + patience
        return outs

    # --- answers to requests, and presences -------------------------------------------------------------------------

    def _iq(self, iq: Element, now: float) -> list[Out]:
        self._stream.handled += 1
        if self._login is not None:
            return self._registered(iq, now) if iq.get("id") == "register" else []
        return self._stream.replied(iq, now) + self._ready_if_joined(now)

    def _presence(self, presence: Element, now: float) -> list[Out]:
        self._stream.handled += 1
        return self._rooms.presence(presence) + self._ready_if_joined(now)


_HANDLERS: dict[str, Callable[[XmppSession, Element, float], list[Out]]] = {
    _PRESENCE: XmppSession._presence,
    _IQ: XmppSession._iq,
    f"{SM}a": XmppSession._acknowledged,
    f"{SM}r": XmppSession._ack_requested,
    f"{SM}enabled": XmppSession._enabled,
    f"{SM}resumed": XmppSession._resumed,
    f"{SM}failed": XmppSession._not_enabled,
    f"{_FRAMING}open": XmppSession._opened,
    f"{_FRAMING}close": XmppSession._stream_closed,
    f"{_STREAMS}features": XmppSession._features,
    f"{_STREAMS}error": XmppSession._stream_failed,
    f"{SASL}challenge": XmppSession._challenged,
    f"{SASL}success": XmppSession._authenticated,
    f"{SASL}failure": XmppSession._not_authenticated,
}
