"""The scenario: one description of an IM system and its users, from which both worlds run.

Every field has a default, so a scenario says only what matters to its question. Durations are float seconds in Python;
in TOML also "250us", "5ms", "2s", "1.5min", "2h".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from imsim.core.exceptions import UsageError
from imsim.core.frames import GATEWAY_OPS, ROUTER_OPS
from imsim.core.model import MessageType
from imsim.core.policies import Policies as CorePolicies
from imsim.core.storage import STORAGE_OPS
from imsim.scenario import files
from imsim.scenario.distributions import Constant, Exponential, Lognormal, NumberDistribution, SecondsDistribution
from imsim.scenario.errors import FieldError, explain, suggestion
from imsim.scenario.quantities import PositiveSeconds, Seconds


class Section(BaseModel):
    """A table of the file. Nothing is guessed: unknown fields and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Population(Section):
    """Who is there."""

    users: int = Field(default=100, ge=2, le=10_000_000, description="how many users")
    devices: int = Field(default=1, ge=1, le=8, description="devices of each user, all online")


class Conversations(Section):
    """Who talks to whom."""

    p2p_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the messages that go to one partner (0 to 1). What room_share leaves of the rest goes to"
        " groups; a user who is in none sends to partners instead",
    )
    room_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the messages that go to chatrooms (0 to 1); who is in none sends to groups instead",
    )
    partners: int = Field(default=1, ge=0, description="p2p partners that each user writes to")
    groups: int = Field(default=0, ge=0, le=10_000_000, description="how many groups there are")
    group_size: NumberDistribution = Field(
        default=Constant(value=10),
        description="members of a group: rounded, at least 1, at most population.users and limits.group_size",
    )
    rooms: int = Field(default=0, ge=0, le=1_000_000, description="how many chatrooms there are")
    room_size: NumberDistribution = Field(
        default=Constant(value=50),
        description="audience of a chatroom: rounded, at least 1, at most population.users and limits.room_size",
    )
    churn: float = Field(
        default=0.0,
        ge=0,
        le=1e3,
        description="changes of membership per second and group, a Poisson process: in turn its owner invites a guest"
        " from outside, who only listens, and the guest leaves",
    )
    friend_requests: float = Field(
        default=0.0,
        ge=0,
        le=1e3,
        description="friend requests per second and user, a Poisson process: to anybody, who accepts at once",
    )

    @model_validator(mode="after")
    def _somebody_to_write_to(self) -> Conversations:
        if self.p2p_share + self.room_share > 1:
            raise FieldError(
                "room_share",
                f"expected at most 1 together with p2p_share = {self.p2p_share:g}, got {self.room_share:g}",
            )
        if self.p2p_share + self.room_share < 1 and self.groups == 0:
            shares = f"p2p_share = {self.p2p_share:g}"
            if self.room_share:
                shares += f" and room_share = {self.room_share:g}"
            leaves = "leave" if self.room_share else "leaves"
            raise FieldError("groups", f"expected at least 1, as {shares} {leaves} messages for groups, got 0")
        if self.room_share > 0 and self.rooms == 0:
            raise FieldError(
                "rooms", f"expected at least 1, as room_share = {self.room_share:g} sends to chatrooms, got 0"
            )
        if self.p2p_share > 0 and self.partners == 0:
            raise FieldError(
                "partners", f"expected at least 1, as p2p_share = {self.p2p_share:g} sends to partners, got 0"
            )
        if self.churn > 0 and self.groups == 0:
            raise FieldError("groups", f"expected at least 1, as churn = {self.churn:g} changes groups, got 0")
        return self


#: What users send. (A notification is no message of theirs, but a change that they make.)
_TYPES = tuple(str(type) for type in MessageType if type != MessageType.NOTIFICATION)
_MOST_SHARE = 1e9


