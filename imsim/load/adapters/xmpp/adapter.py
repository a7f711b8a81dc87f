"""The adapter of XMPP servers: its options and its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from imsim.load.adapters.interface import Adapter, Feature, Target
from imsim.load.adapters.xmpp.session import XmppSession
from imsim.load.adapters.xmpp.settings import Settings


class XmppAdapter(Adapter):
    """XMPP over WebSocket. `Target.key` is the password of all users; the default is `imsim`."""

    features: frozenset[Feature] = frozenset(
        {Feature.ACK, Feature.GROUPS, Feature.CHATROOMS, Feature.OWN_DEVICES, Feature.RESUME, Feature.RECEIPTS}
    )
    options: ClassVar[Mapping[str, str]] = {
        "domain": "domain of the users (default: the host of the url, localhost for 127.0.0.1)",
        "muc": "domain of the rooms (default: conference.<domain>)",
        "acks": "sm: the server's acks of stream management (default); receipts: those of the recipients' devices",
        "carbons": "on: messages reach the sender's other devices (default); off",
        "resume": "archive: a device reads the messages that it missed from the archives; off (default)",
        "reads": "markers: a device reports what its user has read with displayed markers; off (default)",
        "register": "on: accounts are registered at the first login (default); off: they exist",
    }

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.settings = Settings(target)
        absent = {
            Feature.OWN_DEVICES: not self.settings.has_carbons,
            Feature.RESUME: not self.settings.reads_archives,
            Feature.RECEIPTS: not self.settings.has_markers,
        }
        self.features = type(self).features - {feature for feature, is_absent in absent.items() if is_absent}

    def session(self, number: int, user: str, device: str) -> XmppSession:
        return XmppSession(self.settings, number, user, device)
