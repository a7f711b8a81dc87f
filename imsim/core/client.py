"""The Client machine: what an IM SDK does for an application on one device.

It logs in and comes back after a lost connection, gives each message an answer (stored, or failed for good), shows each
received message once and in order, and keeps the conversation list with its unread counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from imsim.core import events, frames
from imsim.core.inbox import Inbox, Taken
from imsim.core.model import Code, Flow, Message, Route, Scene, Status, conversation_id
from imsim.core.policies import Policies
from imsim.core.timers import Timer, Timers
from imsim.core.unread import Unread

_OUTGOING = 10_000  # sends that may wait for their answer
_FAILED = 1_000  # failed sends remembered, in case they prove stored after all


class Port(Protocol):
    def connect(self) -> None:
        """Open a connection; answered by `connected(now)` or `disconnected(now)`."""

    def send(self, frame: frames.FromClient) -> None: ...

    def close(self) -> None:
        """End the connection; `disconnected` need not follow."""

    def emit(self, event: events.ClientEvent) -> None: ...


class State(StrEnum):
    OFFLINE = "offline"  # not started, or waiting to connect again
    CONNECTING = "connecting"
    LOGGING_IN = "logging_in"
    SYNCING = "syncing"
    ONLINE = "online"
    ENDED = "ended"  # refused for good, or stopped


@dataclass(slots=True)
class Conversation:
    """A line of the conversation list, as this user sees it. `update_time`: ms since 1970."""

    id: str
    scene: Scene
    to: str
    update_time: int
    unread: int
    read_seq: int
    last_msg: Message | None


class _Outgoing:
    """A send without its final answer. `held` means: refused because its predecessor is missing."""

    __slots__ = ("attempts", "conversation", "frame", "held", "timer")

    def __init__(self, conversation: _Conversation, frame: frames.Send) -> None:
        self.conversation = conversation
        self.frame = frame
        self.attempts = 0
        self.held = False
        self.timer: Timer | None = None


class _Conversation:
    __slots__ = ("gap_timer", "id", "inbox", "last_msg", "outgoing", "unread")

    def __init__(self, id: str) -> None:
        self.id = id
        self.inbox = Inbox()
        self.gap_timer: Timer | None = None
        self.unread = Unread()
        self.last_msg: Message | None = None
        self.outgoing: dict[str, _Outgoing] = {}  # unanswered, in the order of sending


class Client:
    """`draw()` gives a uniform number in [0, 1), for the jitter of reconnects."""

    __slots__ = (
        "_conversations",
        "_draw",
        "_failed",
        "_failures",
        "_heard_at",
        "_outgoing",
        "_policies",
        "_port",
        "_sent_at",
        "_sync_again",
        "_timer",
        "_timers",
        "device",
        "kind",
        "state",
        "token",
        "user",
    )

    def __init__(
        self,
        port: Port,
        user: str,
        device: str,
        token: str,
        policies: Policies,
        draw: Callable[[], float],
        kind: str = "",
    ) -> None:
        self.user = user
        self.kind = kind
        self.device = device
        self.token = token
        self.state = State.OFFLINE
        self._port = port
        self._policies = policies
        self._draw = draw
        self._timers = Timers()
        self._timer: Timer | None = None  # the connection's: reconnect, login, sync or heartbeat
        self._sent_at = 0.0
        self._heard_at = 0.0
        self._sync_again = False
        self._failures = 0  # connections in a row that did not get as far as a login
        self._conversations: dict[str, _Conversation] = {}
        self._outgoing: dict[str, _Outgoing] = {}
        self._failed: dict[str, _Outgoing] = {}  # in case they prove stored after all

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def handle_timer(self, now: float) -> None:
        self._timers.handle(now)

    # --- what the application asks for ------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Connect and log in, and stay so until `stop`."""
        if self.state in (State.OFFLINE, State.ENDED):
            self._connect(None, now)

    def stop(self, now: float) -> None:
        """Leave. Unanswered sends are kept, and go out again after the next `start`."""
        self._port.close()
        self._lost(now)
        self.state = State.ENDED

    def send(
        self,
        scene: Scene,
        to: str,
        content: str,
        id_client: str,
        now: float,
        *,
        type: str = "text",
        file: dict[str, object] | None = None,
        custom: str | None = None,
    ) -> None:
        """Send a message; `Acked` or `SendFailed` answers. `id_client` must be new, or that of a send that failed:
        then this is its manual resend."""
        conversation = self._conversation(conversation_id(scene, self.user, to))
        again = self._failed.pop(id_client, None) is not None
        shown = conversation.inbox.next_seq - 1
        frame = frames.Send(id_client, scene, to, content, type, file, custom, again, None, shown)
        outgoing = _Outgoing(conversation, frame)
        if len(self._outgoing) >= _OUTGOING:
            self._fail(outgoing, Code.UNAVAILABLE, "too many messages wait for an answer")
            return
        self._outgoing[id_client] = conversation.outgoing[id_client] = outgoing
        if self.state in (State.ONLINE, State.SYNCING):
            self._transmit(outgoing, now)

    def read(self, conversation_id: str, now: float) -> None:
        """The user has read all that the conversation shows."""
        conversation = self._conversations.get(conversation_id)
        if conversation is not None and conversation.unread.read(conversation.inbox.next_seq - 1):
            self._mark_moved(conversation)
            if self.state == State.ONLINE:
                self._put(frames.Read(conversation.id, conversation.unread.read_seq), now)

    def create_group(self, name: str, members: list[str], now: float) -> None:
        """Needs a login; `GroupMade` or `RequestFailed` answers, unless the connection is lost: then ask again."""
        self._put(frames.CreateGroup(name, members), now)

    def end_session(self, device: str, now: float) -> None:
        """Log out another device of this user. Needs a login; `RequestDone` answers, as for `create_group`."""
        self._put(frames.EndSession(device), now)

    def conversations(self) -> list[Conversation]:
        """The conversation list, the latest first."""
        views = [self._view(c) for c in self._conversations.values() if c.last_msg or c.inbox.next_seq > 1]
        return sorted(views, key=lambda view: (-view.update_time, view.id))

    def status(self, id_client: str) -> Status:
        """Of a message that this client has sent: sending, success or fail."""
        if id_client in self._outgoing:
            return Status.SENDING
        return Status.FAIL if id_client in self._failed else Status.SUCCESS

    def _view(self, conversation: _Conversation) -> Conversation:
        scene, _, rest = conversation.id.partition(":")
        if scene == Scene.P2P:
            one, other = rest.split(":")
            rest = other if one == self.user else one
        last = conversation.last_msg
        unread = conversation.unread
        return Conversation(
            conversation.id, Scene(scene), rest, last.time if last else 0, unread.count, unread.read_seq, last
        )

    # --- the connection ---------------------------------------------------------------------------------------------

    def _connect(self, _: None, now: float) -> None:
        self.state = State.CONNECTING
        self._arm(now + self._policies.login_timeout, self._gave_up)
        self._port.connect()

    def connected(self, now: float) -> None:
        """The connection that `port.connect` asked for is open."""
        if self.state == State.CONNECTING:
            self.state = State.LOGGING_IN
            self._heard_at = now
            self._arm(now + self._policies.login_timeout, self._gave_up)
            self._put(frames.Login(self.token, self.device, self.kind), now)

    def disconnected(self, now: float) -> None:
        """The connection is lost, or could not be opened: try again later, with full jitter (a uniform share of an
        exponentially growing wait, so that a crowd that lost its server together does not come back together)."""
        if self.state not in (State.ENDED, State.OFFLINE):
            self._reconnect(None, now)

    def _reconnect(self, code: Code | None, now: float) -> None:
        self._lost(now)
        self.state = State.OFFLINE
        ceiling = min(self._policies.reconnect_max, self._policies.reconnect_min * 2.0 ** min(self._failures, 30))
        self._failures += 1
        self._arm(now + self._draw() * ceiling, self._connect)
        self._port.emit(events.Disconnected(code))

    def _lost(self, now: float) -> None:
        if self._timer:
            self._timer.cancel()
        for outgoing in self._outgoing.values():
            if outgoing.timer:
                outgoing.timer.cancel()
        for conversation in self._conversations.values():
            if conversation.gap_timer:
                conversation.gap_timer.cancel()
                conversation.gap_timer = None

    def _gave_up(self, _: None, now: float) -> None:
        self._port.close()
        self._reconnect(Code.LOGIN_TIMEOUT, now)

    def _arm(self, deadline: float, callback: Callable[[Any, float], None]) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._timers.at(deadline, callback)

    def receive(self, frame: frames.ToClient, now: float) -> None:
        self._heard_at = now
        _HANDLERS[type(frame)](self, frame, now)

    def _put(self, frame: frames.FromClient, now: float) -> None:
        self._sent_at = now
        self._port.send(frame)

    def _logged_in(self, frame: frames.LoggedIn, now: float) -> None:
        self.state = State.SYNCING
        self._sync_again = False
        self._failures = 0
        self._sync(None, now)
        for outgoing in list(self._outgoing.values()):
            if outgoing.attempts == 0 or not self._spent(outgoing):
                self._transmit(outgoing, now)

    def _refused(self, frame: frames.Refused, now: float) -> None:
        self._port.close()
        if frame.reconnect:
            self._reconnect(frame.code, now)
        else:
            self._lost(now)
            self.state = State.ENDED
            self._port.emit(events.Ended(frame.code, frame.text))

    def _resync(self, frame: frames.Resync, now: float) -> None:
        if self.state == State.ONLINE:
            self.state = State.SYNCING
            self._sync(None, now)
        else:
            self._sync_again = True  # the sync under way may have looked too early

    def _sync(self, _: None, now: float) -> None:
        """Ask for what was missed, and again if no answer comes."""
        cursors = {c.id: c.inbox.cursor for c in self._conversations.values()}
        self._arm(now + self._policies.send_timeout, self._sync_overdue)
        self._put(frames.Sync(cursors), now)

    def _sync_overdue(self, _: None, now: float) -> None:
        if now - self._heard_at >= self._policies.heartbeat_timeout:
            self._port.close()
            self._reconnect(Code.HEARTBEAT, now)
            return
        self._put(frames.Ping(), now)  # a server whose storage is slow is heard at least
        self._sync(None, now)

    def _page(self, frame: frames.Page, now: float) -> None:
        for message in frame.messages:
            self._take(message, Route.SYNC, now)
        for id, seq in frame.cursors.items():
            conversation = self._conversation(id)
            conversation.inbox.complete_to(seq)
            self._show_following(conversation, now)
        if frame.more and self.state == State.SYNCING:  # not for the late answer to a repeated request
            self._sync(None, now)

    def _sync_done(self, frame: frames.SyncDone, now: float) -> None:
        if self.state != State.SYNCING:
            return  # the answer to a request that was repeated
        if self._sync_again:
            self._sync_again = False
            self._sync(None, now)
            return
        self.state = State.ONLINE
        for mark in frame.marks:
            conversation = self._conversation(mark.conversation_id)
            if conversation.unread.read_seq > mark.read_seq:  # read while offline
                self._put(frames.Read(conversation.id, conversation.unread.read_seq), now)
            elif conversation.unread.read(mark.read_seq):
                self._mark_moved(conversation)
        for conversation in self._conversations.values():
            self._wait_for_gap(conversation, now)
        self._arm(now + self._policies.heartbeat, self._beat)
        self._port.emit(events.Ready())

    def _beat(self, _: None, now: float) -> None:
        if now - self._heard_at >= self._policies.heartbeat_timeout:
            self._port.close()
            self._reconnect(Code.HEARTBEAT, now)
            return
        if now - self._sent_at >= self._policies.heartbeat:
            self._put(frames.Ping(), now)
        self._arm(now + self._policies.heartbeat, self._beat)

    def _ponged(self, frame: frames.Pong, now: float) -> None:
        pass  # having been heard is all that it is for

    # --- sending ----------------------------------------------------------------------------------------------------

    def _transmit(self, outgoing: _Outgoing, now: float) -> None:
        frame, conversation = outgoing.frame, outgoing.conversation
        outgoing.attempts += 1
        outgoing.held = False
        after = None
        if len(conversation.outgoing) > 1:
            for id_client in conversation.outgoing:
                if id_client == frame.id_client:
                    break
                after = id_client
        if outgoing.attempts > 1 or after is not None:
            resend = frame.resend or outgoing.attempts > 1
            outgoing.frame = frame = frames.Send(
                frame.id_client,
                frame.scene,
                frame.to,
                frame.content,
                frame.type,
                frame.file,
                frame.custom,
                resend,
                after,
                frame.shown,
            )
        if outgoing.timer:
            outgoing.timer.cancel()
        outgoing.timer = self._timers.at(now + self._policies.send_timeout, self._send_overdue, outgoing)
        self._port.emit(events.Sent(frame.id_client, outgoing.attempts))
        self._put(frame, now)

    def _spent(self, outgoing: _Outgoing) -> bool:
        if outgoing.attempts < self._policies.send_attempts:
            return False
        self._drop(outgoing)
        self._fail(outgoing, Code.TIMEOUT, "no answer after every attempt")
        return True

    def _send_overdue(self, outgoing: _Outgoing, now: float) -> None:
        if not self._spent(outgoing):
            self._transmit(outgoing, now)
        else:
            self._release_held(outgoing.conversation, now)

    def _drop(self, outgoing: _Outgoing) -> None:
        del self._outgoing[outgoing.frame.id_client]
        del outgoing.conversation.outgoing[outgoing.frame.id_client]
        if outgoing.timer:
            outgoing.timer.cancel()

    def _fail(self, outgoing: _Outgoing, code: Code, text: str) -> None:
        id_client = outgoing.frame.id_client
        self._failed[id_client] = outgoing
        if len(self._failed) > _FAILED:
            del self._failed[next(iter(self._failed))]
        self._port.emit(events.SendFailed(id_client, code, text))

    def _received(self, frame: frames.Received, now: float) -> None:
        self._port.emit(events.Received(frame.id_client))

    def _stored(self, frame: frames.Stored, now: float) -> None:
        outgoing = self._take_answered(frame.id_client, frame.conversation_id)
        if outgoing is None:
            return  # answered before
        conversation, sent = outgoing.conversation, outgoing.frame
        if conversation.last_msg is None or frame.seq > conversation.last_msg.seq:
            conversation.last_msg = Message(
                frame.conversation_id,
                frame.seq,
                frame.id,
                frame.id_client,
                sent.scene,
                sent.type,
                self.user,
                sent.to,
                frame.time,
                sent.content,
                sent.file,
                sent.custom,
                sent.resend,
            )
        if conversation.unread.read(sent.shown):
            self._mark_moved(conversation)
        conversation.inbox.place_own(frame.seq)
        self._show_following(conversation, now)
        self._port.emit(events.Acked(frame.id_client, frame.conversation_id, frame.seq))
        self._release_held(conversation, now)

    def _take_answered(self, id_client: str, conversation: str) -> _Outgoing | None:
        """The send that proves stored, also if it had failed; it waits for nothing any more."""
        for sends in (self._outgoing, self._failed):
            outgoing = sends.get(id_client)
            if outgoing is not None and outgoing.conversation.id == conversation:
                if sends is self._outgoing:
                    self._drop(outgoing)
                else:
                    del self._failed[id_client]
                return outgoing
        return None

    def _rejected(self, frame: frames.Rejected, now: float) -> None:
        if frame.request != frames.Send.op:
            self._port.emit(events.RequestFailed(frame.request, frame.ref, frame.code, frame.text))
            return
        outgoing = self._outgoing.get(frame.ref)
        if outgoing is None:
            return  # answered before
        if frame.code == Code.GAP:
            outgoing.held = True
            if next(iter(outgoing.conversation.outgoing)) == frame.ref:
                self._release_held(outgoing.conversation, now)
        elif frame.code == Code.RATE_LIMITED:
            outgoing.attempts -= 1  # a refusal that says when to come back is no failed attempt
            if outgoing.timer:
                outgoing.timer.cancel()
            outgoing.timer = self._timers.at(now + frame.retry_after, self._send_overdue, outgoing)
        elif not frame.code.retryable:
            self._drop(outgoing)
            self._fail(outgoing, frame.code, frame.text)
            self._release_held(outgoing.conversation, now)
        # Otherwise its timer sends it again, a little later, which is what an overloaded server needs.

    def _release_held(self, conversation: _Conversation, now: float) -> None:
        """The oldest unanswered message of the conversation changed: those held back for it may go again."""
        for outgoing in list(conversation.outgoing.values()):
            if not outgoing.held:
                break
            if not self._spent(outgoing):
                self._transmit(outgoing, now)

    # --- receiving --------------------------------------------------------------------------------------------------

    def _pushed(self, frame: frames.Push, now: float) -> None:
        message = frame.message
        conversation = self._take(message, Route.PUSH, now)
        self._put(frames.Delivered(message.conversation_id, conversation.inbox.next_seq - 1), now)

    def _take(self, message: Message, route: Route, now: float) -> _Conversation:
        conversation = self._conversations.get(message.conversation_id)
        if conversation is None:
            conversation = self._conversation(message.conversation_id)
        taken = conversation.inbox.take(message, route, now)
        if taken is Taken.SHOW:
            self._show(conversation, message, route)
            self._show_following(conversation, now)
        elif taken is Taken.REPEATED:
            self._port.emit(events.Repeated(message))
        else:
            self._wait_for_gap(conversation, now)
        return conversation

    def _show(self, conversation: _Conversation, message: Message, route: Route) -> None:
        last = conversation.last_msg
        if last is None or message.seq > last.seq:
            conversation.last_msg = message
        if message.sender == self.user:
            outgoing = self._take_answered(message.id_client, conversation.id)
            if outgoing is not None:  # its own message, of which the answer was lost
                if conversation.unread.read(outgoing.frame.shown):
                    self._mark_moved(conversation)
                self._port.emit(events.Acked(message.id_client, conversation.id, message.seq))
                return
            self._port.emit(events.Shown(message, Flow.OUT, route))
        else:
            if message.countable:
                conversation.unread.add(message.seq)
            self._port.emit(events.Shown(message, Flow.IN, route))

    def _show_following(self, conversation: _Conversation, now: float) -> None:
        for message, route in conversation.inbox.following():
            self._show(conversation, message, route)
        if conversation.gap_timer is not None:
            conversation.gap_timer.cancel()
            conversation.gap_timer = None
            self._wait_for_gap(conversation, now)

    def _wait_for_gap(self, conversation: _Conversation, now: float) -> None:
        """No message is held back for longer than `gap_wait`, however many gaps there are before it."""
        since = conversation.inbox.held_since
        if since is not None and conversation.gap_timer is None:
            deadline = max(now, since + self._policies.gap_wait)
            conversation.gap_timer = self._timers.at(deadline, self._gap_overdue, conversation)

    def _gap_overdue(self, conversation: _Conversation, now: float) -> None:
        """Nobody filled the gap: show what stands behind it. The next login's sync asks for what is missing."""
        conversation.gap_timer = None
        if self.state != State.ONLINE:
            return  # the next sync will fill it; if not, its end starts the wait anew
        conversation.inbox.give_up_gap()
        self._show_following(conversation, now)
        self._put(frames.Delivered(conversation.id, conversation.inbox.next_seq - 1), now)
        self._wait_for_gap(conversation, now)

    # --- marks and groups -------------------------------------------------------------------------------------------

    def _marked(self, frame: frames.Marked, now: float) -> None:
        conversation = self._conversation(frame.mark.conversation_id)
        if conversation.unread.read(frame.mark.read_seq):
            self._mark_moved(conversation)

    def _mark_moved(self, conversation: _Conversation) -> None:
        unread = conversation.unread
        self._port.emit(events.MarkMoved(conversation.id, unread.read_seq, unread.count))

    def _done(self, frame: frames.Done, now: float) -> None:
        self._port.emit(events.RequestDone(frame.request, frame.ref))

    def _group_created(self, frame: frames.GroupCreated, now: float) -> None:
        self._port.emit(events.GroupMade(frame.name, frame.conversation_id))

    def _conversation(self, id: str) -> _Conversation:
        conversation = self._conversations.get(id)
        if conversation is None:
            conversation = self._conversations[id] = _Conversation(id)
        return conversation


_HANDLERS: dict[type, Callable[[Client, Any, float], None]] = {
    frames.Push: Client._pushed,
    frames.Stored: Client._stored,
    frames.Rejected: Client._rejected,
    frames.Received: Client._received,
    frames.Page: Client._page,
    frames.SyncDone: Client._sync_done,
    frames.Marked: Client._marked,
    frames.Resync: Client._resync,
    frames.LoggedIn: Client._logged_in,
    frames.Refused: Client._refused,
    frames.GroupCreated: Client._group_created,
    frames.Done: Client._done,
    frames.Pong: Client._ponged,
}