class Workload(Section):
    """How often, and how much."""

    rate: float = Field(
        default=0.1,
        ge=1e-9,
        le=1e6,
        description="messages per second and user; the times between them are exponential (a Poisson process), and no"
        " user waits for an answer before the next (open model)",
    )
    size: NumberDistribution = Field(
        default=Constant(value=100),
        description="bytes of content: rounded, at least 1, at most limits.content_bytes; of the attachment, or of"
        " custom, where the type has that",
    )
    types: dict[str, float] = Field(
        default={"text": 1.0},
        description=f"type of message -> its share of the messages, in any unit; types are {', '.join(_TYPES)}",
    )
    recalls: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the messages that their senders take back (0 to 1), but for those to chatrooms, which"
        " keep none",
    )
    edits: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the messages that their senders edit (0 to 1), but for those to chatrooms and those that"
        " are no text",
    )
    amended_after: SecondsDistribution = Field(
        default=Exponential(mean=5.0),
        description="how long after sending they are taken back or edited, seconds or a duration; what would come after"
        " the end of the run's duration is left out",
    )

    @field_validator("types")
    @classmethod
    def _in_one_order(cls, types: dict[str, float]) -> dict[str, float]:
        for type, share in types.items():
            if type not in _TYPES:
                raise FieldError(type, f"unknown type{suggestion(type, _TYPES)}; known here: {', '.join(_TYPES)}")
            if not 0 <= share <= _MOST_SHARE:
                raise FieldError(type, f"expected a share from 0 to {_MOST_SHARE:g}, got {share:g}")
        if not any(types.values()):
            raise ValueError("expected at least one type with a share above 0")
        # Scenarios are equal in whatever order their types stand, so their plans have to be.
        return {type: types[type] for type in _TYPES if type in types}

    @model_validator(mode="after")
    def _amended_once(self) -> Workload:
        if self.recalls + self.edits > 1:
            raise FieldError(
                "edits", f"expected at most 1 together with recalls = {self.recalls:g}, got {self.edits:g}"
            )
        return self


class Link(Section):
    """A connection between two nodes; both directions are alike. Frames keep their order, as in TCP."""

    latency: SecondsDistribution = Field(description="one way, seconds or a duration")
    loss: float = Field(default=0.0, ge=0, lt=1, description="chance that a transmission is lost (0 to below 1)")
    retransmit: PositiveSeconds = Field(
        default=0.2, description="what each lost transmission adds to the latency, seconds or a duration"
    )


class ClientLink(Link):
    latency: SecondsDistribution = Field(
        default=Lognormal(median=0.015, p99=0.06), description="one way, seconds or a duration"
    )


class BackendLink(Link):
    latency: SecondsDistribution = Field(
        default=Lognormal(median=0.0003, p99=0.001), description="one way, seconds or a duration"
    )


class Network(Section):
    """What lies between the nodes. Simulated only: a live run has a network of its own."""

    client: ClientLink = Field(default=ClientLink(), description="between a device and its gateway")
    backend: BackendLink = Field(default=BackendLink(), description="between gateways, routers and storages")


class Tier(Section):
    """The nodes of one kind: each has a queue, and workers that take from it."""

    ops: ClassVar[frozenset[str]]

    workers: int = Field(default=1, ge=1, description="operations that one node carries out at the same time")
    service: dict[str, SecondsDistribution] = Field(
        default={},
        description="operation -> time it keeps a worker, seconds or a duration. An operation that is not listed costs"
        " nothing and does not queue",
    )

    @field_validator("service", mode="before")
    @classmethod
    def _known_ops(cls, service: object) -> object:
        for op in service if isinstance(service, dict) else ():
            if op not in cls.ops:
                known = ", ".join(sorted(cls.ops))
                raise FieldError(op, f"unknown operation{suggestion(op, cls.ops)}; known here: {known}")
        return service


class GatewayTier(Tier):
    """Gateways hold the connections: each frame of a client, whichever way it goes, is one operation."""

    ops = GATEWAY_OPS


