"""What devices claim to have, to have shown, and to repeat."""

from __future__ import annotations

from collections import Counter

from imsim.core import frames
from imsim.core.model import Code, conversation_id
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import ClientReceived, ClientSent
from imsim.faultsearch.nodes import Instance


class Claims(Check):
    """A device says that it has, or has shown, only what it was given; and of a repeated send that it is one."""

    def begin(self) -> None:
        self._known: dict[tuple[str, str], int] = {}  # (instance, conversation) -> what it rightly said it has
        self._sent: Counter[tuple[str, str]] = (
            Counter()
        )  # (instance, idClient) -> attempts that had no refusal of a rate

    @on(ClientSent, frames.Send)
    def sent(self, entry: ClientSent[frames.Send]) -> None:
        instance, frame = self.instances[entry.node], entry.frame
        self._has(instance, conversation_id(frame.scene, instance.user, frame.to), frame.shown, frame)
        is_repeated = self._sent[instance.name, frame.id_client] > 0
        if is_repeated and not frame.resend and frame.id_client not in instance.tapped:  # by the user, not by itself
            self._wrong("repetitions_are_marked", instance, frame)
        self._sent[instance.name, frame.id_client] += 1

    @on(ClientSent, frames.Delivered)
    def delivered(self, entry: ClientSent[frames.Delivered]) -> None:
        self._has(self.instances[entry.node], entry.frame.conversation_id, entry.frame.seq, entry.frame)

    @on(ClientSent, frames.Sync)
    def synced(self, entry: ClientSent[frames.Sync]) -> None:
        for conversation, seq in entry.frame.cursors.items():
            self._has(self.instances[entry.node], conversation, seq, entry.frame)

    @on(ClientSent, frames.Read)
    def read(self, entry: ClientSent[frames.Read]) -> None:
        instance, frame = self.instances[entry.node], entry.frame
        claimed = self.model.claimed.get((instance.user, frame.conversation_id), 0)
        if frame.seq > claimed:  # else it may have heard it from another device, of which the same was asked
            self._has(instance, frame.conversation_id, frame.seq, frame)

    @on(ClientReceived, frames.Rejected)
    def rejected(self, entry: ClientReceived[frames.Rejected]) -> None:
        if entry.frame.code == Code.RATE_LIMITED:
            self._sent[entry.node, entry.frame.ref] -= 1

    def _has(self, instance: Instance, conversation: str, seq: int, frame: frames.FromClient) -> None:
        key, model = (instance.name, conversation), self.model
        known = self._known.get(key, 0)
        if seq <= known:
            return
        given = model.given[instance.name][conversation]
        missing = [n for n in range(known + 1, seq + 1) if n not in given]
        if any(n > model.age(conversation) or model.may_see(instance.user, conversation, n) for n in missing):
            self._wrong("devices_claim_only_what_they_have", instance, f"{frame}, and lacks {missing}")
        self._known[key] = seq

    def _wrong(self, invariant: str, instance: Instance, text: object) -> None:
        self.violated(invariant, f"{instance.name} said {text}")
