"""The Gateway machine: the access layer. It holds the connections and knows nothing about conversations.

A connection goes through these states: connected -> `login` -> authenticated -> attached (with a session and an epoch)
-> live -> ended. The gateway passes frames of a live connection to the router that owns the conversation or the user.
It sends a frame from a router only to the connection of the session that the frame names. `pushes` repeats frames until
the device acknowledges them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from imsim.core import events, frames, internal_frames
from imsim.core.exceptions import BadName
from imsim.core.gateway import validation
from imsim.core.gateway.connection import Connection
from imsim.core.gateway.marks import Marks
from imsim.core.gateway.pushes import Pushes
from imsim.core.gateway.retries import RetrySlots
from imsim.core.limits import CURSORS, Buckets
from imsim.core.model import (
    LONGEST_CONVERSATION_ID,
    LONGEST_REF,
    Code,
    Scene,
    Session,
    check_name,
    conversation_id,
    is_group,
)
from imsim.core.placement import SINGLE, Placement
from imsim.core.policies import Policies, Receipts
from imsim.core.timers import Timers

_TIMES = 20_000  # delivery times that are kept if the shell does not clear them
_ASK_AGAIN = 1.0  # the `retry_after` in seconds for a device with too many unanswered requests

#: The texts for the codes with which a router ends or refuses a session.
_ENDED = {
    Code.REPLACED: "this device logged in on another connection",
    Code.KICKED: "another device of this user replaced or ended this session",
    Code.TOKEN_REVOKED: "the token was revoked; get a new token, then log in again",
}


class GatewayPort(Protocol):
    """The actions that a Gateway needs from its shell."""

    def send(self, connection: int, frame: frames.ToClient) -> None: ...

    def close(self, connection: int) -> None:
        """End the connection after the frames sent so far."""

    def authenticate(self, connection: int, token: str) -> None:
        """Verify the token. The shell answers with `authenticated(connection, user or None, code, now)`."""

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None: ...

    def waited(self) -> float:
        """Return how long the frame that the gateway handles now has waited for it, in seconds."""

    def emit(self, event: events.Pushed | events.Shed) -> None: ...


class Gateway:
    """A gateway. Routers address it by `name`. `epoch` is the wall time (seconds since 1970) at which `now` was 0."""

    def __init__(
        self,
        port: GatewayPort,
        policies: Policies,
        name: str = "gateway0",
        placement: Placement = SINGLE,
        epoch: float = 0.0,
        timers: Timers | None = None,
        *,
        reports_all: bool = True,
    ) -> None:
        """Create a gateway. Its deadlines are in `timers`, or by default in timers of its own.

        `reports_all` says whether to report the first attempt of each push, too, and not only repetitions.
        """
        self._reports_all = reports_all
        self._port = port
        self._policies = policies
        self._name = name
        self._placement = placement
        self._epoch = epoch
        self._limits = frames.Limits.of(policies)
        self._windows = frames.Windows.of(policies)
        self._timers = timers or Timers()
        self._has_receipts = policies.receipts is Receipts.DELIVERED
        self._heartbeat_check = self._check_heartbeat  # one bound method for all connections saves memory
        self._connections: dict[int, Connection] = {}
        self._lost: set[str] = set()  # the routers whose links are broken
        #: The times in seconds from the first push to its acknowledgement, of the latest deliveries. The shell may
        #: clear it.
        self.delivery_times: deque[float] = deque(maxlen=_TIMES)
        self.repeated_sends = 0  # the count of sends with resend = true
        # By user and not by connection, or a reconnect would refill them. The first also by the kind of request.
        self._rates: Buckets[tuple[str, str]] = Buckets(policies.user_rate, policies.user_burst)
        self._retries = RetrySlots(policies.longest_wait, policies.reconnect_max)
        self._typing_rates: Buckets[str] = Buckets(policies.typing_rate, policies.typing_burst)

    @property
    def unacknowledged(self) -> int:
        """The count of unacknowledged pushes of all connections."""
        return sum(connection.pushes.count for connection in self._connections.values() if connection.pushes)

    def queued(self) -> Iterator[int]:
        """Yield, for each connection, the count of pushes that its device has not acknowledged."""
        for connection in list(self._connections.values()):
            yield connection.pushes.count if connection.pushes else 0

    @property
    def held_marks(self) -> int:
        """The count of delivered marks of all connections that wait to be passed on."""
        return sum(len(connection.marks) for connection in self._connections.values() if connection.marks)

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def handle_timer(self, now: float) -> None:
        self._timers.handle(now)

    # --- connections ------------------------------------------------------------------------------------------------

    def connected(self, connection: int, now: float) -> None:
        """Add an accepted connection. The shell gives each connection a number and never uses a number twice."""
        opened = self._connections[connection] = Connection(connection, now)
        opened.timer = self._timers.at(now + self._policies.login_timeout, self._login_overdue, opened)

    def disconnected(self, connection: int, now: float) -> None:
        """Remove a connection that has ended. The call is harmless if the gateway itself closed the connection."""
        gone = self._connections.get(connection)
        if gone is not None:
            self._forget(gone)

    def receive(self, connection: int, frame: frames.FromClient, now: float) -> None:
        """Handle a frame from a client."""
        source = self._connections.get(connection)
        if source is None:
            return  # the frame was still on its way when the connection ended
        source.heard = now
        if source.session is not None:
            handler = _HANDLERS.get(type(frame))
            if handler is not None:
                handler(self, source, frame, now)
                return
            self._end(source, Code.BAD_REQUEST, f"{frame.op}: not allowed on a connection that is logged in")
        elif isinstance(frame, frames.Login) and source.login is None:
            self._login(source, frame)
        elif isinstance(frame, frames.Ping):
            self._ping(source, frame, now)
        else:
            self._end(source, Code.BAD_REQUEST, f"{frame.op}: not allowed before the login is answered")

    def refuse(self, connection: int, code: Code, text: str) -> None:
        """End the connection with this code, because the shell could not decode what the client sent."""
        source = self._connections.get(connection)
        if source is not None:
            self._end(source, code, text)

    def reject(self, connection: int, op: str, ref: str, number: int, text: str, now: float) -> None:
        """Reject a request in which the shell found an invalid value. Before the login, end the connection instead."""
        source = self._connections.get(connection)
        if source is not None and source.session is None:
            self._end(source, Code.BAD_REQUEST, text)
        elif source is not None:
            source.heard = now
            self._port.send(connection, frames.Rejected(op, ref[:LONGEST_REF], Code.BAD_REQUEST, text, number=number))

    def router_lost(self, router: str) -> None:
        """Handle a broken link to a router.

        The last frames of both sides may be lost. So the router's users must log in again: then both sides agree on the
        sessions, and the devices fetch what they missed. Until `router_back`, logins of these users wait here, at most
        for `login_timeout`. Sent to the router they would be lost, and each refusal would lengthen a client's backoff.
        """
        self._lost.add(router)
        for connection in list(self._connections.values()):
            if connection.user is None or connection.held is not None:
                continue  # the router does not know this connection
            owner = self._placement.owner
            if owner(connection.user) == router or any(owner(room) == router for room in connection.rooms):
                self._end(connection, Code.UNAVAILABLE, "a server was lost; log in again")

    def router_back(self, router: str) -> None:
        """Continue the logins that waited for this router, because its link works again."""
        self._lost.discard(router)
        for connection in self._connections.values():
            if connection.held is not None and not self._is_lost(connection.held.user):
                held, connection.held = connection.held, None
                self._to_user(held.user, held)

    def _is_lost(self, user: str) -> bool:
        return bool(self._lost) and self._placement.owner(user) in self._lost

    def forget(self) -> None:
        """Delete the connections and timers. The gateway cannot be used after that."""
        self._timers.clear()
        self._connections.clear()

    def shut_down(self) -> None:
        """End every connection, with a code after which clients reconnect."""
        for connection in list(self._connections.values()):
            self._end(connection, Code.GOING_AWAY, "the server is going away")

    # --- login ------------------------------------------------------------------------------------------------------

    def _login(self, connection: Connection, frame: frames.Login) -> None:
        try:
            check_name("device", frame.device)
            for field, name in (("kind", frame.kind), ("instance", frame.instance)):
                if name:
                    check_name(field, name)
        except BadName as error:
            self._end(connection, Code.BAD_REQUEST, str(error))
            return
        connection.login = frame
        self._port.authenticate(connection.id, frame.token)

    def authenticated(
        self, connection: int, user: str | None, code: Code | None, now: float, issued_at: float = 0.0
    ) -> None:
        """Continue a login with the result of `port.authenticate`.

        The result is the token's user and the wall time at which the token was issued (seconds since 1970), or None and
        the code of the refusal (bad_token, token_expired).
        """
        source = self._connections.get(connection)
        if source is None or source.login is None or source.session is not None:
            return
        login = source.login
        if user is None:
            self._end(source, code or Code.BAD_TOKEN, "get a new token, then log in again")
        else:
            source.user = user
            attach = internal_frames.Attach(
                user, login.device, self._name, connection, login.kind, issued_at, login.instance, login.attempt
            )
            if self._is_lost(user):
                source.held = attach
            else:
                self._to_user(user, attach)

    def _attached(self, frame: internal_frames.Attached, now: float) -> None:
        connection = self._connections.get(frame.connection)
        session = frame.session
        if connection is None:
            if session is not None:
                self._to_user(session.user, internal_frames.Detach(session))
        elif session is None:
            code = frame.code or Code.UNAVAILABLE
            self._end(connection, code, _ENDED.get(code, "no session could be created; log in again later"))
        else:
            connection.session, connection.login = session, None
            connection.pushes = Pushes(self._port, self._policies, self._timers, session, reports_all=self._reports_all)
            timeout = self._policies.heartbeat_timeout
            if connection.timer:
                connection.timer.cancel()
            connection.timer = self._timers.at(now + timeout, self._heartbeat_check, connection)
            time = int((self._epoch + now) * 1000)
            logged_in = frames.LoggedIn(
                session.user, session.device, time, timeout, frame.log, self._limits, self._windows
            )
            self._port.send(connection.id, logged_in)

    def _login_overdue(self, connection: Connection, now: float) -> None:
        self._end(connection, Code.LOGIN_TIMEOUT, f"no login within {self._policies.login_timeout:g} s")

    # --- from clients -----------------------------------------------------------------------------------------------

    def _send(self, connection: Connection, frame: frames.Send, now: float) -> None:
        session = connection.session
        assert session is not None
        if frame.resend:
            self.repeated_sends += 1
        if self.is_busy(connection.id, self._port.waited(), now):  # the first check, because a refusal must cost little
            self._port.send(connection.id, self._busy(connection, frames.Rejected(frame.op, frame.ref, Code.BUSY), now))
        elif error := validation.of_send(frame, self._policies):
            self._reject(connection, frame, *error)
        elif not self._is_too_fast(connection, frame, now):
            self._retries.accepted(now)
            id = conversation_id(frame.scene, session.user, frame.to)
            self._port.to_router(self._placement.owner(id), internal_frames.Up(session, frame, id, now))

    def is_busy(self, connection: int, waited: float, now: float) -> bool:
        """Return whether the gateway refuses a send on this connection as `busy`. It has waited for `waited` seconds.

        It also refuses what follows a refused send before the time to repeat that one. So the sends of a client that
        does not wait cost little, and those that were on their way already do not overtake the refused one.
        """
        source = self._connections.get(connection)
        return waited > self._policies.longest_wait or (source is not None and now < source.retry_at)

    def _busy(self, connection: Connection, refusal: frames.Rejected, now: float) -> frames.Rejected:
        """Return the refusal of a send with the time at which this client should repeat it.

        A client has one such time at once. So a client that does not wait does not push back the others.
        """
        if connection.retry_at <= now:
            connection.retry_at = self._retries.take(now)
        text = "the server is busy"
        return replace(refusal, ref=refusal.ref[:LONGEST_REF], text=text, retry_after=connection.retry_at - now)

    def _is_too_fast(self, connection: Connection, frame: frames.Request, now: float) -> bool:
        """Reject the request if it exceeds the user's rate limit, and return whether it did.

        Messages, syncs and other requests have separate limits, so that they do not delay each other.
        """
        if not self._policies.user_rate:
            return False
        what = {frames.Send: "messages", frames.Sync: "syncs"}.get(type(frame), "requests")
        wait = self._wait(connection, what, now)
        if wait:
            text = f"more than {self._policies.user_rate:g} {what} a second"
            self._reject(connection, frame, Code.RATE_LIMITED, text, wait)
        return wait > 0

    def _wait(self, connection: Connection, what: str, now: float) -> float:
        """Take a token from the user's rate limit and return 0, or return the seconds until there is one."""
        assert connection.session is not None
        return self._rates.take((connection.session.user, what), now)

    def _set_conversation(self, connection: Connection, frame: frames.SetConversation, now: float) -> None:
        assert connection.session is not None
        if error := validation.of_setting(frame, connection.session.user, self._policies):
            self._reject(connection, frame, *error)
        else:
            self._ask_own_user(connection, frame, now)

    def _end_session(self, connection: Connection, frame: frames.EndSession, now: float) -> None:
        assert connection.session is not None
        if frame.device == connection.session.device:
            text = "device: expected another device of yours, got this one; to log out, close the connection"
            self._reject(connection, frame, Code.BAD_REQUEST, text)
        else:
            self._ask_own_user(connection, frame, now)

    def _group(self, connection: Connection, frame: frames.Group, now: float) -> None:
        if is_group(frame.conversation_id):
            self._ask_own_user(connection, frame, now)
        else:
            text = f"conversationId: expected group:<name>, got {frame.conversation_id[:LONGEST_CONVERSATION_ID]!r}"
            self._reject(connection, frame, Code.BAD_REQUEST, text)

    def _ask_own_user(self, connection: Connection, frame: frames.Sync | frames.Asked, now: float) -> None:
        if len(frame.ref) > LONGEST_REF:
            field = _NAMED_BY.get(type(frame), "conversationId")
            text = f"{field}: the name is too long; use at most {LONGEST_REF} characters"
            self._reject(connection, frame, Code.BAD_REQUEST, text)
        elif not connection.has_room(frame, now - self._policies.storage_timeout):
            text = "too many requests of this connection wait for an answer"
            self._reject(connection, frame, Code.RATE_LIMITED, text, _ASK_AGAIN)
        elif not self._is_too_fast(connection, frame, now):
            connection.asked(frame, now)
            self._to_own_user(connection, frame, now)

    def _to_own_user(
        self,
        connection: Connection,
        frame: frames.Sync | frames.Asked | frames.Delivered | frames.Typing,
        now: float,
    ) -> None:
        session = connection.session
        assert session is not None
        self._to_user(session.user, internal_frames.Up(session, frame, ""))

    def _enter(self, connection: Connection, frame: frames.Enter, now: float) -> None:
        room, most = conversation_id(Scene.CHATROOM, "", frame.name), self._policies.rooms
        if room not in connection.rooms and len(connection.rooms) >= most:
            text = f"a connection may be in at most {most} chatrooms; leave one first"
            self._reject(connection, frame, Code.TOO_LARGE, text)
        elif self._to_room(connection, frame, now):
            connection.rooms |= {room}

    def _leave(self, connection: Connection, frame: frames.Leave, now: float) -> None:
        if self._to_room(connection, frame, now):
            connection.rooms -= {conversation_id(Scene.CHATROOM, "", frame.name)}

    def _to_room(self, connection: Connection, frame: frames.Enter | frames.Leave, now: float) -> bool:
        """Check a request of a chatroom and pass it to the room's router. Return whether it was passed on."""
        assert connection.session is not None
        try:
            check_name("name", frame.name)
        except BadName as error:
            self._reject(connection, frame, Code.BAD_REQUEST, str(error))
            return False
        if self._is_too_fast(connection, frame, now):
            return False
        room = conversation_id(Scene.CHATROOM, "", frame.name)
        self._port.to_router(self._placement.owner(room), internal_frames.Up(connection.session, frame, room))
        return True

    def _typing(self, connection: Connection, frame: frames.Typing, now: float) -> None:
        """Pass a typing hint on. Hints have a separate rate limit. Beyond it, or if it is 0, they are dropped."""
        session, policies = connection.session, self._policies
        assert session is not None
        if policies.typing_rate and not self._typing_rates.take(session.user, now):
            self._to_own_user(connection, frame, now)

    def _ping(self, connection: Connection, frame: frames.Ping, now: float) -> None:
        self._port.send(connection.id, frames.Pong())

    def _delivered(self, connection: Connection, frame: frames.Delivered, now: float) -> None:
        assert connection.pushes is not None
        if len(frame.conversation_id) > LONGEST_CONVERSATION_ID:
            return  # no conversation has such an id, and the mark could take memory for a while
        connection.pushes.delivered(frame.conversation_id, frame.seq, now, self.delivery_times)
        if self._has_receipts and self._policies.receipts.concern(frame.conversation_id):
            if connection.marks is None:
                connection.marks = Marks(
                    self._timers,
                    lambda now: self._wait(connection, "marks", now),
                    lambda mark, now: self._to_own_user(connection, mark, now),
                )
            if not connection.marks.add(frame, now):
                text = f"conversationId: a device may have at most {CURSORS} conversations"
                self._end(connection, Code.BAD_REQUEST, text)

    def _sync(self, connection: Connection, frame: frames.Sync, now: float) -> None:
        assert connection.pushes is not None
        connection.pushes.resynced(frame.resync)
        if len(frame.cursors) > CURSORS:
            text = f"cursors: expected at most {CURSORS} conversations, got {len(frame.cursors)}"
            self._reject(connection, frame, Code.BAD_REQUEST, text)
        elif frame.newest < 0:
            self._reject(connection, frame, Code.BAD_REQUEST, f"newest: expected 0 or more, got {frame.newest}")
        else:
            self._ask_own_user(connection, frame, now)

    def _state_acked(self, connection: Connection, frame: frames.StateAck, now: float) -> None:
        assert connection.pushes is not None
        connection.pushes.state_acked(frame.conversation_id, frame.version)

    # --- to and from routers -----------------------------------------------------------------------------------------

    def _to_user(self, user: str, frame: internal_frames.ToRouter) -> None:
        self._port.to_router(self._placement.owner(user), frame)

    def receive_from_router(self, frame: internal_frames.ToGateway, now: float) -> None:
        """Handle a frame from a router."""
        if type(frame) is internal_frames.Down:
            sent = frame.frame
            push, connections = _PUSHES.get(type(sent)), self._connections
            for session in frame.sessions:
                connection = connections.get(session.connection)
                if connection is None or connection.pushes is None or connection.session != session:
                    self._drop_for_ended_session(session, sent)
                elif push is None:
                    connection.answered(sent)
                    if type(sent) is frames.Rejected and sent.code is Code.BUSY:
                        self._retries.withdrawn()
                        sent = self._busy(connection, sent, now)
                    self._port.send(connection.id, sent)
                elif not push(connection.pushes, sent, now):
                    text = "too many pushes are unacknowledged; log in again to get them"
                    self._end(connection, Code.SLOW_READER, text)
        elif isinstance(frame, internal_frames.Attached):
            self._attached(frame, now)
        elif isinstance(frame, internal_frames.Kick):
            connection = self._connections.get(frame.session.connection)
            if connection is not None and connection.session == frame.session:
                self._end(connection, frame.code, _ENDED[frame.code])

    def _drop_for_ended_session(self, session: Session, frame: frames.ToClient) -> None:
        """Drop a frame for a session that has ended. The device's next login brings what it missed.

        A chatroom may still have the session, if the `enter` reached it after the `leave` that followed the end of the
        connection. Then send the `leave` again, or the session would stay in the room forever.
        """
        if type(frame) is frames.Entered:
            self._leave_room(session, conversation_id(Scene.CHATROOM, "", frame.name))
        elif type(frame) is frames.Push and frame.message.scene == Scene.CHATROOM:
            self._leave_room(session, frame.message.conversation_id)

    def _leave_room(self, session: Session, room: str) -> None:
        up = internal_frames.Up(session, frames.Leave(room.partition(":")[2]), room)
        self._port.to_router(self._placement.owner(room), up)

    # --- ending -----------------------------------------------------------------------------------------------------

    def _check_heartbeat(self, connection: Connection, now: float) -> None:
        deadline = connection.heard + self._policies.heartbeat_timeout
        if deadline <= now:
            text = f"no frame from the client for {self._policies.heartbeat_timeout:g} s"
            self._end(connection, Code.HEARTBEAT, text)
        else:
            connection.timer = self._timers.at(deadline, self._heartbeat_check, connection)

    def _reject(
        self, connection: Connection, frame: frames.Request, code: Code, text: str, retry_after: float = 0.0
    ) -> None:
        ref = frame.ref[:LONGEST_REF]
        self._port.send(connection.id, frames.Rejected(frame.op, ref, code, text, retry_after, frame.number))

    def _end(self, connection: Connection, code: Code, text: str) -> None:
        self._port.send(connection.id, frames.Refused(code, code.reconnects, text))
        self._port.close(connection.id)
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        del self._connections[connection.id]
        if connection.timer:
            connection.timer.cancel()
        if connection.marks is not None:
            connection.marks.end()
        if connection.pushes is not None:
            connection.pushes.end()
        if connection.session is not None:
            for room in sorted(connection.rooms):
                self._leave_room(connection.session, room)
            self._to_user(connection.session.user, internal_frames.Detach(connection.session))