class RouterTier(Tier):
    """Routers order conversations and know where users are: each frame that reaches one is one operation."""

    ops = ROUTER_OPS


class StorageTier(Tier):
    """Storages keep what is acknowledged: each request is one operation."""

    ops = STORAGE_OPS


class Topology(Section):
    """What the service consists of. Simulated only: a live server is one process."""

    gateways: int = Field(default=1, ge=1, description="how many gateways")
    routers: int = Field(default=1, ge=1, description="how many routers; conversations and users are spread by hash")
    storages: int = Field(default=1, ge=1, description="how many storages; conversations are spread by hash")
    gateway: GatewayTier = Field(default=GatewayTier(), description="each gateway")
    router: RouterTier = Field(default=RouterTier(), description="each router")
    storage: StorageTier = Field(default=StorageTier(), description="each storage")


class Policies(Section):
    """How client and server behave. All times are seconds or durations."""

    ack: Literal["after_store", "after_receive"] = Field(
        default="after_store",
        description="when the sender hears of success: once stored, or (also) once the router has the message",
    )
    sessions: Literal["all", "one_per_kind", "single"] = Field(
        default="all",
        description="which of a user's devices may be logged in together: all, one of each kind, or a single one;"
        " a new login ends the others",
    )
    fanout: Literal["read", "write"] = Field(
        default="read",
        description="what storage keeps of a message: one row, and a login looks into each of its conversations; or"
        " also a row in the inbox of each member, and a login reads its own inbox",
    )
    delivery: Literal["push", "notify"] = Field(
        default="push",
        description="what a device is sent of a new message: the message, or a notice upon which it fetches it",
    )
    receipts: Literal["read", "delivered"] = Field(
        default="read",
        description="what the sender of a p2p message hears of: that it was read, or also that a device has got it",
    )
    strangers: Literal["allow", "refuse"] = Field(
        default="allow", description="whether users who are no friends may send each other p2p messages"
    )
    presence: Literal["off", "friends"] = Field(
        default="off", description="whether friends hear of each other when they come online and go offline"
    )
    recall_window: Seconds = Field(
        default=120.0, description="for so long a sender may recall a message; a group's admins may at any time"
    )
    edit_window: Seconds = Field(default=900.0, description="for so long a sender may edit a message")
    request_lifetime: PositiveSeconds = Field(
        default=604_800.0, description="friend requests, applications and invitations can be answered for so long"
    )
    send_timeout: PositiveSeconds = Field(default=5.0, description="a send not answered for this long is sent again")
    send_attempts: int = Field(default=4, ge=1, description="sendings of one message before it fails")
    push_timeout: PositiveSeconds = Field(
        default=2.0, description="a push not acknowledged for this long is pushed again"
    )
    push_backoff: float = Field(default=2.0, ge=1, description="factor from one push's timeout to the next's")
    gap_wait: Seconds = Field(
        default=3.0,
        description="a device that holds a message back because one before it is missing waits for so long, then"
        " fetches what is missing (with a drain shorter than this, some are held back at the end, and count as lost)",
    )
    heartbeat: PositiveSeconds = Field(default=30.0, description="a client silent for this long pings")
    heartbeat_timeout: PositiveSeconds = Field(
        default=75.0, description="a connection silent for this long is taken for lost; must exceed heartbeat"
    )
    reconnect_min: PositiveSeconds = Field(default=0.5, description="the first reconnect's backoff, at most")
    reconnect_max: PositiveSeconds = Field(default=30.0, description="no reconnect backs off for longer")
    storage_timeout: PositiveSeconds = Field(
        default=10.0, description="a storage request not answered for this long has failed"
    )
    login_timeout: PositiveSeconds = Field(
        default=10.0, description="a connection not logged in after this long is closed"
    )
    token_lifetime: PositiveSeconds = Field(default=86400.0, description="a token is valid for this long")

    @model_validator(mode="after")
    def _ordered(self) -> Policies:
        if self.heartbeat_timeout <= self.heartbeat:
            raise FieldError(
                "heartbeat_timeout",
                f"expected more than heartbeat ({self.heartbeat:g} s), got {self.heartbeat_timeout:g} s",
            )
        if self.reconnect_max < self.reconnect_min:
            raise FieldError(
                "reconnect_max",
                f"expected at least reconnect_min ({self.reconnect_min:g} s), got {self.reconnect_max:g} s",
            )
        return self


