"""What a device knows of a conversation, and the line that it makes of it in the conversation list."""

from __future__ import annotations

from dataclasses import dataclass, replace

from imsim.core import frames
from imsim.core.inbox import Inbox
from imsim.core.model import Message, Place, Scene
from imsim.core.timers import Timer
from imsim.core.unread import Unread


@dataclass(slots=True)
class Conversation:
    """A line of the conversation list, as this user sees it.

    `update_time`: ms since 1970. `custom` is the user's own. p2p only: the other user has read up to `peer_read_seq`,
    and some device of the other user holds everything up to `peer_delivered_seq` (policy `receipts = delivered`; else
    only what was read is known to have been delivered).
    """

    id: str
    scene: Scene
    to: str
    update_time: int
    unread: int
    read_seq: int
    last_msg: Message | None
    pinned: bool = False
    muted: bool = False
    custom: str = ""
    peer_read_seq: int = 0
    peer_delivered_seq: int = 0


class LocalConversation:
    """`place` is the latest from the server. `unread` is this device's own, and ahead of it while a `read` is under
    way; so is `wanted`, what the user has changed and the server has not answered. `head`: the latest message that a
    `notify` told of; `pull`: first and last seq of what is being fetched to fill a gap."""

    __slots__ = ("gap_timer", "head", "id", "inbox", "last_msg", "place", "pull", "unread")

    def __init__(self, id: str) -> None:
        self.id = id
        self.inbox = Inbox()
        self.gap_timer: Timer | None = None
        self.head = 0
        self.pull: tuple[int, int] | None = None
        self.unread = Unread()
        self.last_msg: Message | None = None
        self.place = Place(id, 0, 0, 0)

    @property
    def last_seq(self) -> int:
        """Of the latest message on the screen."""
        shown = self.inbox.next_seq - 1
        return max(shown, self.last_msg.seq) if self.last_msg else shown

    def settings(self, wanted: frames.SetConversation | None) -> Place:
        place = self.place
        if wanted is None:
            return place
        return replace(
            place,
            pinned=place.pinned if wanted.pinned is None else wanted.pinned,
            muted=place.muted if wanted.muted is None else wanted.muted,
            hidden_seq=max(place.hidden_seq, wanted.hidden_seq or 0),
            custom=place.custom if wanted.custom is None else wanted.custom,
        )

    def line(self, user: str, wanted: frames.SetConversation | None) -> Conversation | None:
        """None if it is not to be listed: nothing has happened in it, at all or since it was hidden."""
        place = self.settings(wanted)
        if self.last_seq <= place.hidden_seq:
            return None
        scene, _, to = self.id.partition(":")
        if scene == Scene.P2P:
            one, other = to.split(":")
            to = other if one == user else one
        last, unread = self.last_msg, self.unread
        return Conversation(
            self.id,
            Scene(scene),
            to,
            last.time if last else 0,
            unread.count,
            unread.read_seq,
            last,
            place.pinned,
            place.muted,
            place.custom,
            place.peer_read_seq,
            place.peer_delivered_seq,
        )
