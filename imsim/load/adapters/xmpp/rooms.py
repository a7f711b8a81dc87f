"""The groups and chatrooms of a device: rooms of XEP-0045."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from imsim.load.adapters.interface import Conversation, Joined, NotJoined, Out
from imsim.load.adapters.xmpp.archives import Archives
from imsim.load.adapters.xmpp.stanzas import condition_of, described, escaped
from imsim.load.adapters.xmpp.stream import Outgoing, Stream

_USER = "{http://jabber.org/protocol/muc#user}"
_SELF, _CREATED = "110", "201"  # status codes
_MOST_REFUSALS = 50  # of a locked room; each takes a round trip
_INSTANT = "<x xmlns='jabber:x:data' type='submit'/>"
_PERSISTENT = (
    "<x xmlns='jabber:x:data' type='submit'>"
    "<field var='FORM_TYPE' type='hidden'><value>http://jabber.org/protocol/muc#roomconfig</value></field>"
    "<field var='muc#roomconfig_persistentroom'><value>1</value></field></x>"
)


class Room:
    """A room.

    address: the address of the room. `me` is the address of this device in it.
    is_in: whether the device is in the room. `was_in`: whether it has been before.
    reports: whether the caller of `join` waits for `Joined`.
    refusals: how often the room was locked when the device wanted to enter it.
    """

    __slots__ = ("address", "conversation", "is_in", "me", "refusals", "reports", "was_in")

    def __init__(self, conversation: Conversation, address: str, nickname: str) -> None:
        self.conversation = conversation
        self.address = address
        self.me = f"{address}/{nickname}"
        self.is_in = self.was_in = False
        self.reports = True
        self.refusals = 0


class Rooms:
    """The rooms of a device.

    stream: the stanzas to the server.
    archives: the archives to be read when the device is back in a room; None: none. The rooms are then made persistent,
        because an archive ends with its room.

    Attributes:
        joining: the addresses of the rooms that have not answered.
    """

    __slots__ = ("_archives", "_nickname", "_rooms", "_stream", "joining")

    def __init__(self, stream: Stream, archives: Archives | None, nickname: str) -> None:
        self._stream = stream
        self._archives = archives
        self._nickname = nickname
        self._rooms: dict[str, Room] = {}  # by address
        self.joining: set[str] = set()

    def room_of(self, sender: str) -> Room | None:
        """Return the room with the occupant who has this address."""
        return self._rooms.get(sender.partition("/")[0])

    def leave(self) -> None:
        """Note that the device is in no room, because the session of the server ended."""
        self.joining.clear()
        for room in self._rooms.values():
            room.is_in = False

    def join(self, conversation: Conversation, address: str, is_online: bool) -> list[Out]:
        """Enter a room, now or at the next login."""
        room = self._rooms.get(address)
        if room is None:
            room = self._rooms[address] = Room(conversation, address, self._nickname)
        elif room.is_in:
            return [Joined(conversation)]
        room.reports = True
        return self._enter(room) if is_online and address not in self.joining else []

    def enter_all(self) -> Iterator[Out]:
        """Enter each room in which the device is not."""
        for room in self._rooms.values():
            if not room.is_in and room.address not in self.joining:
                yield from self._enter(room)

    def give_up(self, reason: str) -> list[Out]:
        """Report each room that has not answered."""
        rooms = [self._rooms.pop(address) for address in sorted(self.joining)]
        self.joining.clear()
        return [NotJoined(room.conversation, reason) for room in rooms]

    def presence(self, presence: Element) -> list[Out]:
        """Handle a presence, which may be the answer to a join."""
        sender = presence.get("from", "")
        room = self.room_of(sender)
        kind = presence.get("type")
        if room is None or (kind is None and room.is_in):
            return []  # from another user or another occupant
        if kind == "error":
            return self._refused(room, presence) if room.address in self.joining else []
        codes = {status.get("code") for status in presence.iterfind(f"{_USER}x/{_USER}status")}
        if _SELF not in codes and sender != room.me:
            return []  # from another occupant
        if kind == "unavailable":
            room.is_in = False  # the room removed the device, which enters it again after its next login
            return []
        if room.address not in self.joining:
            return []
        room.me = sender  # the room may choose another nickname
        if _CREATED not in codes:
            return self._joined(room)
        # The room is new, and locked until its owner accepts a configuration.
        form = _INSTANT if self._archives is None else _PERSISTENT
        query = f"<query xmlns='http://jabber.org/protocol/muc#owner'>{form}</query>"
        return self._stream.ask("set", room.address, query, lambda iq, now: self._configured(room, iq))

    def _enter(self, room: Room) -> list[Out]:
        self.joining.add(room.address)
        join = "<x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x>"
        return self._stream.put(Outgoing(f"<presence xmlns='jabber:client' to='{escaped(room.me)}'>{join}</presence>"))

    def _refused(self, room: Room, error: Element) -> list[Out]:
        """Enter a room again that is locked: another device has created it a moment ago. Give up on any other error."""
        if condition_of(error)[0] != "item-not-found" or room.refusals == _MOST_REFUSALS:
            return self._not_joined(room, described(error))
        room.refusals += 1
        return self._enter(room)

    def _configured(self, room: Room, iq: Element) -> list[Out]:
        if room.address not in self.joining:
            return []
        if iq.get("type") == "error":
            return self._not_joined(room, f"the room was not created, {described(iq)}")
        return self._joined(room)

    def _joined(self, room: Room) -> list[Out]:
        self.joining.discard(room.address)
        outs: list[Out] = [Joined(room.conversation)] if room.reports else []
        if self._archives is not None and room.was_in:
            outs += self._archives.read(room.address)
        room.is_in = room.was_in = True
        room.reports, room.refusals = False, 0
        return outs

    def _not_joined(self, room: Room, reason: str) -> list[Out]:
        self.joining.discard(room.address)
        del self._rooms[room.address]
        return [NotJoined(room.conversation, reason)]
