"""The job of a test: everything that the Locust processes of one run have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from imsim.core.exceptions import UsageError
from imsim.core.model import Scene
from imsim.load.adapters import Adapter, Conversation, Feature, Target, find
from imsim.load.exchange import exchange
from imsim.scenario import Draws, Scenario, Stream, plan
from imsim.scenario.workload import Plan, PlannedConversation

_NEEDED = {Scene.GROUP: Feature.GROUPS, Scene.CHATROOM: Feature.CHATROOMS}


@dataclass(frozen=True)
class Job:
    """A scenario, a server, and how to load it.

    adapter: the name of the adapter, as `imsim.load.adapters.find` takes it.
    namespace: the prefix of the names of users, groups and messages. Otherwise, in a second run on the same server,
        every message would be a duplicate.
    has_tasks: whether users have tasks, which may send to any group, also to those in which the plan sends nothing.
    """

    scenario: Scenario
    url: str
    namespace: str
    key: str = ""
    adapter: str = "imsim"
    options: Mapping[str, str] = field(default_factory=dict)
    has_tasks: bool = False

    @cached_property
    def plan(self) -> Plan:
        """The plan of the scenario. It is drawn once: a large one takes seconds."""
        return plan(self.scenario)

    @cached_property
    def prefix(self) -> str:
        """The prefix of the id of each message."""
        return f"{self.namespace}:"

    def id_of(self, intent: int) -> str:
        """Return the id of a message."""
        return f"{self.prefix}{intent}"

    def named(self, name: str) -> str:
        """Return the name of a user, group or chatroom within the namespace."""
        return f"{self.namespace}.{name}"

    def plain(self, name: str) -> str:
        """Return the name without the namespace, the inverse of `named`."""
        return name.removeprefix(f"{self.namespace}.")

    def place(self, conversation: PlannedConversation, user: int = 0) -> Conversation:
        """Return the conversation as the session of a user addresses it."""
        return Conversation(conversation.scene, self.named(conversation.to(user)))

    def make_adapter(self) -> Adapter:
        """Create the adapter.

        Raises: UsageError if it cannot be found, or cannot use the url or an option.
        """
        seed = self.scenario.seed
        return find(self.adapter)(
            Target(
                self.url,
                self.key,
                self.namespace,
                self.scenario.core_policies(),
                self.options,
                lambda number: Stream(Draws(seed, "reconnect"), number).next,
            )
        )

    def probe(self) -> Mapping[str, Any]:
        """Check that the server can be loaded, and return what it says of itself.

        Raises: UsageError if the adapter cannot be used; RunError if the server cannot be loaded.
        """
        adapter = self.make_adapter()
        request = adapter.probe()
        return {} if request is None else adapter.probed(exchange(request))

    def check(self, adapter: Adapter) -> None:
        """Check that there is something to do, and that the kind of server offers what the plan needs.

        Raises: UsageError if not.
        """
        plan = self.plan
        if not len(plan) and not self.has_tasks:
            raise UsageError(
                f"duration: the plan has no message within {self.scenario.duration:g} s; raise the duration (-t) or"
                " workload.rate"
            )
        for scene in {plan.conversations[number].scene for number in set(plan.conversation.tolist())}:
            feature = _NEEDED.get(scene)
            if feature is not None and feature not in adapter.features:
                share = "p2p_share = 1" if scene is Scene.GROUP else "room_share = 0"
                use = f"the scenario sends to them; set conversations.{share}"
                raise UsageError(f"adapter: {self.adapter} has no {feature}, but {use}")

    def to_dict(self) -> dict[str, object]:
        """Return the job as plain values, for a message to another process."""
        return {
            "scenario": self.scenario.to_toml(),
            "name": self.scenario.name,
            "url": self.url,
            "namespace": self.namespace,
            "key": self.key,
            "adapter": self.adapter,
            "options": dict(self.options),
            "has_tasks": self.has_tasks,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Job:
        """Return the job of `to_dict`."""
        values = dict(data)
        scenario = Scenario.from_toml(str(values.pop("scenario")), name=str(values.pop("name")))
        return cls(scenario, **values)  # type: ignore[arg-type]  # the types of `to_dict`