_HANDLERS: dict[type, Callable[[Gateway, Connection, Any, float], None]] = {
    frames.Send: Gateway._send,
    frames.Delivered: Gateway._delivered,
    frames.StateAck: Gateway._state_acked,
    frames.Ping: Gateway._ping,
    frames.Sync: Gateway._sync,
    frames.Read: Gateway._ask_own_user,
    frames.SetConversation: Gateway._set_conversation,
    frames.History: Gateway._ask_own_user,
    frames.ReadCount: Gateway._ask_own_user,
    frames.Group: Gateway._group,
    frames.Friends: Gateway._ask_own_user,
    frames.EndSession: Gateway._end_session,
    frames.Enter: Gateway._enter,
    frames.Leave: Gateway._leave,
    frames.Typing: Gateway._typing,
}

#: The fields that name the subject of a request, if it is not `conversationId`.
_NAMED_BY: dict[type, str] = {
    frames.EndSession: "device",
    frames.Friends: "after",
    frames.Group: "conversationId or after",
}

#: The frames that are repeated until the device acknowledges them, with their methods. These return whether the queue
#: had room. All other frames are sent once.
_PUSHES: dict[type, Callable[[Pushes, Any, float], bool]] = {
    frames.Push: Pushes.push,
    frames.State: Pushes.state,
    frames.Notify: Pushes.notify,
    frames.Resync: Pushes.resync,
}
