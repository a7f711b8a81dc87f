"""What situations of several kinds have to remember of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from imsim.core import events, storage
from imsim.faultsearch.dispatch import Types, on
from imsim.faultsearch.entries import (
    ClientReceived,
    Entry,
    Event,
    GatewayNotified,
    GatewayReceived,
    RouterReceived,
    Stored,
)

_RECEIVED: Types = ClientReceived | GatewayReceived | GatewayNotified | RouterReceived


class Memory:
    """`sent`: by instance and idClient, what its application gave to `send`."""

    def __init__(self, sent: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        self.sent = sent
        self.latest: dict[str, object] = {}  # by node, the latest frame that it has received
        self.heard: dict[str, float] = {}  # when that was
        self.ready: set[str] = set()  # instances that are through with their sync
        self.failed: set[tuple[str, str]] = set()  # (instance, idClient)
        self.acked: dict[str, set[str]] = defaultdict(set)  # by instance
        self.opened: set[str] = set()  # conversations

    def has_got(self, node: str, kind: Any) -> bool:
        """Whether a frame of this kind is the latest that the node has received."""
        return isinstance(self.latest.get(node), kind)

    @on(_RECEIVED)
    def received(self, entry: Entry) -> None:
        self.latest[entry.node] = entry.subject
        self.heard[entry.node] = entry.at

    @on(Event, events.Ready)
    def is_ready(self, entry: Entry) -> None:
        self.ready.add(entry.node)

    @on(Event, events.Disconnected | events.Ended)
    def is_gone(self, entry: Entry) -> None:
        self.ready.discard(entry.node)

    @on(Event, events.SendFailed)
    def has_failed(self, entry: Event[events.SendFailed]) -> None:
        self.failed.add((entry.node, entry.event.id_client))

    @on(Event, events.Acked)
    def was_acked(self, entry: Event[events.Acked]) -> None:
        self.acked[entry.node].add(entry.event.id_client)

    @on(Stored, storage.OpenConversation)
    def was_opened(self, entry: Stored[storage.OpenConversation]) -> None:
        self.opened.add(entry.request.conversation_id)
