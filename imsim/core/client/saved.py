"""The state of a device as plain values, which a program can keep in a file and restore after a restart."""

from __future__ import annotations

from dataclasses import dataclass

from imsim.core.model import ConversationState, Message
from imsim.core.unread import SavedUnread


@dataclass(slots=True)
class SavedConversation:
    """A conversation of a device. Its fields have the meaning of the attributes of `LocalConversation`.

    `cursor` is the seq up to which the application has everything. The other fields may already contain later
    messages: to receive these again changes nothing.
    """

    id: str
    cursor: int
    state: ConversationState
    last_msg: Message | None
    unread: SavedUnread
    has_begun: bool


@dataclass(slots=True)
class Saved:
    """A device. `log`, `version` and `inbox` have the meaning of the frames `logged_in` and `sync`."""

    log: str
    version: int
    inbox: int
    conversations: list[SavedConversation]