class Limits(Section):
    """Every queue and every request has an end."""

    content_bytes: int = Field(
        default=16384,
        ge=1,
        le=2**31 - 1,
        description="bytes of a message's content, of its custom and of its file, each",
    )
    send_queue: int = Field(
        default=1024, ge=1, description="unacknowledged pushes of one connection; beyond it a slow reader is closed"
    )
    page: int = Field(default=100, ge=1, description="messages in one page of a sync")
    open_conversations: int = Field(default=100_000, ge=1, description="conversations that a router keeps in memory")
    group_size: int = Field(default=5000, ge=1, description="members of a group")
    user_rate: float = Field(
        default=0.0,
        ge=0,
        description="messages per second that a user may send through one gateway, and syncs, and other requests, each;"
        " 0: any number",
    )
    user_burst: int = Field(default=20, ge=1, description="of them at once, after a pause, under user_rate")
    group_rate: float = Field(default=0.0, ge=0, description="messages per second in one group; 0: any number")
    group_burst: int = Field(default=100, ge=1, description="messages at once, after a pause, under group_rate")
    room_size: int = Field(default=100_000, ge=1, description="users in a chatroom")
    room_recent: int = Field(default=20, ge=0, description="messages that a chatroom remembers for who enters")
    room_rate: float = Field(
        default=0.0,
        ge=0,
        description="messages per second of chatrooms that a connection is sent; more are shed, and counted; 0: any"
        " number",
    )
    room_burst: int = Field(default=50, ge=1, description="of them at once, after a pause, under room_rate")
    hint_rate: float = Field(
        default=0.0, ge=0, description="typing hints per second that a user may give; the rest is dropped; 0: none"
    )
    hint_burst: int = Field(default=5, ge=1, description="of them at once, after a pause, under hint_rate")


# The one place that says what only the simulation can choose.
LIVE_IGNORES = ("network", "topology")


