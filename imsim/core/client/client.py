"""The Client machine: the work of an IM SDK for an application on one device.

It logs in, and reconnects after a lost connection. It reports an answer for each sent message (stored or failed). It
shows each received message once and in order. It maintains the conversation list with its unread counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from imsim.core import events, frames
from imsim.core.changes import SILENT, event_of, is_from_outside
from imsim.core.client.connection import ClientPort, Connection, State
from imsim.core.client.conversations import Conversation
from imsim.core.client.outbox import Outbox
from imsim.core.client.receiver import Receiver
from imsim.core.client.requests import Requests
from imsim.core.client.rooms import Rooms
from imsim.core.client.saved import Saved
from imsim.core.client.sync import Sync
from imsim.core.model import (
    LONGEST_REF,
    Code,
    Message,
    MessageType,
    Route,
    Scene,
    Status,
    conversation_id,
)
from imsim.core.policies import Policies
from imsim.core.timers import Timers

_CHATROOM = Scene.CHATROOM  # faster than an attribute of the enumeration


class Client:
    """The client of one device of a user. `draw()` returns a uniform random number in [0, 1): see `Connection`.

    If `shows_at_once`, the application shows each message to the user as soon as the client reports it. Then a send
    moves the read mark to the latest message. Otherwise only `read` moves it.

    If not `reports_marks`, it does not report the events `ReadMoved`, `PeerRead` and `PeerDelivered`. These are more
    than half of all events.

    If `first_sync_once`, the policy `first_sync` limits only the first sync of the device. Otherwise it also limits
    conversations that begin while the device is offline.
    """

    __slots__ = (
        "_connection",
        "_outbox",
        "_port",
        "_receiver",
        "_requests",
        "_rooms",
        "_shows_at_once",
        "_sync",
        "user",
    )

    def __init__(
        self,
        port: ClientPort,
        user: str,
        device: str,
        token: str,
        policies: Policies,
        draw: Callable[[], float],
        kind: str = "",
        timers: Timers | None = None,
        shows_at_once: bool = True,
        first_sync_once: bool = False,
        reports_marks: bool = True,
    ) -> None:
        """Create a client. Its deadlines are in `timers`, or by default in timers of its own."""
        self.user = user
        self._shows_at_once = shows_at_once
        self._port = port
        self._connection = Connection(timers or Timers(), policies, port, device, kind, token, draw, self)
        self._outbox = Outbox(self._connection)
        self._requests = Requests(self._connection)
        self._rooms = Rooms(user, self._connection, self._requests)
        self._receiver = Receiver(user, self._connection, self._outbox, self._requests, reports_marks)
        self._sync = Sync(self._connection, self._outbox, self._requests, self._receiver, first_sync_once)

    @property
    def state(self) -> State:
        return self._connection.state

    @property
    def device(self) -> str:
        return self._connection.device

    @property
    def limits(self) -> frames.Limits:
        """The limits of the server, as the latest login reported them; the defaults before the first login."""
        return self._connection.limits

    @property
    def windows(self) -> frames.Windows:
        """The time windows of the server, as the latest login reported them; the defaults before the first login."""
        return self._connection.windows

    @property
    def token(self) -> str:
        """The token for the next login."""
        return self._connection.token

    @token.setter
    def token(self, token: str) -> None:
        self._connection.token = token

    def next_deadline(self) -> float | None:
        return self._connection.timers.next_deadline()

    def handle_timer(self, now: float) -> None:
        self._connection.timers.handle(now)

    def forget(self) -> None:
        """Delete the data and the timers of this device. It cannot be used after that."""
        self._receiver.reset()
        self._connection.forget()

    # --- calls of the application -----------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Connect and log in. The client reconnects by itself until `stop`."""
        self._connection.start(now)

    def stop(self, now: float) -> None:
        """End the connection. Unanswered sends and requests are kept, and repeated after the next `start`."""
        self._connection.stop()

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
        """Send a message; `Acked` or `SendFailed` follows.

        `id_client` must be new. With the id_client of a failed send, this call resends that message.
        """
        conversation = self._receiver.conversations[conversation_id(scene, self.user, to)]
        shown = conversation.inbox.next_seq - 1 if self._shows_at_once else 0
        frame = frames.Send(id_client, scene, to, content, type, file, custom, False, None, shown)
        self._outbox.add(conversation.id, frame, now)

    def read(self, conversation_id: str, now: float, up_to: int | None = None) -> bool:
        """Mark the messages up to the seq `up_to` as read, or by default everything that the conversation shows.

        Messages that the device does not have cannot be read. Return whether the mark moves: if so, `RequestDone` or
        `RequestFailed` follows.
        """
        conversation = self._receiver.conversations.get(conversation_id)
        if conversation is None:
            return False
        shown = conversation.inbox.next_seq - 1
        if not conversation.unread.read(shown if up_to is None else min(up_to, shown)):
            return False
        self._receiver.read_moved(conversation)
        self._receiver.report_read(conversation, now)
        return True

    def set_conversation(
        self,
        conversation_id: str,
        now: float,
        *,
        pinned: bool | None = None,
        muted: bool | None = None,
        custom: str | None = None,
        blocked: bool | None = None,
    ) -> None:
        """Change the given settings on all devices of the user; `RequestDone` or `RequestFailed` follows.

        This device shows the change at once, and takes it back if the request fails.
        """
        self._set(frames.SetConversation(conversation_id, pinned, muted, None, custom, blocked=blocked), now)

    def hide(self, conversation_id: str, now: float) -> None:
        """Remove the conversation from the list on all devices until its next message, and mark it as read.

        The answer is the same as for `set_conversation`.
        """
        conversation = self._receiver.conversations.get(conversation_id)
        if conversation is not None:
            self._set(frames.SetConversation(conversation_id, hidden_seq=conversation.last_seq), now)
            if conversation.unread.read(conversation.last_seq):
                self._receiver.read_moved(conversation)

    def history(self, conversation_id: str, first: int, last: int, now: float) -> None:
        """Fetch the messages from seq `first` to seq `last`; `History` or `RequestFailed` follows."""
        if self._is_named(frames.History(conversation_id, first, last)):
            self._receiver.history(conversation_id, first, last, now)

    def read_count(self, conversation_id: str, seq: int, now: float) -> None:
        """Request the count of members who have read this message; `ReadCounted` or `RequestFailed` follows."""
        self._ask(frames.ReadCount(conversation_id, seq), now)

    def group(self, name: str, after: str, now: float) -> None:
        """Request the state of a group, with its members after this name; `Group` or `RequestFailed` follows.

        Begin with the `after` "". Then request the `next` of each page, until it is "".
        """
        self._ask(frames.Group(f"{Scene.GROUP}:{name}", after), now)

    def friends(self, after: str, now: float) -> None:
        """Request the friends and open friend requests of this user; `Friends` or `RequestFailed` follows.

        Begin with the `after` "". Then request the `next` of each page, until it is "".
        """
        self._ask(frames.Friends(after), now)

    def change(
        self,
        scene: Scene,
        to: str,
        event: str,
        id_client: str,
        now: float,
        *,
        targets: Iterable[str] = (),
        data: dict[str, object] | None = None,
    ) -> None:
        """Change the conversation; `Acked` or `SendFailed` follows, as for any message, then events for the effects.

        The modules `groups`, `friends` and `amendments` of the router's rules define the events, with their targets,
        data and permissions.
        """
        file: dict[str, object] = {
            "event": event,
            "operator": self.user,
            "targets": list(targets),
            "data": data or {},
        }
        self.send(scene, to, "", id_client, now, type=MessageType.NOTIFICATION, file=file)

    def create_group(self, name: str, members: Iterable[str], now: float, id_client: str = "") -> None:
        """Create a group of these members and this user. The answer is the same as for `change`.

        A repeated call is harmless, because it has the same id_client. To create a group with the name of a dismissed
        group of this user, give a new `id_client`.
        """
        self.change(Scene.GROUP, name, "create", id_client or f"create:{name}", now, targets=members)

    def enter(self, name: str, now: float, recent: int = 0) -> None:
        """Enter a chatroom, now and after each login until `leave`; `Entered` or `RequestFailed` follows.

        This cancels a `leave` that has no answer yet.
        """
        frame = frames.Enter(name, recent)
        if self._is_named(frame):
            self._rooms.enter(frame, now)

    def leave(self, name: str, now: float) -> None:
        """Leave a chatroom; `RequestDone` follows. This cancels an `enter` that has no answer yet."""
        self._rooms.leave(name)
        self._ask(frames.Leave(name), now)

    def typing(self, conversation_id: str, now: float) -> None:
        """Send the other user of a p2p conversation the hint that this user is writing, if the client is online."""
        if self.state == State.ONLINE:
            self._connection.put(frames.Typing(conversation_id), now)

    def end_session(self, device: str, now: float) -> None:
        """Log out another device of this user; `RequestDone` follows, or `RequestFailed` if it is this device."""
        self._ask(frames.EndSession(device), now)

    def conversations(self) -> list[Conversation]:
        """Return the conversation list: first the pinned conversations, then the others, each by latest message."""
        wanted = self._requests.wanted
        known = self._receiver.conversations.values()
        lines = [line for c in known if (line := c.line(self.user, wanted(c.id))) is not None]
        return sorted(lines, key=lambda line: (not line.pinned, -line.update_time, line.id))

    def conversation(self, conversation_id: str) -> Conversation | None:
        """Return the line of this conversation in the list, or None if it is not listed."""
        known = self._receiver.conversations.get(conversation_id)
        return known.line(self.user, self._requests.wanted(conversation_id)) if known is not None else None

    def cursor(self, conversation_id: str) -> int:
        """Return the seq up to which this device has everything of the conversation."""
        known = self._receiver.conversations.get(conversation_id)
        return known.inbox.cursor if known is not None else 0

    def total_unread(self, include_muted: bool = True) -> int:
        """Return the count of unread messages in the conversation list, with or without muted conversations."""
        return sum(line.unread for line in self.conversations() if include_muted or not line.muted)

    def system_unread(self) -> int:
        """Return the count of unread system messages. `read` with the conversation system:<user> clears it."""
        return self._receiver.conversations[conversation_id(Scene.SYSTEM, self.user, self.user)].unread.count

    def status(self, id_client: str) -> Status:
        """Return the status of a message that this client has sent: sending, success or fail."""
        return self._outbox.status(id_client)

    def _ask(self, frame: frames.Asked, now: float) -> None:
        if self._is_named(frame):
            self._requests.ask(frame, now)

    def _is_named(self, frame: frames.Asked) -> bool:
        """Return whether the answer will contain the complete `ref`, because a server cuts longer ones."""
        if len(frame.ref) <= LONGEST_REF:
            return True
        text = f"the name is too long; it must have at most {LONGEST_REF} characters"
        self._port.emit(events.RequestFailed(frame.op, frame.ref, Code.BAD_REQUEST, text))
        return False

    # --- state that survives the program ----------------------------------------------------------------------------

    def saved(self, cursors: Mapping[str, int], inbox: int) -> Saved:
        """Return the state of this device, from which `restore` continues.

        `cursors` and `inbox` are at or before the present positions: after a restart, the messages behind them are
        fetched and shown again. `cursors` may name some conversations only; the others have their present position.
        """
        return Saved(*self._sync.saved(inbox), self._receiver.saved(cursors))

    def restore(self, saved: Saved) -> None:
        """Continue from a saved state. Call it before the first `start`."""
        self._sync.restore(saved)
        self._receiver.restore(saved.conversations)

    @property
    def inbox(self) -> int:
        """The position in the user's inbox up to which the latest sync has read."""
        return self._sync.inbox

    # --- the connection ---------------------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """Handle the connection that `port.connect` requested: it is open now."""
        self._connection.connected(now)

    def disconnected(self, now: float) -> None:
        """Handle the loss of the connection, or the failure to open one: try again later."""
        self._connection.disconnected(now)

    def receive(self, frame: frames.ToClient, now: float) -> None:
        self._connection.heard_at = now
        _HANDLERS[type(frame)](self, frame, now)

    def lost(self) -> None:
        """Handle the end of the connection, or of the attempt to open one. The client's `Connection` calls this."""
        self._outbox.lost()
        self._requests.lost()
        self._sync.lost()
        self._receiver.forget_gaps()

    def _logged_in(self, frame: frames.LoggedIn, now: float) -> None:
        self._connection.limits, self._connection.windows = frame.limits, frame.windows
        self._connection.logged_in(frame.heartbeat, now)
        self._sync.logged_in(frame.log, now)
        self._requests.logged_in(now)
        self._rooms.logged_in(now)
        self._outbox.logged_in(now)  # after the rooms, because it may send to them

    def gave_up(self, now: float) -> None:
        """Handle a send that got no answer. It may be stored, so sync again. The client's `Outbox` calls this."""
        self._sync.look_again(now)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _received(self, frame: frames.Received, now: float) -> None:
        self._port.emit(events.Received(frame.id_client, frame.seq))
        said = self._outbox.said(frame.id_client, now)
        if said is not None:
            self._rooms.amended(said.conversation_id, said.frame)

    def _stored(self, frame: frames.Stored, now: float) -> None:
        outgoing = self._outbox.answered(frame.id_client, frame.conversation_id)
        if outgoing is None:
            return  # answered before
        conversation, sent = self._receiver.conversations[frame.conversation_id], outgoing.frame
        self._port.emit(events.Acked(frame.id_client, frame.conversation_id, frame.seq, frame.time))
        if not is_from_outside(sent, self.user):
            message = Message(
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
            self._receiver.read_by_send(conversation, outgoing, frame.seq, now)
            if event_of(sent) in SILENT:
                self._receiver.take(message, Route.PUSH, now)  # it takes effect after all entries with lower seqs
            else:
                self._receiver.take_own(conversation, message, now)
        self._outbox.released(conversation.id, now)

    def _rejected(self, frame: frames.Rejected, now: float) -> None:
        if frame.request == frames.Send.op:
            self._outbox.rejected(frame, now)
        elif frame.request == frames.Sync.op:
            self._sync.rejected(frame, now)
        elif frame.code.retryable:
            self._requests.postponed(frame, now)
        elif self._answered(frame):
            if frame.request == frames.Enter.op:
                self._rooms.refused(frame.ref)
            if frame.request == frames.History.op and not self._receiver.history_refused(frame.ref):
                return
            self._port.emit(events.RequestFailed(frame.request, frame.ref, frame.code, frame.text))

    # --- receiving --------------------------------------------------------------------------------------------------

    def _pushed(self, frame: frames.Push, now: float) -> None:
        message = frame.message
        if message.scene == _CHATROOM:
            self._rooms.take(message)
        else:
            self._receiver.report_delivered(self._receiver.take(message, Route.PUSH, now), now)

    # --- conversation state and requests ----------------------------------------------------------------------------

    def _state_changed(self, frame: frames.State, now: float) -> None:
        self._connection.put(frames.StateAck(frame.state.conversation_id, frame.state.version), now)
        self._receiver.take_state(frame.state)

    def _set(self, frame: frames.SetConversation, now: float) -> None:
        if not self._is_named(frame):
            return
        conversation = self._receiver.conversations[frame.conversation_id]
        before = self._receiver.settings(conversation)
        self._requests.ask(frame, now)
        self._receiver.settings_changed(conversation, before)

    def _answered(self, frame: frames.Done | frames.Rejected) -> bool:
        """Return whether the request still waited for this answer.

        After the answer, the conversation shows the server's state, no longer the requested one.
        """
        if frame.request != frames.SetConversation.op:
            return self._requests.answered(frame.request, frame.ref, frame.number)
        conversation = self._receiver.conversations[frame.ref]
        before = self._receiver.settings(conversation)
        answered = self._requests.answered(frame.request, frame.ref, frame.number)
        self._receiver.settings_changed(conversation, before)
        return answered

    def _done(self, frame: frames.Done, now: float) -> None:
        if self._answered(frame):
            self._port.emit(events.RequestDone(frame.request, frame.ref))

    def _read_counted(self, frame: frames.ReadCounted, now: float) -> None:
        asked = frames.ReadCount(frame.conversation_id, frame.seq)
        if self._requests.answered(asked.op, asked.ref, frame.number):
            self._port.emit(events.ReadCounted(frame.conversation_id, frame.seq, frame.read, frame.members))

    def _group_page(self, frame: frames.GroupPage, now: float) -> None:
        asked = frames.Group(frame.conversation_id, frame.after)
        if self._requests.answered(asked.op, asked.ref, frame.number):
            self._port.emit(events.Group(frame))

    def _friends_page(self, frame: frames.FriendsPage, now: float) -> None:
        asked = frames.Friends(frame.after)
        if self._requests.answered(asked.op, asked.ref, frame.number):
            self._port.emit(events.Friends(frame))


_HANDLERS: dict[type, Callable[[Client, Any, float], None]] = {
    frames.Push: Client._pushed,
    frames.Stored: Client._stored,
    frames.State: Client._state_changed,
    frames.Received: Client._received,
    frames.Rejected: Client._rejected,
    frames.Done: Client._done,
    frames.LoggedIn: Client._logged_in,
    frames.Refused: lambda client, frame, now: client._connection.refused(frame, now),
    frames.Pong: lambda client, frame, now: None,  # `receive` has noted the time, which is its only purpose
    frames.Notify: lambda client, frame, now: client._receiver.notified(frame.conversation_id, frame.seq, now),
    frames.HistoryPage: lambda client, frame, now: client._receiver.history_page(frame, now),
    frames.Page: lambda client, frame, now: client._sync.page(frame, now),
    frames.SyncDone: lambda client, frame, now: client._sync.done(frame, now),
    frames.Resync: lambda client, frame, now: client._sync.resynced(frame, now),
    frames.ReadCounted: Client._read_counted,
    frames.GroupPage: Client._group_page,
    frames.FriendsPage: Client._friends_page,
    frames.Entered: lambda client, frame, now: client._rooms.entered(frame),
    frames.IsTyping: lambda client, frame, now: client._port.emit(events.Typing(frame.conversation_id)),
    frames.Presence: lambda client, frame, now: client._port.emit(events.Presence(frame.user, frame.online)),
}
