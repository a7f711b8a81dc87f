"""The Client machine: what an IM SDK does for an application on one device.

It logs in and comes back after a lost connection, gives each message an answer (stored, or failed for good), shows each
received message once and in order, and keeps the conversation list with its unread counts.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from imsim.core import events, frames
from imsim.core.inbox import Taken
from imsim.core.model import Code, Flow, Message, Place, Route, Scene, Status, conversation_id
from imsim.core.outbox import Outbox, Outgoing
from imsim.core.policies import Policies
from imsim.core.requests import Requests
from imsim.core.screen import Conversation, LocalConversation
from imsim.core.timers import Timer, Timers


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


class Client:
    """`draw()` gives a uniform number in [0, 1), for the jitter of reconnects."""

    __slots__ = (
        "_conversations",
        "_draw",
        "_failures",
        "_heard_at",
        "_outbox",
        "_policies",
        "_port",
        "_requests",
        "_sent_at",
        "_sync_again",
        "_timer",
        "_timers",
        "_version",
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
        self._conversations: dict[str, LocalConversation] = {}
        self._version = 0  # of the user's log, up to which this device has its places for sure
        self._outbox = Outbox(self._timers, policies, self._put, port.emit)
        self._requests = Requests(self._timers, policies.send_timeout, self._put)

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
        """Leave. Unanswered sends and requests are kept, and go out again after the next `start`."""
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
        shown = conversation.inbox.next_seq - 1
        frame = frames.Send(id_client, scene, to, content, type, file, custom, shown=shown)
        self._outbox.add(conversation.id, frame, now)

    def read(self, conversation_id: str, now: float) -> None:
        """The user has read all that the conversation shows."""
        conversation = self._conversations.get(conversation_id)
        if conversation is not None and conversation.unread.read(conversation.inbox.next_seq - 1):
            self._read_moved(conversation)
            self._tell_read(conversation, now)

    def set_conversation(
        self,
        conversation_id: str,
        now: float,
        *,
        pinned: bool | None = None,
        muted: bool | None = None,
        custom: str | None = None,
    ) -> None:
        """Change what is given, on all devices of the user; it shows here at once. `RequestDone` or `RequestFailed`
        answers, by which time it has come about or shows no more."""
        self._set(frames.SetConversation(conversation_id, pinned, muted, None, custom), now)

    def hide(self, conversation_id: str, now: float) -> None:
        """Delete the conversation from the list of all devices, until its next message; what it shows is read by that.
        Answered as `set_conversation` is."""
        conversation = self._conversations.get(conversation_id)
        if conversation is not None:
            self._set(frames.SetConversation(conversation_id, hidden_seq=conversation.last_seq), now)
            if conversation.unread.read(conversation.last_seq):
                self._read_moved(conversation)

    def read_count(self, conversation_id: str, seq: int, now: float) -> None:
        """How many have read this message? `ReadCounted` or `RequestFailed` answers."""
        self._requests.ask(frames.ReadCount(conversation_id, seq), now)

    def create_group(self, name: str, members: list[str], now: float) -> None:
        """`GroupMade` or `RequestFailed` answers."""
        self._requests.ask(frames.CreateGroup(name, members), now)

    def end_session(self, device: str, now: float) -> None:
        """Log out another device of this user. `RequestDone` answers."""
        self._requests.ask(frames.EndSession(device), now)

    def conversations(self) -> list[Conversation]:
        """The conversation list: those that are pinned, then the others, the latest first."""
        wanted = self._requests.wanted
        lines = [line for c in self._conversations.values() if (line := c.line(self.user, wanted(c.id))) is not None]
        return sorted(lines, key=lambda line: (not line.pinned, -line.update_time, line.id))

    def total_unread(self, include_muted: bool = True) -> int:
        """Over the conversation list; what is muted counts or not."""
        return sum(line.unread for line in self.conversations() if include_muted or not line.muted)

    def status(self, id_client: str) -> Status:
        """Of a message that this client has sent: sending, success or fail."""
        return self._outbox.status(id_client)

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
        self._outbox.lost()
        self._requests.lost()
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
        self._outbox.logged_in(now)
        self._requests.logged_in(now)

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
        self._put(frames.Sync(cursors, self._version), now)

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
        self._version = frame.version
        for place in frame.places:
            self._take_place(place)
        for conversation in self._conversations.values():
            is_ahead = conversation.unread.read_seq > conversation.place.read_seq
            if is_ahead and not self._requests.is_waiting(frames.Read.op, conversation.id):
                self._tell_read(conversation, now)  # a send moved it, and the server lost its senses at that moment
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

    def _received(self, frame: frames.Received, now: float) -> None:
        self._port.emit(events.Received(frame.id_client))

    def _stored(self, frame: frames.Stored, now: float) -> None:
        outgoing = self._outbox.answered(frame.id_client, frame.conversation_id)
        if outgoing is None:
            return  # answered before
        conversation, sent = self._conversation(frame.conversation_id), outgoing.frame
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
        self._read_by_send(conversation, outgoing, now)
        conversation.inbox.place_own(frame.seq)
        self._show_following(conversation, now)
        self._port.emit(events.Acked(frame.id_client, frame.conversation_id, frame.seq))
        self._outbox.release_held(conversation.id, now)

    def _read_by_send(self, conversation: LocalConversation, outgoing: Outgoing, now: float) -> None:
        """The send is stored, and with it the read mark has moved to what was shown when it was made."""
        if conversation.unread.read(outgoing.frame.shown):
            self._read_moved(conversation)
        if outgoing.attempts > 1 and outgoing.frame.shown > conversation.place.read_seq:
            # Whoever stored it at an earlier attempt may have died before telling the other devices, and the peer.
            self._tell_read(conversation, now)

    def _rejected(self, frame: frames.Rejected, now: float) -> None:
        if frame.request == frames.Send.op:
            self._outbox.rejected(frame, now)
        elif not frame.code.retryable and self._answered(frame):  # else it is repeated
            self._port.emit(events.RequestFailed(frame.request, frame.ref, frame.code, frame.text))

    # --- receiving --------------------------------------------------------------------------------------------------

    def _pushed(self, frame: frames.Push, now: float) -> None:
        message = frame.message
        conversation = self._take(message, Route.PUSH, now)
        self._put(frames.Delivered(message.conversation_id, conversation.inbox.next_seq - 1), now)

    def _take(self, message: Message, route: Route, now: float) -> LocalConversation:
        conversation = self._conversations.get(message.conversation_id)
        if conversation is None:
            conversation = self._conversation(message.conversation_id)
        taken = conversation.inbox.take(message, route, now)
        if taken is Taken.SHOW:
            self._show(conversation, message, route, now)
            self._show_following(conversation, now)
        elif taken is Taken.REPEATED:
            self._port.emit(events.Repeated(message))
        else:
            self._wait_for_gap(conversation, now)
        return conversation

    def _show(self, conversation: LocalConversation, message: Message, route: Route, now: float) -> None:
        last = conversation.last_msg
        if last is None or message.seq > last.seq:
            conversation.last_msg = message
        if message.sender == self.user:
            outgoing = self._outbox.proved_by(message)
            if outgoing is not None:  # its own message, of which the answer was lost
                self._read_by_send(conversation, outgoing, now)
                self._port.emit(events.Acked(message.id_client, conversation.id, message.seq))
                return
            self._port.emit(events.Shown(message, Flow.OUT, route))
        else:
            if message.countable:
                conversation.unread.add(message.seq)
            self._port.emit(events.Shown(message, Flow.IN, route))

    def _show_following(self, conversation: LocalConversation, now: float) -> None:
        for message, route in conversation.inbox.following():
            self._show(conversation, message, route, now)
        if conversation.gap_timer is not None:
            conversation.gap_timer.cancel()
            conversation.gap_timer = None
            self._wait_for_gap(conversation, now)

    def _wait_for_gap(self, conversation: LocalConversation, now: float) -> None:
        """No message is held back for longer than `gap_wait`, however many gaps there are before it."""
        since = conversation.inbox.held_since
        if since is not None and conversation.gap_timer is None:
            deadline = max(now, since + self._policies.gap_wait)
            conversation.gap_timer = self._timers.at(deadline, self._gap_overdue, conversation)

    def _gap_overdue(self, conversation: LocalConversation, now: float) -> None:
        """Nobody filled the gap: show what stands behind it. The next login's sync asks for what is missing."""
        conversation.gap_timer = None
        if self.state != State.ONLINE:
            return  # the next sync will fill it; if not, its end starts the wait anew
        conversation.inbox.give_up_gap()
        self._show_following(conversation, now)
        self._put(frames.Delivered(conversation.id, conversation.inbox.next_seq - 1), now)
        self._wait_for_gap(conversation, now)

    # --- places and requests ----------------------------------------------------------------------------------------

    def _placed(self, frame: frames.Placed, now: float) -> None:
        self._put(frames.Noted(frame.place.conversation_id, frame.place.version), now)
        self._take_place(frame.place)

    def _take_place(self, place: Place) -> None:
        conversation = self._conversation(place.conversation_id)
        known = conversation.place
        if place.version <= known.version:
            return
        before = self._settings(conversation)
        conversation.place = place
        self._settings_changed(conversation, before)
        if conversation.unread.read(place.read_seq):
            self._read_moved(conversation)
        if place.peer_read_seq > known.peer_read_seq:
            self._port.emit(events.PeerRead(place.conversation_id, place.peer_read_seq))

    def _read_moved(self, conversation: LocalConversation) -> None:
        unread = conversation.unread
        self._port.emit(events.ReadMoved(conversation.id, unread.read_seq, unread.count))

    def _tell_read(self, conversation: LocalConversation, now: float) -> None:
        self._requests.ask(frames.Read(conversation.id, conversation.unread.read_seq), now)

    def _set(self, frame: frames.SetConversation, now: float) -> None:
        conversation = self._conversation(frame.conversation_id)
        before = self._settings(conversation)
        self._requests.ask(frame, now)
        self._settings_changed(conversation, before)

    def _settings(self, conversation: LocalConversation) -> events.PlaceChanged:
        """As they show, whether the server has answered or not."""
        place = conversation.settings(self._requests.wanted(conversation.id))
        return events.PlaceChanged(conversation.id, place.pinned, place.muted, place.hidden_seq, place.custom)

    def _settings_changed(self, conversation: LocalConversation, before: events.PlaceChanged) -> None:
        after = self._settings(conversation)
        if after != before:
            self._port.emit(after)

    def _answered(self, frame: frames.Done | frames.Rejected) -> bool:
        """Whether the request still waited for it. What was wanted of a conversation shows no more: its place does."""
        if frame.request != frames.SetConversation.op:
            return self._requests.answered(frame.request, frame.ref, frame.number)
        conversation = self._conversation(frame.ref)
        before = self._settings(conversation)
        answered = self._requests.answered(frame.request, frame.ref, frame.number)
        self._settings_changed(conversation, before)
        return answered

    def _done(self, frame: frames.Done, now: float) -> None:
        if self._answered(frame):
            self._port.emit(events.RequestDone(frame.request, frame.ref))

    def _group_created(self, frame: frames.GroupCreated, now: float) -> None:
        if self._requests.answered(frames.CreateGroup.op, frame.name):
            self._port.emit(events.GroupMade(frame.name, frame.conversation_id))

    def _read_counted(self, frame: frames.ReadCounted, now: float) -> None:
        asked = frames.ReadCount(frame.conversation_id, frame.seq)
        if self._requests.answered(asked.op, asked.ref):
            self._port.emit(events.ReadCounted(frame.conversation_id, frame.seq, frame.read, frame.members))

    def _conversation(self, id: str) -> LocalConversation:
        conversation = self._conversations.get(id)
        if conversation is None:
            conversation = self._conversations[id] = LocalConversation(id)
        return conversation


_HANDLERS: dict[type, Callable[[Client, Any, float], None]] = {
    frames.Push: Client._pushed,
    frames.Stored: Client._stored,
    frames.Rejected: Client._rejected,
    frames.Received: Client._received,
    frames.Page: Client._page,
    frames.SyncDone: Client._sync_done,
    frames.Placed: Client._placed,
    frames.Resync: Client._resync,
    frames.LoggedIn: Client._logged_in,
    frames.Refused: Client._refused,
    frames.GroupCreated: Client._group_created,
    frames.Done: Client._done,
    frames.ReadCounted: Client._read_counted,
    frames.Pong: Client._ponged,
}
