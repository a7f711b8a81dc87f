"""The evidence of a run: what checks may look at, and what they have found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property

from imsim.core import events
from imsim.faultsearch.model.reference import Key, ReferenceModel
from imsim.faultsearch.model.rules import Rules
from imsim.faultsearch.model.view import View
from imsim.faultsearch.nodes import Instance
from imsim.faultsearch.world import World


class Evidence:
    """A finished run, and what follows from its trace as far as it has been read.

    `found`: what is wrong, as (invariant, text, how much of the trace had been read; None: all of it)."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.policies = policies = world.case.policies
        windows = (int(1000 * t) for t in (policies.recall_window, policies.edit_window, policies.request_lifetime))
        self.model = ReferenceModel(Rules(policies.strangers == "allow", policies.group_size, *windows))
        self.instances = {instance.name: instance for instance in [*world.instances(), *world.probes]}
        self.users = {name: instance.user for name, instance in self.instances.items()}
        self.answers: dict[Key, set[tuple[str, int, int]]] = defaultdict(set)  # every (id, seq, time) ever sent
        self.found: list[tuple[str, str, int | None]] = []
        self.moment: int | None = None
        self._views: dict[str, View] = {}

    def violated(self, invariant: str, text: str) -> None:
        self.found.append((invariant, text, self.moment))

    @cached_property
    def shared(self) -> set[str]:
        """idClients that more than one instance has sent."""
        counts = Counter(id_client for instance in self.world.instances() for id_client in instance.sent)
        return {id_client for id_client, count in counts.items() if count > 1}

    @property
    def acknowledges(self) -> bool:
        """Whether the other user hears how far a device has got, or only how far its user has read."""
        return self.policies.receipts == "delivered"

    @property
    def live(self) -> list[Instance]:
        """The instances that are there in the end, the probes included."""
        return [*self.world.finalists, *self.world.probes]

    def view(self, instance: Instance) -> View:
        """What its events have made of the instance's local view."""
        if instance.name not in self._views:
            self._views[instance.name] = View.of(instance.user, instance.sent, instance.events)
        return self._views[instance.name]

    def acked(self, instance: Instance) -> Iterator[events.Acked]:
        return (event for event in instance.events if type(event) is events.Acked)
