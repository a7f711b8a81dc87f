"""What a device knows of a conversation, and the line that it makes of it in the conversation list."""

from __future__ import annotations

from dataclasses import dataclass, replace

from imsim.core import changes, frames
from imsim.core.changes import is_visible
from imsim.core.client.inbox import Inbox
from imsim.core.model import ConversationState, Message, Scene
from imsim.core.timers import Timer
from imsim.core.unread import Unread

_AMENDED = 100  # messages that a page from before their amendment may still bring
_NEVER_CHANGED = ConversationState("", 0, 0, 0)  # of any conversation


@dataclass(slots=True)
class Conversation:
    """A line of the conversation list, as this user sees it.

    `update_time`: ms since 1970. `custom` is the user's own. p2p only: the other user has read up to `peer_read_seq`,
    and some device of the other user holds everything up to `peer_delivered_seq` (policy `receipts = delivered`; else
    only what was read is known to have been delivered); what the other user sends is refused if `blocked`.
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
    """`state` is the latest from the server. `unread` is this device's own, and ahead of it while a `read` is under
    way; so is `wanted`, what the user has changed and the server has not answered. `head`: the latest message that a
    `notify` named; `pull`: first and last seq of what is being fetched to fill a gap; `lookback`: of what is being
    fetched to find the last message, the one that was it having been recalled."""

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
        self.has_begun = False  # something was pulled
        self._amending: dict[int, Message] | None = None  # by seq: the latest change of that message
        self.unread = Unread()
        self.last_msg: Message | None = None
        self.state = _NEVER_CHANGED

    @property
    def may_begin_later(self) -> bool:
        """Whether what is missing before the first message may have been before this user's time in the group."""
        return self.inbox.next_seq == 1 and self.id.startswith(f"{Scene.GROUP}:")

    def amend(self, seq: int, entry: Message) -> None:
        """The message was recalled, or edited: whatever page brings it may be older than that."""
        self._amending = self._amending or {}
        self._amending.pop(seq, None)
        self._amending[seq] = entry
        if len(self._amending) > _AMENDED:
            del self._amending[next(iter(self._amending))]

    def amended(self, message: Message) -> Message:
        """As it is by now."""
        entry = self._amending.get(message.seq) if self._amending else None
        return message if entry is None or message.amended >= entry.seq else changes.amended(message, entry)

    @property
    def last_seq(self) -> int:
        """Of the latest entry of the log that is known here."""
        shown = self.inbox.next_seq - 1
        return max(shown, self.last_msg.seq) if self.last_msg else shown

    def may_be_last(self, message: Message) -> None:
        """The highest visible seq is the last message, whenever it came."""
        if (self.last_msg is None or message.seq > self.last_msg.seq) and is_visible(message):
            self.last_msg = message

    def settings(self, wanted: frames.SetConversation | None) -> ConversationState:
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
        """None if it is not to be listed: there is nothing to be seen, at all or since it was hidden; or it is no
        conversation but what the service has to say."""
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
