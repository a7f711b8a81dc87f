"""The Client machine: what an IM SDK does for an application on one device.

It logs in and comes back after a lost connection, gives each message an answer (stored, or failed for good), shows each
received message once and in order, and keeps the conversation list with its unread counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from imsim.core import amendments, events, frames
from imsim.core.changes import SILENT, event_of, is_from_outside, is_visible
from imsim.core.inbox import Taken
from imsim.core.model import Flow, HasBody, Message, MessageType, Place, Route, Scene, Status, conversation_id
from imsim.core.outbox import Outbox, Outgoing
from imsim.core.policies import Policies
from imsim.core.requests import Requests
from imsim.core.screen import Conversation, LocalConversation
from imsim.core.timers import Timer, Timers
from imsim.core.uplink import Port, State, Uplink

_LOOKBACK = 20  # messages fetched at a time to find the last one that is left


class Client:
    """`draw()` gives a uniform number in [0, 1), for what must differ between clients: see `Uplink`."""

    __slots__ = (
        "_conversations",
        "_inbox",
        "_is_ready",
        "_looking_back",
        "_outbox",
        "_policies",
        "_port",
        "_requests",
        "_resync",
        "_rooms",
        "_sync_again",
        "_sync_number",
        "_sync_timer",
        "_timers",
        "_uplink",
        "_version",
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
        self._port = port
        self._policies = policies
        self._timers = Timers()
        self._conversations: dict[str, LocalConversation] = {}
        self._version = 0  # of the user's log, up to which this device has its places for sure
        self._inbox = 0  # up to where the user's inbox has been fetched
        self._sync_timer: Timer | None = None
        self._sync_number = 0  # of the latest sync
        self._sync_again = False
        self._is_ready = False  # whether the first sync since the login is done
        self._resync = 0  # the number of the connection's latest `resync`
        self._looking_back: set[str] = set()  # ranges that the application asked for
        self._rooms: dict[str, int] = {}  # chatrooms to be in, and the latest seq shown of each
        self._uplink = Uplink(self._timers, policies, port, device, kind, token, draw, self._lost)
        self._outbox = Outbox(self._timers, policies, self._uplink.put, port.emit, self._look_again)
        self._requests = Requests(self._timers, policies.send_timeout, self._uplink.put)

    @property
    def state(self) -> State:
        return self._uplink.state

    @property
    def device(self) -> str:
        return self._uplink.device

    @property
    def token(self) -> str:
        """What the next login shows."""
        return self._uplink.token

    @token.setter
    def token(self, token: str) -> None:
        self._uplink.token = token

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def handle_timer(self, now: float) -> None:
        self._timers.handle(now)

    # --- what the application asks for ------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Connect and log in, and stay so until `stop`."""
        self._uplink.start(now)

    def stop(self, now: float) -> None:
        """Leave. Unanswered sends and requests are kept, and go out again after the next `start`."""
        self._uplink.stop()

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
        blocked: bool | None = None,
    ) -> None:
        """Change what is given, on all devices of the user; it shows here at once. `RequestDone` or `RequestFailed`
        answers, by which time it has come about or shows no more."""
        self._set(frames.SetConversation(conversation_id, pinned, muted, None, custom, blocked=blocked), now)

    def hide(self, conversation_id: str, now: float) -> None:
        """Delete the conversation from the list of all devices, until its next message; what it shows is read by that.
        Answered as `set_conversation` is."""
        conversation = self._conversations.get(conversation_id)
        if conversation is not None:
            self._set(frames.SetConversation(conversation_id, hidden_seq=conversation.last_seq), now)
            if conversation.unread.read(conversation.last_seq):
                self._read_moved(conversation)

    def history(self, conversation_id: str, first: int, last: int, now: float) -> None:
        """Fetch the messages from seq `first` to `last` again; `History` or `RequestFailed` answers."""
        frame = frames.History(conversation_id, first, last)
        self._looking_back.add(frame.ref)
        self._requests.ask(frame, now)

    def read_count(self, conversation_id: str, seq: int, now: float) -> None:
        """How many have read this message? `ReadCounted` or `RequestFailed` answers."""
        self._requests.ask(frames.ReadCount(conversation_id, seq), now)

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
        """Change the conversation: see `groups`, `friends` and `amendments` for the events, what they need, and who
        may. `Acked` or `SendFailed` answers, as for any message; its consequences come with further events."""
        file: dict[str, object] = {
            "event": event,
            "operator": self.user,
            "targets": list(targets),
            "data": data or {},
        }
        self.send(scene, to, "", id_client, now, type=MessageType.NOTIFICATION, file=file)

    def create_group(self, name: str, members: Iterable[str], now: float, id_client: str = "") -> None:
        """Make a group of these members and oneself; to do it again is harmless. Answered as `change` is. Where there
        was one of this user's by that name that was dismissed, give an `id_client`, or this is its repetition."""
        self.change(Scene.GROUP, name, "create", id_client or f"create:{name}", now, targets=members)

    def enter(self, name: str, now: float, recent: int = 0) -> None:
        """Enter a chatroom, and again after each login until `leave`; `Entered` or `RequestFailed` answers. A `leave`
        without an answer gets none any more."""
        self._rooms[name] = self._rooms.get(name, 0)
        self._requests.forget(frames.Leave.op, name)  # or it would be repeated
        self._requests.ask(frames.Enter(name, recent), now)

    def leave(self, name: str, now: float) -> None:
        """Leave a chatroom. `RequestDone` answers; and nothing any more an `enter` without an answer."""
        self._rooms.pop(name, None)
        self._requests.forget(frames.Enter.op, name)
        self._requests.ask(frames.Leave(name), now)

    def typing(self, conversation_id: str, now: float) -> None:
        """Hint to the other user of a p2p conversation that this one is writing, if there is a connection."""
        if self.state == State.ONLINE:
            self._put(frames.Typing(conversation_id), now)

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

    def system_unread(self) -> int:
        """How many system messages have not been read; `read` them as the conversation system:<user>."""
        return self._conversation(conversation_id(Scene.SYSTEM, self.user, self.user)).unread.count

    def status(self, id_client: str) -> Status:
        """Of a message that this client has sent: sending, success or fail."""
        return self._outbox.status(id_client)

    # --- the connection ---------------------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """The connection that `port.connect` asked for is open."""
        self._uplink.connected(now)

    def disconnected(self, now: float) -> None:
        """The connection is lost, or could not be opened: try again later."""
        self._uplink.disconnected(now)

    def receive(self, frame: frames.ToClient, now: float) -> None:
        self._uplink.heard(now)
        _HANDLERS[type(frame)](self, frame, now)

    def _put(self, frame: frames.FromClient, now: float) -> None:
        self._uplink.put(frame, now)

    def _lost(self) -> None:
        self._outbox.lost()
        self._requests.lost()
        if self._sync_timer:
            self._sync_timer.cancel()
        for conversation in self._conversations.values():
            if conversation.gap_timer:
                conversation.gap_timer.cancel()
                conversation.gap_timer = None

    def _logged_in(self, frame: frames.LoggedIn, now: float) -> None:
        self._uplink.logged_in(now)
        self._sync_again = self._is_ready = False
        self._resync = 0
        self._sync(None, now)
        self._requests.logged_in(now)
        for name in self._rooms:
            if not self._requests.is_waiting(frames.Enter.op, name):
                self._requests.ask(frames.Enter(name), now)
        self._outbox.logged_in(now)  # after the rooms that it speaks in

    def _refused(self, frame: frames.Refused, now: float) -> None:
        self._uplink.refused(frame, now)

    def _ponged(self, frame: frames.Pong, now: float) -> None:
        pass  # having been heard is all that it is for

    # --- fetching what was missed -----------------------------------------------------------------------------------

    def _resynced(self, frame: frames.Resync, now: float) -> None:
        if frame.number <= self._resync:
            return  # it came again
        self._resync = frame.number
        self._look_again(now)

    def _look_again(self, now: float) -> None:
        """There may be more in storage than this device knows of."""
        if self.state == State.ONLINE:
            self._uplink.state = State.SYNCING
            self._sync(None, now)
        else:
            self._sync_again = True  # the sync under way may have looked too early

    def _sync(self, _: None, now: float) -> None:
        """Ask for what was missed, and again if no answer comes."""
        cursors = {c.id: c.inbox.cursor for c in self._conversations.values()}
        self._sync_number += 1
        if self._sync_timer:
            self._sync_timer.cancel()
        self._sync_timer = self._timers.at(now + self._policies.send_timeout, self._sync)
        self._put(frames.Sync(cursors, self._version, self._inbox, self._sync_number, self._resync), now)

    def _take_page(self, frame: frames.Page | frames.SyncDone, now: float) -> bool:
        """Whether it answers the latest `sync`; what it brings is welcome in any case."""
        for message in frame.messages:
            self._take(message, Route.SYNC, now)
        for id, seq in frame.cursors.items():
            conversation = self._conversation(id)
            conversation.inbox.complete_to(seq)
            self._show_following(conversation, now)
        if self._policies.receipts == "delivered":
            for id in {message.conversation_id: None for message in frame.messages}:
                self._tell_delivered(self._conversation(id), now)
        return self.state == State.SYNCING and frame.number == self._sync_number

    def _page(self, frame: frames.Page, now: float) -> None:
        if self._take_page(frame, now):
            self._inbox = frame.inbox
            self._sync(None, now)

    def _sync_done(self, frame: frames.SyncDone, now: float) -> None:
        is_latest = self._take_page(frame, now)
        for place in frame.places:
            self._take_place(place)
        if not is_latest:
            return
        self._inbox, self._version = frame.inbox, frame.version
        if self._sync_again:
            self._sync_again = False
            self._sync(None, now)
            return
        self._uplink.state = State.ONLINE
        if self._sync_timer:
            self._sync_timer.cancel()
        for conversation in self._conversations.values():
            is_ahead = conversation.unread.read_seq > conversation.place.read_seq
            if is_ahead and not self._requests.is_waiting(frames.Read.op, conversation.id):
                self._tell_read(conversation, now)  # a send moved it, and the server lost its senses at that moment
            self._look_for_gap(conversation, now)
        if not self._is_ready:
            self._is_ready = True
            self._port.emit(events.Ready())

    # --- sending ----------------------------------------------------------------------------------------------------

    def _received(self, frame: frames.Received, now: float) -> None:
        self._port.emit(events.Received(frame.id_client, frame.seq))
        said = self._outbox.said(frame.id_client, now)
        if said is not None:
            self._amended_in_room(said.conversation_id, said.frame)

    def _stored(self, frame: frames.Stored, now: float) -> None:
        outgoing = self._outbox.answered(frame.id_client, frame.conversation_id)
        if outgoing is None:
            return  # answered before
        conversation, sent = self._conversation(frame.conversation_id), outgoing.frame
        self._port.emit(events.Acked(frame.id_client, frame.conversation_id, frame.seq))
        to_oneself = frame.conversation_id == conversation_id(Scene.SYSTEM, self.user, self.user)
        if to_oneself or not is_from_outside(sent):
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
            self._read_by_send(conversation, outgoing, now)
            if event_of(sent) in SILENT:
                self._take(message, Route.PUSH, now)  # what it changes, it changes when its turn comes
            else:
                conversation.may_be_last(conversation.amended(message))
                conversation.inbox.place_own(frame.seq, now)
                self._show_following(conversation, now)
                self._look_for_gap(conversation, now)
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
        elif frame.code.retryable:
            self._requests.postponed(frame, now)
        elif self._answered(frame):
            if frame.request == frames.Enter.op:
                self._rooms.pop(frame.ref, None)
            if frame.request == frames.History.op and not self._is_for_the_user(frame.ref):
                return
            self._port.emit(events.RequestFailed(frame.request, frame.ref, frame.code, frame.text))

    # --- receiving --------------------------------------------------------------------------------------------------

    def _pushed(self, frame: frames.Push, now: float) -> None:
        message = frame.message
        if message.scene == Scene.CHATROOM:
            self._heard_in_room(message)
            return
        self._tell_delivered(self._take(message, Route.PUSH, now), now)

    def _heard_in_room(self, message: Message) -> None:
        """Show it if it is later than all before it; what comes late or twice is of no interest there."""
        if message.seq > self._rooms.get(message.to, message.seq):
            self._rooms[message.to] = message.seq
            self._amended_in_room(message.conversation_id, message)
            if is_visible(message):
                flow = Flow.OUT if message.sender == self.user else Flow.IN
                self._port.emit(events.Shown(message, flow, Route.PUSH))

    def _amended_in_room(self, room: str, entry: HasBody) -> None:
        """What a recall or an edit in a chatroom changes: only what the application shows, for nothing else is kept."""
        event = event_of(entry)
        if event in amendments.EVENTS and entry.file is not None:
            data = entry.file["data"]
            assert isinstance(data, dict)
            if event == "recall":
                self._port.emit(events.Recalled(room, data["seq"]))
            else:
                self._port.emit(events.Edited(room, data["seq"], data["content"]))

    def _entered(self, frame: frames.Entered, now: float) -> None:
        if self._requests.answered(frames.Enter.op, frame.name, frame.number):
            self._port.emit(events.Entered(frame.name, frame.users))
            for message in frame.messages:
                self._heard_in_room(message)

    def _is_typing(self, frame: frames.IsTyping, now: float) -> None:
        self._port.emit(events.Typing(frame.conversation_id))

    def _presence(self, frame: frames.Presence, now: float) -> None:
        self._port.emit(events.Presence(frame.user, frame.online))

    def _notified(self, frame: frames.Notify, now: float) -> None:
        conversation = self._conversation(frame.conversation_id)
        conversation.head = max(conversation.head, frame.seq)
        if conversation.head < conversation.inbox.next_seq:
            self._tell_delivered(conversation, now)
        else:
            self._look_for_gap(conversation, now)

    def _tell_delivered(self, conversation: LocalConversation, now: float) -> None:
        self._put(frames.Delivered(conversation.id, conversation.inbox.cursor), now)

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
            self._look_for_gap(conversation, now)
        return conversation

    def _show(self, conversation: LocalConversation, message: Message, route: Route, now: float) -> None:
        conversation.may_be_last(message)
        self._apply(conversation, message, now)
        if message.sender == self.user:
            outgoing = self._outbox.proved_by(message)
            if outgoing is not None:  # its own message, of which the answer was lost
                self._read_by_send(conversation, outgoing, now)
                self._port.emit(events.Acked(message.id_client, conversation.id, message.seq))
                return
        elif message.countable:
            conversation.unread.add(message.seq)
        if is_visible(message):
            flow = Flow.OUT if message.sender == self.user else Flow.IN
            self._port.emit(events.Shown(message, flow, route))

    def _apply(self, conversation: LocalConversation, entry: Message, now: float) -> None:
        """What an entry of the log changes on this device."""
        event = event_of(entry)
        if event not in SILENT or entry.file is None:
            return
        data, targets, last = entry.file["data"], entry.file["targets"], conversation.last_msg
        assert isinstance(data, dict)
        assert isinstance(targets, list)
        if event in amendments.EVENTS:
            conversation.amend(data["seq"], entry)
        if event == "recall":
            seq = data["seq"]
            conversation.unread.remove(seq)
            self._port.emit(events.Recalled(conversation.id, seq))
            if last is not None and last.seq == seq:
                conversation.last_msg = None
                self._look_back(conversation, seq, now)
        elif event == "edit":
            seq, content = data["seq"], data["content"]
            if last is not None and last.seq == seq:
                conversation.last_msg = conversation.amended(last)
            self._port.emit(events.Edited(conversation.id, seq, content))
        elif event == "settle":
            self._port.emit(events.Settled(targets[0], data["state"]))
        else:
            self._port.emit(events.Changed(entry))

    def _look_back(self, conversation: LocalConversation, seq: int, now: float, far: int = _LOOKBACK) -> None:
        """Find the last message before this one, which was it and is none any more."""
        if seq > 1:
            conversation.lookback = (max(1, seq - far), seq - 1)
            self._requests.ask(frames.History(conversation.id, *conversation.lookback), now)

    def _show_following(self, conversation: LocalConversation, now: float) -> None:
        for message, route in conversation.inbox.following():
            self._show(conversation, message, route, now)
        if conversation.gap_timer is not None:
            conversation.gap_timer.cancel()
            conversation.gap_timer = None
            self._look_for_gap(conversation, now)

    def _look_for_gap(self, conversation: LocalConversation, now: float) -> None:
        """Have what is missing pulled: at once where the device was only notified of it, after `gap_wait` where pushes
        may still bring it."""
        if self.state != State.ONLINE or conversation.pull is not None:
            return  # the sync will bring it; or it is being pulled
        since = conversation.inbox.held_since
        # What a group began with was before this user's time, and is not coming.
        begins_here = since is not None and conversation.may_begin_later
        if begins_here or conversation.head >= conversation.inbox.next_seq:
            if conversation.gap_timer is not None:
                conversation.gap_timer.cancel()
            self._pull(conversation, now)
        elif since is not None and conversation.gap_timer is None:
            deadline = max(now, since + self._policies.gap_wait)
            conversation.gap_timer = self._timers.at(deadline, self._pull, conversation)

    def _pull(self, conversation: LocalConversation, now: float) -> None:
        conversation.gap_timer = None
        if self.state == State.ONLINE:
            first, last = conversation.inbox.gap(conversation.head)
            if conversation.has_begun or not conversation.may_begin_later:
                last = min(last, first + self._policies.page - 1)
            conversation.pull = (first, last)
            self._requests.ask(frames.History(conversation.id, first, last), now)

    def _history_page(self, frame: frames.HistoryPage, now: float) -> None:
        asked = frames.History(frame.conversation_id, frame.first, frame.last)
        if not self._requests.answered(asked.op, asked.ref, frame.number):
            return
        conversation = self._conversation(frame.conversation_id)
        if conversation.lookback == (frame.first, frame.last):
            conversation.lookback = None
            for message in frame.messages:
                conversation.may_be_last(conversation.amended(message))
            if conversation.last_msg is None and frame.messages:
                self._look_back(conversation, frame.messages[0].seq if frame.more else frame.first, now)
            elif conversation.last_msg is None:  # a group has gaps, for who was away, or came late
                self._look_back(conversation, frame.first, now, 2 * (frame.last - frame.first + 1))
        if conversation.pull == (frame.first, frame.last):
            for message in frame.messages:
                if message.seq >= conversation.inbox.next_seq:  # else it came meanwhile
                    self._take(message, Route.SYNC, now)
            if not frame.more:
                conversation.inbox.complete_to(frame.last)
                self._show_following(conversation, now)
            conversation.pull, conversation.has_begun = None, True
            self._tell_delivered(conversation, now)
            self._look_for_gap(conversation, now)
        if asked.ref in self._looking_back:
            self._looking_back.remove(asked.ref)
            self._port.emit(events.History(frame.conversation_id, frame.first, frame.last, frame.messages, frame.more))

    def _is_for_the_user(self, ref: str) -> bool:
        """Whether the refused range was asked for by the application; as for a gap, it remains."""
        for conversation in self._conversations.values():
            if conversation.pull and frames.History(conversation.id, *conversation.pull).ref == ref:
                conversation.pull, conversation.head = None, 0
            if conversation.lookback and frames.History(conversation.id, *conversation.lookback).ref == ref:
                conversation.lookback = None
        if ref not in self._looking_back:
            return False
        self._looking_back.remove(ref)
        return True

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
        if place.peer_delivered_seq > known.peer_delivered_seq:
            self._port.emit(events.PeerDelivered(place.conversation_id, place.peer_delivered_seq))
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
        return events.PlaceChanged(
            conversation.id, place.pinned, place.muted, place.hidden_seq, place.custom, place.blocked
        )

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

    def _read_counted(self, frame: frames.ReadCounted, now: float) -> None:
        asked = frames.ReadCount(frame.conversation_id, frame.seq)
        if self._requests.answered(asked.op, asked.ref, frame.number):
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
    frames.Notify: Client._notified,
    frames.HistoryPage: Client._history_page,
    frames.Page: Client._page,
    frames.SyncDone: Client._sync_done,
    frames.Placed: Client._placed,
    frames.Resync: Client._resynced,
    frames.LoggedIn: Client._logged_in,
    frames.Refused: Client._refused,
    frames.Done: Client._done,
    frames.ReadCounted: Client._read_counted,
    frames.Entered: Client._entered,
    frames.IsTyping: Client._is_typing,
    frames.Presence: Client._presence,
    frames.Pong: Client._ponged,
}