class Scenario(Section):
    """One IM system, its users, and for how long they talk. Frozen; `with_` makes a changed copy.

    Raises: UsageError where the fields are no scenario, one line for each problem. (A section or a distribution built
    on its own raises pydantic's ValidationError.)
    """

    name: str = Field(
        default="custom",
        min_length=1,
        exclude=True,
        description="the preset's name or the file's stem; not in the file",
    )
    title: str = Field(default="", description="one line: the question that the scenario answers")
    seed: int = Field(default=1, ge=0, description="of everything that is drawn: same seed, same rows")
    duration: PositiveSeconds = Field(
        default=10.0, description="for how long messages are sent, warm-up included; seconds or a duration"
    )
    warmup: Seconds = Field(
        default=0.0, description="messages of this first part do not count in statistics; below duration"
    )
    drain: Seconds = Field(
        default=5.0, description="how long deliveries may still arrive after duration; seconds or a duration"
    )
    population: Population = Field(default=Population(), description="who is there")
    conversations: Conversations = Field(default=Conversations(), description="who talks to whom")
    workload: Workload = Field(default=Workload(), description="how often, and how much")
    network: Network = Field(default=Network(), description="what lies between the nodes (simulated only)")
    topology: Topology = Field(default=Topology(), description="what the service consists of (simulated only)")
    policies: Policies = Field(default=Policies(), description="how client and server behave")
    limits: Limits = Field(default=Limits(), description="where queues and requests end")

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            name, lines = fields.get("name") or "custom", explain(error, Scenario)
            raise UsageError("\n".join(f"scenario {name}: {line}" for line in lines)) from None

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        if len(title.splitlines()) > 1:
            raise ValueError("expected one line, got several")
        return title

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.warmup >= self.duration:
            raise FieldError("warmup", f"expected less than duration ({self.duration:g} s), got {self.warmup:g} s")
        users, talk, limits = self.population.users, self.conversations, self.limits
        if talk.partners >= users:
            raise FieldError(
                "conversations.partners",
                f"expected fewer than population.users ({users}), got {talk.partners}",
            )
        _check_fits("workload.size", self.workload.size.upper, "limits.content_bytes", limits.content_bytes)
        for what, count, size, limit in (
            ("group_size", talk.groups, talk.group_size, limits.group_size),
            ("room_size", talk.rooms, talk.room_size, limits.room_size),
        ):
            if count:
                largest = min(size.upper, users) if math.isfinite(size.upper) else size.upper
                _check_fits(f"conversations.{what}", largest, f"limits.{what}", limit)
        return self

    @classmethod
    def load(
        cls,
        name_or_path: str | PathLike[str],
        overrides: files.Overrides = (),
        *,
        seed: int | None = None,
    ) -> Scenario:
        """A preset by its name, or a TOML file by its path, changed by `overrides`.

        overrides: "path=value" texts as on the command line (the value is read as TOML, or else as plain text), or a
            mapping of dotted paths to Python values: {"population.users": 500}.
        seed: in place of the scenario's own.

        Raises: UsageError, also where there is no such preset or file.
        """
        name, text = files.read(name_or_path)
        scenario = cls.from_toml(text, name=name)
        changes = files.changes(overrides, name)
        if seed is not None:
            changes["seed"] = seed
        return scenario.with_(changes)

    @classmethod
    def from_toml(cls, text: str, *, name: str = "custom") -> Scenario:
        """The scenario that a TOML text describes. Raises: UsageError."""
        fields = files.parse(text, name)
        if "name" in fields:
            raise UsageError(f"scenario {name}: name: not a field of the file; a scenario is named after its file")
        return cls(name=name, **fields)

    def to_toml(self) -> str:
        """The TOML text that `from_toml` reads back as an equal scenario (but for its name)."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def with_(self, overrides: Mapping[str, object]) -> Scenario:
        """A copy with other values at these dotted paths: `office.with_({"topology.routers": 4})`.

        All are changed before anything is checked. Raises: UsageError, also for an unknown path.
        """
        if not overrides:
            return self
        fields = {"name": self.name, **self.model_dump()}
        for path, value in overrides.items():
            files.put(fields, path, value, self.name)
        return Scenario(**fields)

    def core_policies(self) -> CorePolicies:
        """[policies] and [limits] for the core's machines; how long tokens live is for those who issue them."""
        fields = self.policies.model_dump(exclude={"token_lifetime"}) | self.limits.model_dump()
        return CorePolicies(**fields)

    def ignored_live(self) -> list[str]:
        """Dotted paths of the fields (here: whole sections) that a live run does not use."""
        return list(LIVE_IGNORES)

    @staticmethod
    def presets() -> dict[str, str]:
        """The scenarios that come with imsim: name -> title."""
        return {name: files.parse(files.preset_text(name), name)["title"] for name in files.preset_names()}

    @staticmethod
    def preset_text(name: str) -> str:
        """A preset as it stands in its file, comments included. Raises: UsageError if there is none of this name."""
        return files.preset_text(name)


def _check_fits(path: str, largest: float, limit_path: str, limit: int) -> None:
    """Where the tail is open the plan cuts it at the limit; a known maximum beyond it is a mistake."""
    if largest < 1:
        raise FieldError(path, f"expected values of 1 or more, got at most {largest:g}")
    if limit < largest < math.inf:
        raise FieldError(path, f"expected at most {limit_path} ({limit}), got up to {largest:g}")
