"""The conversations of a device: its local data about each, and the lines of the conversation list."""

from __future__ import annotations

from dataclasses import dataclass, replace

from imsim.core import changes, frames
from imsim.core.changes import is_visible
from imsim.core.client.inbox import Inbox
from imsim.core.model import ConversationState, Message, Scene
from imsim.core.timers import Timer
from imsim.core.unread import Unread

_AMENDED = 100  # the latest amendments kept, because a page may contain a message as it was before its amendment
_NEVER_CHANGED = ConversationState("", 0, 0, 0)  # the initial state of every conversation


@dataclass(slots=True)
class Conversation:
    """A line of the conversation list, as this user sees it.

    `update_time` is in ms since 1970. `custom` is a text for the user's own purposes. The following fields are for p2p
    conversations only. The other user has read everything up to `peer_read_seq`. A device of the other user has
    everything up to `peer_delivered_seq` (without the policy `receipts = delivered`, this is `peer_read_seq`). If
    `blocked`, the server refuses messages from the other user.
    """

    id: str
    scene: Scene
    to: str
    update_time: int
    unread: int
    read_seq: int
    last_msg: Message
    pinned: bool = False
    muted: bool = False
    custom: str = ""
    peer_read_seq: int = 0
    peer_delivered_seq: int = 0
    blocked: bool = False


class LocalConversation:
    """The data of a device about one conversation.

    `state` is the latest state from the server. `unread` is this device's own count, and is ahead of `state` until the
    server answers a `read`. `head` is the highest seq that a `notify` named. `pull` is the range of seqs (first, last)
    that is being fetched to fill a gap. `lookback` is the range that is being fetched to find the last message after
    the previous one was recalled.

    The methods with an argument `wanted` take the settings that the user has requested and the server has not answered.
    """

    __slots__ = (
        "_amending",
        "gap_timer",
        "has_begun",
        "head",
        "id",
        "inbox",
        "last_msg",
        "lookback",
        "pull",
        "state",
        "unread",
    )

    def __init__(self, id: str) -> None:
        self.id = id
        self.inbox = Inbox()
        self.gap_timer: Timer | None = None
        self.head = 0
        self.pull: tuple[int, int] | None = None
        self.lookback: tuple[int, int] | None = None
        self.has_begun = False  # whether a pull was answered
        self._amending: dict[int, Message] | None = None  # the latest amendment of each message, by its seq
        self.unread = Unread()
        self.last_msg: Message | None = None
        self.state = _NEVER_CHANGED

    @property
    def may_begin_later(self) -> bool:
        """Whether the gap before the first message may lie before the time at which this user joined the group."""
        return self.inbox.next_seq == 1 and self.id.startswith(f"{Scene.GROUP}:")

    def amend(self, seq: int, entry: Message) -> None:
        """Remember that this entry recalled or edited the message at `seq`, because an older page may contain it."""
        self._amending = self._amending or {}
        self._amending.pop(seq, None)
        self._amending[seq] = entry
        if len(self._amending) > _AMENDED:
            del self._amending[next(iter(self._amending))]

    def amended(self, message: Message) -> Message:
        """Return the message after its latest known amendment."""
        entry = self._amending.get(message.seq) if self._amending else None
        return message if entry is None or message.amended >= entry.seq else changes.amended(message, entry)

    @property
    def last_seq(self) -> int:
        """The seq of the latest entry of the log that this device knows."""
        shown = self.inbox.next_seq - 1
        return max(shown, self.last_msg.seq) if self.last_msg else shown

    def may_be_last(self, message: Message) -> None:
        """Make this the last message if it is visible and has the highest seq so far."""
        if (self.last_msg is None or message.seq > self.last_msg.seq) and is_visible(message):
            self.last_msg = message

    def settings(self, wanted: frames.SetConversation | None) -> ConversationState:
        """Return the state with the requested settings."""
        state = self.state
        if wanted is None:
            return state
        return replace(
            state,
            pinned=state.pinned if wanted.pinned is None else wanted.pinned,
            muted=state.muted if wanted.muted is None else wanted.muted,
            hidden_seq=max(state.hidden_seq, wanted.hidden_seq or 0),
            custom=state.custom if wanted.custom is None else wanted.custom,
            blocked=state.blocked if wanted.blocked is None else wanted.blocked,
        )

    def line(self, user: str, wanted: frames.SetConversation | None) -> Conversation | None:
        """Return the line of the conversation list, or None if the conversation is not listed.

        It is not listed if it has no visible message, or none since it was hidden, or if it has the system messages.
        """
        state, last, unread = self.settings(wanted), self.last_msg, self.unread
        scene, _, to = self.id.partition(":")
        if last is None or last.seq <= state.hidden_seq or scene == Scene.SYSTEM:
            return None
        if scene == Scene.P2P:
            one, other = to.split(":")
            to = other if one == user else one
        return Conversation(
            self.id,
            Scene(scene),
            to,
            last.time,
            unread.count,
            unread.read_seq,
            last,
            state.pinned,
            state.muted,
            state.custom,
            state.peer_read_seq,
            state.peer_delivered_seq,
            state.blocked,
        )


class Conversations(dict[str, LocalConversation]):
    """The conversations of a device, by id. `conversations[id]` creates one that does not exist."""

    __slots__ = ()

    def __missing__(self, id: str) -> LocalConversation:
        conversation = self[id] = LocalConversation(id)
        return conversation
