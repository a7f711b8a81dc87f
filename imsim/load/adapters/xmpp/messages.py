"""The message stanzas of a device: those that it sends, and the events that follow from those that it receives.

A message arrives as itself, as a carbon (XEP-0280), from an archive (XEP-0313), or as the reflection of a room.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from imsim.core.model import Code, Scene
from imsim.load.adapters.interface import Acked, Conversation, Delivered, Failed, Message, Out, Read, Received
from imsim.load.adapters.xmpp.archives import Archives
from imsim.load.adapters.xmpp.rooms import Rooms
from imsim.load.adapters.xmpp.settings import Settings
from imsim.load.adapters.xmpp.stanzas import CLIENT, condition_of, escaped, node_of
from imsim.load.adapters.xmpp.stream import Outgoing, Stream

MESSAGE = f"{CLIENT}message"
_BODY = f"{CLIENT}body"
_DELAY, _STANZA_ID = "{urn:xmpp:delay}delay", "{urn:xmpp:sid:0}stanza-id"
_RECEIPT, _RECEIPT_REQUEST = "{urn:xmpp:receipts}received", "{urn:xmpp:receipts}request"
_CARBONS = ("{urn:xmpp:carbons:2}sent", "{urn:xmpp:carbons:2}received")
_FORWARDED = f"{{urn:xmpp:forward:0}}forwarded/{MESSAGE}"
_ARCHIVED = "{urn:xmpp:mam:2}result"

_CODES = {
    "bad-request": Code.BAD_REQUEST,
    "conflict": Code.CONFLICT,
    "forbidden": Code.FORBIDDEN,
    "internal-server-error": Code.UNAVAILABLE,
    "item-not-found": Code.NO_CONVERSATION,
    "not-acceptable": Code.NOT_MEMBER,
    "not-allowed": Code.FORBIDDEN,
    "not-authorized": Code.FORBIDDEN,
    "policy-violation": Code.RATE_LIMITED,
    "recipient-unavailable": Code.UNAVAILABLE,
    "registration-required": Code.NOT_MEMBER,
    "remote-server-not-found": Code.UNAVAILABLE,
    "remote-server-timeout": Code.UNAVAILABLE,
    "resource-constraint": Code.RATE_LIMITED,
    "service-unavailable": Code.UNAVAILABLE,
}
"""The code of a returned message, by the condition of its stanza error."""


class Messages:
    """The message stanzas of a device.

    address: the address of the device. The server may choose another resource than the device asked for.
    """

    __slots__ = ("_archives", "_bare", "_own", "_rooms", "_settings", "_stream", "_unanswered", "address")

    def __init__(
        self, settings: Settings, stream: Stream, rooms: Rooms, archives: Archives | None, user: str, device: str
    ) -> None:
        self._settings = settings
        self._stream = stream
        self._rooms = rooms
        self._archives = archives
        self._bare = f"{node_of(user)}@{settings.domain}"
        self.address = f"{self._bare}/{device}"
        self._own = Conversation(Scene.P2P, user)
        self._unanswered: set[str] = set()  # the ids of messages without a receipt, if receipts are the acks

    # --- to the server ----------------------------------------------------------------------------------------------

    def outgoing(self, message: Message, now: float) -> Outgoing:
        """Return the stanza of a message."""
        id, conversation, text, *_ = message
        is_p2p = conversation.scene is Scene.P2P
        request = ""
        ack: Acked | Received = Acked(id)
        if self._settings.uses_receipts:
            ack = Received(id)
            self._unanswered.add(id)
            if is_p2p:
                request = "<request xmlns='urn:xmpp:receipts'/>"
        return Outgoing(
            f"<message xmlns='jabber:client' type='{'chat' if is_p2p else 'groupchat'}' id='{escaped(id)}' "
            f"to='{self._settings.address(conversation)}'><body>{escaped(text)}</body>{request}</message>",
            ack,
            now,
        )

    def marker(self, conversation: Conversation, id: str, now: float) -> Outgoing:
        """Return a displayed marker (XEP-0333)."""
        kind = "chat" if conversation.scene is Scene.P2P else "groupchat"
        marker = f"<displayed xmlns='urn:xmpp:chat-markers:0' id='{escaped(id)}'/>"
        to = self._settings.address(conversation)
        frame = f"<message xmlns='jabber:client' type='{kind}' to='{to}'>{marker}</message>"
        return Outgoing(frame, Read(id), now)

    def awaits_receipt(self, id: str) -> bool:
        """Return whether the ack of a message is its receipt, which has not arrived."""
        return id in self._unanswered

    def give_up(self, id: str) -> None:
        """Report no ack of this message any longer."""
        self._unanswered.discard(id)

    # --- from the server --------------------------------------------------------------------------------------------

    def received(self, message: Element) -> list[Out]:
        """Return the events of a message stanza."""
        kind, id, sender = message.get("type"), message.get("id"), message.get("from", self._bare)
        if kind == "error":
            return self._returned(message)
        has_body = is_late = wants_receipt = False
        archive = place = None
        for child in message:
            tag = child.tag
            if tag == _BODY:
                has_body = True
            elif tag == _STANZA_ID:
                archive, place = child.get("by"), child.get("id")
            elif tag == _DELAY:
                is_late = True
            elif tag == _RECEIPT_REQUEST:
                wants_receipt = True
            elif tag == _RECEIPT:
                return self._answered(child.get("id", ""))
            elif tag in _CARBONS:
                return self._carbon(child, sender)
            elif tag == _ARCHIVED:
                return self._archived(child, sender)
        if not has_body or id is None:
            return []
        if kind == "groupchat":
            room = self._rooms.room_of(sender)
            if room is None:
                return []
            own_archive, conversation, wants_receipt = room.address, room.conversation, False
        else:
            room, own_archive, conversation = None, self._bare, self._own
        if self._archives is not None:
            if place is not None and archive == own_archive:
                self._archives.advance(own_archive, place)
            if not self._archives.is_new(id) and is_late:
                return []  # the offline storage repeats the archive
        if room is not None and sender == room.me:
            return self._answered(id)  # the reflection of an own message
        outs: list[Out] = [Delivered(id, conversation, is_late, self._author(sender, kind), message.findtext(_BODY))]
        return outs + self._confirm(id, sender) if wants_receipt else outs

    def _author(self, address: str, kind: str | None) -> str:
        """Return the user who wrote a message from this address. An occupant of a room is called user.device."""
        if kind == "groupchat":
            return address.partition("/")[2].rpartition(".")[0]
        return self._settings.user_conversation(address).name

    def _confirm(self, id: str, sender: str) -> list[Out]:
        """Send a receipt (XEP-0184) to the device that sent a message."""
        receipt = f"<received xmlns='urn:xmpp:receipts' id='{escaped(id)}'/>"
        frame = f"<message xmlns='jabber:client' type='chat' to='{escaped(sender)}'>{receipt}</message>"
        return self._stream.put(Outgoing(frame))

    def _answered(self, id: str) -> list[Out]:
        """Report the ack of a message at its first receipt or its reflection, if these are the acks."""
        if id not in self._unanswered:
            return []
        self._unanswered.remove(id)
        return [Acked(id)]

    def _returned(self, message: Element) -> list[Out]:
        id = message.get("id")
        if id is None:
            return []
        self._unanswered.discard(id)
        condition, text = condition_of(message)
        return [Failed(id, _CODES.get(condition, condition), f"{condition}: {text}" if text else condition)]

    def _carbon(self, carbon: Element, sender: str) -> list[Out]:
        """Report the copy of a message that another device of this user sent or received."""
        message = carbon.find(_FORWARDED)
        if sender != self._bare or message is None or message.get("type") == "groupchat":
            return []  # only the own server may send carbons: XEP-0280, section 11
        id = message.get("id")
        if id is None or message.find(_BODY) is None:
            return []
        if self._archives is not None:
            self._archives.is_new(id)
        is_sent = carbon.tag == _CARBONS[0]
        return [Delivered(id, self._settings.user_conversation(message.get("to", "")) if is_sent else self._own)]

    def _archived(self, result: Element, sender: str) -> list[Out]:
        """Report a message of an archive, unless the device sent it or has it."""
        message = result.find(_FORWARDED)
        if self._archives is None or message is None or message.find(_BODY) is None or not (id := message.get("id")):
            return []
        author = message.get("from", "")
        room = self._rooms.room_of(sender)
        if room is not None:
            is_own, conversation = author == room.me, room.conversation
        elif sender != self._bare or message.get("type") == "groupchat":
            return []
        elif author.partition("/")[0] == self._bare:
            is_own, conversation = author == self.address, self._settings.user_conversation(message.get("to", ""))
        else:
            is_own, conversation = False, self._own
        if is_own or not self._archives.is_new(id):
            return []
        outs: list[Out] = [Delivered(id, conversation, True)]
        return (
            outs + self._confirm(id, author)
            if conversation == self._own and message.find(_RECEIPT_REQUEST) is not None
            else outs
        )
