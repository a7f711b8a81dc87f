"""The settings of a run: what the url and the options say, and the addresses of users and rooms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from imsim.core.exceptions import UsageError
from imsim.core.model import Scene
from imsim.load.adapters.interface import Conversation, Target
from imsim.load.adapters.xmpp.stanzas import name_of, node_of

_CHOICES = {
    "acks": ("sm", "receipts"),
    "carbons": ("on", "off"),
    "reads": ("off", "markers"),
    "register": ("on", "off"),
    "resume": ("off", "archive"),
}
"""The options with a fixed set of values. The first is the default."""

_DOMAIN = re.compile(r"[a-z0-9.-]+")


class Settings:
    """The settings that all devices of a process share.

    Attributes:
        opening: the first frame of a stream.
        patience: the seconds after which a message without an ack fails.
        accounts: the session that registers the account of a user, by user; None: the account exists.
    """

    def __init__(self, target: Target) -> None:
        url = urlsplit(target.url)
        if url.scheme not in ("ws", "wss") or not url.hostname:
            raise UsageError(
                "url: must be the WebSocket address of the server, such as ws://localhost:5280/xmpp-websocket "
                f"(got {target.url!r})"
            )
        options = target.options
        for name, allowed in _CHOICES.items():
            if (value := options.get(name, allowed[0])) not in allowed:
                raise UsageError(f"option {name}: must be {' or '.join(allowed)} (got {value!r})")
        is_loopback = url.hostname in ("127.0.0.1", "::1")
        self.target = target
        self.domain = _domain(options, "domain", "localhost" if is_loopback else url.hostname)
        self.muc = _domain(options, "muc", f"conference.{self.domain}")
        self.password = target.key or "imsim"
        self.uses_receipts = options.get("acks") == "receipts"
        self.has_carbons = options.get("carbons") != "off"
        self.reads_archives = options.get("resume") == "archive"
        self.has_markers = options.get("reads") == "markers"
        self.registers = options.get("register") != "off"
        self.opening = f"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='{self.domain}' version='1.0'/>".encode()
        policies = target.policies
        self.patience = sum(policies.timeout_of(attempt + 1) for attempt in range(policies.send_attempts))
        self.accounts: dict[str, object] = {}
        self._addresses: dict[Conversation, str] = {}

    def address(self, conversation: Conversation) -> str:
        """Return the address of a user, a group or a chatroom. It needs no escapes in XML."""
        address = self._addresses.get(conversation)
        if address is None:
            scene, name = conversation
            node = node_of(name)
            address = f"{node}@{self.domain}" if scene is Scene.P2P else f"{scene.value}.{node}@{self.muc}"
            self._addresses[conversation] = address
        return address

    def user_conversation(self, address: str) -> Conversation:
        """Return the p2p conversation with the user who has this address."""
        return Conversation(Scene.P2P, name_of(address.partition("@")[0]))


def _domain(options: Mapping[str, str], name: str, default: str) -> str:
    domain = options.get(name, default).lower()
    if not _DOMAIN.fullmatch(domain):
        raise UsageError(f"option {name}: must be a domain, such as localhost (got {domain!r})")
    return domain
