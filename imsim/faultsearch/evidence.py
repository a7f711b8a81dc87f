"""The evidence of a run: the data that checks read, and the violations that they found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from imsim.core import events, frames
from imsim.core.model import Session
from imsim.faultsearch.model.reference import ReferenceModel
from imsim.faultsearch.model.rooms import Room
from imsim.faultsearch.model.rules import Rules
from imsim.faultsearch.model.view import View
from imsim.faultsearch.nodes import Instance
from imsim.faultsearch.world import World

Repeatable = frames.Push | frames.State | frames.Notify | frames.Resync


class Evidence:
    """A finished run, and the facts derived from the part of its trace that has been read.

    `found`: the violations, as (invariant, text, number of entries read so far; None: the whole trace).
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.policies = policies = world.case.policies
        windows = (int(1000 * t) for t in (policies.recall_window, policies.edit_window, policies.request_lifetime))
        self.model = ReferenceModel(Rules(policies.strangers == "allow", policies.group_size, *windows))
        self.rooms: dict[str, Room] = defaultdict(Room)
        self.sessions: dict[str, set[Session]] = defaultdict(set)  # of each user, the sessions that its router knows of
        self.skewed_clocks: set[str] = set()  # nodes and devices whose clocks were changed by a fault
        self.everyone = [*world.instances(), *world.probes]
        self.instances = {instance.name: instance for instance in self.everyone}
        self.users = {name: instance.user for name, instance in self.instances.items()}
        self.found: list[tuple[str, str, int | None]] = []
        self.moment: int | None = None
        self._views: dict[str, View] = {}

    def violated(self, invariant: str, text: str) -> None:
        self.found.append((invariant, text, self.moment))

    @cached_property
    def shared(self) -> set[str]:
        """The idClients that more than one instance has sent."""
        counts = Counter(id_client for instance in self.world.instances() for id_client in instance.sent)
        return {id_client for id_client, count in counts.items() if count > 1}

    @property
    def acknowledges(self) -> bool:
        """Whether a user learns how far a peer's device has received messages, or only how far the peer has read."""
        return self.policies.receipts == "delivered"

    @property
    def live(self) -> list[Instance]:
        """The instances that are live at the end of the run, including the probes."""
        return [*self.world.final_instances, *self.world.probes]

    def view(self, instance: Instance) -> View:
        """Return the local view that the instance's events build up."""
        if instance.name not in self._views:
            self._views[instance.name] = View.of(instance.user, instance.sent, instance.events)
        return self._views[instance.name]

    def acked(self, instance: Instance) -> Iterator[events.Acked]:
        return (event for event in instance.events if type(event) is events.Acked)

    def is_owner(self, router: str, name: str) -> bool:
        """Return whether this router owns the user or chatroom."""
        return self.world.router_of(name).name == router


def number_of(frame: Any) -> tuple[str, int]:
    """Return the conversation ("" if it has none) and the number of a frame that is repeated until acknowledged.

    The number is the seq of a message, the version of a state, or the number of a resync.
    """
    if isinstance(frame, frames.Push):
        return frame.message.conversation_id, frame.message.seq
    if isinstance(frame, frames.State):
        return frame.state.conversation_id, frame.state.version
    return (frame.conversation_id, frame.seq) if isinstance(frame, frames.Notify) else ("", frame.number)
