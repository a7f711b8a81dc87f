"""The archives of a user and of the user's rooms (XEP-0313), from which a device reads what it missed."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from imsim.load.adapters.interface import Out
from imsim.load.adapters.xmpp.stanzas import Refusal, described, escaped
from imsim.load.adapters.xmpp.stream import Stream

_END = "{urn:xmpp:mam:2}fin"
_LAST = "{http://jabber.org/protocol/rsm}set/{http://jabber.org/protocol/rsm}last"
_PAGE = 100  # messages in one answer
_MOST_REMEMBERED = 4096  # ids of messages


class Archives:
    """The positions of a device in its archives, by the address of the archive, and the ids of its latest messages.

    A message can arrive twice, for example from an archive and from the offline storage. The ids tell which ones the
    device has.

    stream: the stanzas to the server.
    own: the address of the user, and so of the user's archive.
    """

    __slots__ = ("_last", "_own", "_reading", "_seen", "_stream")

    def __init__(self, stream: Stream, own: str) -> None:
        self._stream = stream
        self._own = own
        self._last: dict[str, str] = {}
        self._reading: set[str] = set()
        self._seen: dict[str, None] = {}

    def forget_requests(self) -> None:
        """Forget the requests, because the session of the server ended."""
        self._reading.clear()

    def is_new(self, id: str) -> bool:
        """Remember the id of a received message. Return whether it was unknown."""
        seen = self._seen
        if id in seen:
            return False
        seen[id] = None
        if len(seen) > _MOST_REMEMBERED:
            del seen[next(iter(seen))]
        return True

    def advance(self, address: str, place: str) -> None:
        """Note that the device has received the message at this place of an archive."""
        if address not in self._reading:  # otherwise, the pages that are still to come are before this place
            self._last[address] = place

    def read(self, address: str) -> list[Out]:
        """Return the frames that request the messages of an archive that the device has missed."""
        self._reading.add(address)
        last = self._last.get(address)
        after = f"<after>{escaped(last)}</after>" if last else ""
        query = (
            "<query xmlns='urn:xmpp:mam:2'>"
            f"<set xmlns='http://jabber.org/protocol/rsm'><max>{_PAGE}</max>{after}</set></query>"
        )
        to = "" if address == self._own else address
        return self._stream.ask("set", to, query, lambda iq, now: self._page_ended(address, iq))

    def _page_ended(self, address: str, iq: Element) -> list[Out]:
        end = iq.find(_END)
        if end is None:
            raise Refusal(
                f"the server does not read the archive of {address} (XEP-0313), {described(iq)}: enable it (Prosody: "
                "mam, and muc_mam for the rooms; ejabberd: mod_mam, and the room option mam), or pass resume=off"
            )
        last = end.findtext(_LAST)
        if last:
            self._last[address] = last
            if end.get("complete") != "true":
                return self.read(address)
        self._reading.discard(address)
        return []
