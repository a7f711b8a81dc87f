"""The Gateway machine: the access layer. It holds the connections, and knows nothing of conversations.

A connection's life: connected -> `login` -> authenticated -> attached (a session with an epoch) -> live -> gone. What a
live connection sends goes up to the router that owns the conversation or the user; what comes down goes to the
connection of that very session, or nowhere; see `pushes` for what is repeated until the device has acknowledged it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from imsim.core import events, frames, internal_frames
from imsim.core.exceptions import BadName
from imsim.core.gateway import validation
from imsim.core.gateway.connection import Connection
from imsim.core.gateway.marks import Marks
from imsim.core.gateway.pushes import Pushes
from imsim.core.limits import CURSORS, Buckets
from imsim.core.model import (
    LONGEST_CONVERSATION_ID,
    LONGEST_REF,
    Code,
    Scene,
    Session,
    check_name,
    conversation_id,
)
from imsim.core.placement import SINGLE, Placement
from imsim.core.policies import Policies
from imsim.core.timers import Timers

_ASK_AGAIN = 1.0  # seconds after which who has too many requests under way is to ask again

_KICKED = {
    Code.REPLACED: "this device logged in on another connection",
    Code.KICKED: "another device of yours took its place, or ended it",
    Code.TOKEN_REVOKED: "the token was revoked; get a new one",
}


class GatewayPort(Protocol):
    def send(self, connection: int, frame: frames.ToClient) -> None: ...

    def close(self, connection: int) -> None:
        """End the connection, after what was sent."""

    def authenticate(self, connection: int, token: str) -> None:
        """Whose token is it? Answered by `authenticated(connection, user or None, code, now)`."""

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None: ...

    def emit(self, event: events.Pushed | events.Shed) -> None: ...


class Gateway:
    """`name` is how routers address this gateway. `epoch`: wall time in seconds since 1970 at which `now` was 0."""

    def __init__(
        self,
        port: GatewayPort,
        policies: Policies,
        name: str = "gateway0",
        placement: Placement = SINGLE,
        epoch: float = 0.0,
        timers: Timers | None = None,
    ) -> None:
        """`timers`: what its deadlines stand in; some of its own, if they are not given."""
        self._port = port
        self._policies = policies
        self._name = name
        self._placement = placement
        self._epoch = epoch
        self._timers = timers or Timers()
        self._heartbeat_check = self._check_heartbeat  # bound once, and not for each connection
        self._connections: dict[int, Connection] = {}
        self._lost: set[str] = set()  # routers
        # By user, kept across connections, or reconnecting would refill them; the first also by what it is of.
        self._rates: Buckets[tuple[str, str]] = Buckets(policies.user_rate, policies.user_burst)
        self._typing_rates: Buckets[str] = Buckets(policies.typing_rate, policies.typing_burst)

    @property
    def unacknowledged(self) -> int:
        """How many pushes are held until they are acknowledged, of all connections."""
        return sum(connection.pushes.count for connection in self._connections.values() if connection.pushes)

    @property
    def held_marks(self) -> int:
        """How many acknowledgements wait to be passed on, of all connections."""
        return sum(len(connection.marks) for connection in self._connections.values() if connection.marks)

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def handle_timer(self, now: float) -> None:
        self._timers.handle(now)

    # --- connections ------------------------------------------------------------------------------------------------

    def connected(self, connection: int, now: float) -> None:
        """A connection was accepted; the shell numbers connections, never twice the same."""
        opened = self._connections[connection] = Connection(connection, now)
        opened.timer = self._timers.at(now + self._policies.login_timeout, self._login_overdue, opened)

    def disconnected(self, connection: int, now: float) -> None:
        """The connection is gone. Harmless if this gateway closed it itself."""
        gone = self._connections.get(connection)
        if gone is not None:
            self._forget(gone)

    def receive(self, connection: int, frame: frames.FromClient, now: float) -> None:
        source = self._connections.get(connection)
        if source is None:
            return  # closed already, and this was still on its way
        source.heard = now
        if source.session is not None:
            handler = _HANDLERS.get(type(frame))
            if handler is not None:
                handler(self, source, frame, now)
                return
            self._end(source, Code.BAD_REQUEST, f"{frame.op} is not expected here")
        elif isinstance(frame, frames.Login) and source.login is None:
            self._login(source, frame)
        elif isinstance(frame, frames.Ping):
            self._ping(source, frame, now)
        else:
            self._end(source, Code.BAD_REQUEST, f"{frame.op} before the login has been answered")

    def refuse(self, connection: int, code: Code, text: str) -> None:
        """The shell could not make sense of what the client sent: end the connection with this code."""
        source = self._connections.get(connection)
        if source is not None:
            self._end(source, code, text)

    def reject(self, connection: int, op: str, ref: str, number: int, text: str, now: float) -> None:
        """The shell could make sense of this request but for a value in it that cannot be: so much for the request."""
        source = self._connections.get(connection)
        if source is not None and source.session is None:
            self._end(source, Code.BAD_REQUEST, text)
        elif source is not None:
            source.heard = now
            self._port.send(connection, frames.Rejected(op, ref[:LONGEST_REF], Code.BAD_REQUEST, text, number=number))

    def router_lost(self, router: str) -> None:
        """The link to a router broke: what either side sent last may be lost. The users whom it owns must log in
        again, so that both sides agree on their sessions, and fetch what they missed. Until `router_back` their logins
        wait here, for `login_timeout` as ever: sent there they would be lost, and who is refused stays away for ever
        longer."""
        self._lost.add(router)
        for connection in list(self._connections.values()):
            if connection.user is None or connection.held is not None:
                continue  # nothing of it is there
            owner = self._placement.owner
            if owner(connection.user) == router or any(owner(room) == router for room in connection.rooms):
                self._end(connection, Code.UNAVAILABLE, "a server was lost; log in again")

    def router_back(self, router: str) -> None:
        """The link to it works again: logins that waited go on."""
        self._lost.discard(router)
        for connection in self._connections.values():
            if connection.held is not None and not self._is_lost(connection.held.user):
                held, connection.held = connection.held, None
                self._to_user(held.user, held)

    def _is_lost(self, user: str) -> bool:
        return bool(self._lost) and self._placement.owner(user) in self._lost

    def forget(self) -> None:
        """All that it holds is gone. It cannot be used any more."""
        self._timers.clear()
        self._connections.clear()

    def shut_down(self) -> None:
        """End every connection, telling the clients to come back."""
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
        """The answer to `port.authenticate`: the token's user, and the wall time at which it was issued; or None
        and why (bad_token, token_expired)."""
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
            self._end(connection, frame.code or Code.UNAVAILABLE, "no session could be made")
        else:
            connection.session, connection.login = session, None
            connection.pushes = Pushes(self._port, self._policies, self._timers, session)
            timeout = self._policies.heartbeat_timeout
            if connection.timer:
                connection.timer.cancel()
            connection.timer = self._timers.at(now + timeout, self._heartbeat_check, connection)
            time = int((self._epoch + now) * 1000)
            self._port.send(connection.id, frames.LoggedIn(session.user, session.device, time, timeout, frame.log))

    def _login_overdue(self, connection: Connection, now: float) -> None:
        self._end(connection, Code.LOGIN_TIMEOUT, "no login in time")

    # --- from clients -----------------------------------------------------------------------------------------------

    def _send(self, connection: Connection, frame: frames.Send, now: float) -> None:
        session = connection.session
        assert session is not None
        if error := validation.of_send(frame, self._policies):
            self._reject(connection, frame, *error)
            return
        if not self._is_too_fast(connection, frame, now):
            id = conversation_id(frame.scene, session.user, frame.to)
            self._port.to_router(self._placement.owner(id), internal_frames.Up(session, frame, id))

    def _is_too_fast(self, connection: Connection, frame: frames.Request, now: float) -> bool:
        """Whether it was refused because the user asks for too much. Messages, syncs and other requests are counted
        apart: what of one kind is too much holds up no other."""
        if not self._policies.user_rate:
            return False
        what = {frames.Send: "messages", frames.Sync: "syncs"}.get(type(frame), "requests")
        wait = self._wait(connection, what, now)
        if wait:
            text = f"more than {self._policies.user_rate:g} {what} a second"
            self._reject(connection, frame, Code.RATE_LIMITED, text, wait)
        return wait > 0

    def _wait(self, connection: Connection, what: str, now: float) -> float:
        """Seconds until the user may do so; 0: now, and it counts."""
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
            text = "device: this is your own; close the connection instead"
            self._reject(connection, frame, Code.BAD_REQUEST, text)
        else:
            self._ask_own_user(connection, frame, now)

    def _ask_own_user(self, connection: Connection, frame: frames.Sync | frames.Asked, now: float) -> None:
        if len(frame.ref) > LONGEST_REF:
            self._reject(connection, frame, Code.BAD_REQUEST, "conversationId, or device: nothing has so long a name")
        elif not connection.has_room(frame, now - self._policies.storage_timeout):
            text = "too many requests are not answered yet"
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
            text = f"more than {most} chatrooms on one connection; leave one first"
            self._reject(connection, frame, Code.TOO_LARGE, text)
        elif self._to_room(connection, frame, now):
            connection.rooms |= {room}

    def _leave(self, connection: Connection, frame: frames.Leave, now: float) -> None:
        if self._to_room(connection, frame, now):
            connection.rooms -= {conversation_id(Scene.CHATROOM, "", frame.name)}

    def _to_room(self, connection: Connection, frame: frames.Enter | frames.Leave, now: float) -> bool:
        """Whether it went there."""
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
        """Hints have a budget of their own, and end here beyond it, or where there is none."""
        session, policies = connection.session, self._policies
        assert session is not None
        if policies.typing_rate and not self._typing_rates.take(session.user, now):
            self._to_own_user(connection, frame, now)

    def _ping(self, connection: Connection, frame: frames.Ping, now: float) -> None:
        self._port.send(connection.id, frames.Pong())

    def _delivered(self, connection: Connection, frame: frames.Delivered, now: float) -> None:
        assert connection.pushes is not None
        if len(frame.conversation_id) > LONGEST_CONVERSATION_ID:
            return  # there is no such conversation, and it may be kept for a while
        connection.pushes.delivered(frame.conversation_id, frame.seq)
        if self._policies.receipts.concern(frame.conversation_id):
            if connection.marks is None:
                connection.marks = Marks(
                    self._timers,
                    lambda now: self._wait(connection, "marks", now),
                    lambda mark, now: self._to_own_user(connection, mark, now),
                )
            if not connection.marks.add(frame, now):
                self._end(connection, Code.BAD_REQUEST, f"conversationId: a device has at most {CURSORS} conversations")

    def _sync(self, connection: Connection, frame: frames.Sync, now: float) -> None:
        assert connection.pushes is not None
        connection.pushes.resynced(frame.resync)
        if len(frame.cursors) > CURSORS:
            text = f"cursors: of at most {CURSORS} conversations"
            self._reject(connection, frame, Code.BAD_REQUEST, text)
        else:
            self._ask_own_user(connection, frame, now)

    def _state_acked(self, connection: Connection, frame: frames.StateAck, now: float) -> None:
        assert connection.pushes is not None
        connection.pushes.state_acked(frame.conversation_id, frame.version)

    # --- to and from routers -----------------------------------------------------------------------------------------

    def _to_user(self, user: str, frame: internal_frames.ToRouter) -> None:
        self._port.to_router(self._placement.owner(user), frame)

    def receive_from_router(self, frame: internal_frames.ToGateway, now: float) -> None:
        match frame:
            case internal_frames.Down():
                sent = frame.frame
                push = _PUSHES.get(type(sent))
                for session in frame.sessions:
                    connection = self._connections.get(session.connection)
                    if connection is None or connection.pushes is None or connection.session != session:
                        self._leave_behind(session, sent)
                    elif push is None:
                        connection.answered(sent)
                        self._port.send(connection.id, sent)
                    elif not push(connection.pushes, sent, now):
                        text = "too many pushes are unacknowledged; log in again to get them"
                        self._end(connection, Code.SLOW_READER, text)
            case internal_frames.Attached():
                self._attached(frame, now)
            case internal_frames.Kick():
                connection = self._connections.get(frame.session.connection)
                if connection is not None and connection.session == frame.session:
                    self._end(connection, frame.code, _KICKED[frame.code])

    def _leave_behind(self, session: Session, frame: frames.ToClient) -> None:
        """It is gone since: the device's next login brings what it missed. But a room that takes it for present, for
        its `enter` came there after the `leave` with which the connection ended, would do so for ever."""
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
            self._end(connection, Code.HEARTBEAT, "nothing was heard for too long")
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
    frames.EndSession: Gateway._end_session,
    frames.Enter: Gateway._enter,
    frames.Leave: Gateway._leave,
    frames.Typing: Gateway._typing,
}

#: What is sent until the device acknowledges it; the rest goes once. Returns whether there was room for it.
_PUSHES: dict[type, Callable[[Pushes, Any, float], bool]] = {
    frames.Push: Pushes.push,
    frames.State: Pushes.state,
    frames.Notify: Pushes.notify,
    frames.Resync: Pushes.resync,
}
