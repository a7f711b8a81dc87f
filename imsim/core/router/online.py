"""A user who is online, as the router node that owns the user knows them."""

from __future__ import annotations

from imsim.core import changes, internal_frames, storage
from imsim.core.empty import NO_LIST
from imsim.core.model import ConversationState, Message, Session, p2p_members
from imsim.core.timers import Timer
from imsim.core.unread import Unread

#: What may wait for an opening.
ToOne = (
    internal_frames.Attach
    | internal_frames.Detach
    | internal_frames.Up
    | internal_frames.Deliver
    | internal_frames.PeerMoved
    | internal_frames.PresenceUpdate
)


class OnlineState:
    """A conversation state as storage has it, but for `unread`, which counts here."""

    __slots__ = ("delivered_seq", "friends", "last_seq", "stored", "unread")

    def __init__(self, stored: ConversationState, unread: Unread, last_seq: int = 0, delivered_seq: int = 0) -> None:
        self.stored = stored
        self.unread = unread
        self.last_seq = last_seq  # the latest message that was let out to the user's devices, or is in a login's sync
        self.friends = False
        self.delivered_seq = delivered_seq  # how far some device has got, as the other user hears or will hear

    def view(self) -> ConversationState:
        if not self.unread.count:
            return self.stored
        state = self.stored.copy()
        state.unread = self.unread.count
        return state


class User:
    __slots__ = ("epoch", "id", "log", "request", "revoked_before", "sessions", "states", "timer", "waiting")

    def __init__(self, id: str) -> None:
        self.id = id
        self.epoch = 0  # of the latest session
        self.log = ""  # that of storage
        self.sessions: tuple[Session, ...] = ()  # one of each device at most
        self.revoked_before = 0.0  # tokens issued before this wall time are void
        self.states: dict[str, OnlineState] = {}  # by conversation
        self.request: storage.OpenUser | None = None
        self.waiting: list[ToOne] = NO_LIST  # what came before it was opened
        self.timer: Timer | None = None

    def session_of(self, device: str) -> Session | None:
        return next((session for session in self.sessions if session.device == device), None)

    def end(self, session: Session) -> None:
        self.sessions = tuple(other for other in self.sessions if other != session)

    def wait(self, frame: ToOne) -> None:
        self.waiting = self.waiting or []
        self.waiting.append(frame)

    def state_of(self, conversation_id: str) -> OnlineState:
        state = self.states.get(conversation_id)
        if state is None:
            state = self.states[conversation_id] = OnlineState(ConversationState(conversation_id, 0, 0, 0), Unread())
        return state

    def count(self, message: Message) -> OnlineState:
        """Take note of a message of one of the user's conversations; again or after a later one does no harm."""
        state = self.state_of(message.conversation_id)
        if message.countable:
            if message.sender != self.id:
                state.unread.add(message.seq)
        elif (recalled := changes.recalled_seq(message)) is not None:
            state.unread.remove(recalled)
        elif changes.is_left_with(message, self.id):
            state.unread.end(message.seq)
        return state

    def peers(self, conversation_id: str) -> tuple[str, ...]:
        """The other user of a p2p conversation; nobody in any other, or in one's notes to oneself."""
        return storage.peers(conversation_id, p2p_members(conversation_id) or (), self.id)
