"""Who is there, who talks to whom, how often and how much."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from imsim.core.model import MessageType
from imsim.scenario.arrivals import ArrivalsField, Poisson
from imsim.scenario.distributions import (
    Constant,
    Distribution,
    Exponential,
    NumberDistribution,
    SecondsDistribution,
    mean_of,
)
from imsim.scenario.errors import FieldError, suggestion
from imsim.scenario.sections.base import Section


class Sessions(Section):
    """Devices come and leave, each for itself and again and again: in turn online and offline for a drawn time."""

    online: SecondsDistribution = Field(description="how long a device stays online, seconds or a duration")
    offline: SecondsDistribution = Field(description="how long it is away then, seconds or a duration")
    start: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the devices that are online when messages begin (0 to 1), each at the beginning of its"
        " time, be it online or offline; absent: as if it had been going on for ever",
    )

    @model_validator(mode="after")
    def _take_time(self) -> Sessions:
        for name, length in (("online", self.online), ("offline", self.offline)):
            if mean_of(length) <= 0:
                raise FieldError(name, "expected more than 0 s on average, got 0 s")
        return self


class Population(Section):
    """Who is there."""

    users: int = Field(default=100, ge=1, le=10_000_000, description="how many users")
    devices: int = Field(default=1, ge=1, le=8, description="devices of each user")
    sessions: Sessions | None = Field(
        default=None,
        description="how devices come and leave; users write only while one of theirs is online, and what they missed"
        " is fetched when they are back. Absent: all are online all the time",
    )


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
    partner_skew: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="how much closer the first partner is than the second, and so on: the k-th gets messages in"
        " proportion to 1 / k ** partner_skew (Zipf); 0: all alike",
    )
    groups: int = Field(default=0, ge=0, le=10_000_000, description="how many groups there are")
    group_size: NumberDistribution = Field(
        default=Constant(value=10),
        description="members of a group: rounded, at least 1, at most population.users and limits.group_size",
    )
    group_skew: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="how much more popular the first group is than the second, and so on: among the sender's own, group"
        " g0, g1, ... gets messages in proportion to 1 / (number + 1) ** group_skew (Zipf); 0: all alike",
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

#: Types that are carried as they are, not told of by an attachment: limits.content_bytes is for these.
CARRIED = ("text", "custom")
MOST_BYTES = 2**31 - 1


class Workload(Section):
    """How often, and how much."""

    rate: float = Field(
        default=0.1,
        ge=1e-9,
        le=1e6,
        description="messages per second and user (while online), on average; nobody waits for an answer before the"
        " next (open model)",
    )
    arrivals: ArrivalsField = Field(
        default=Poisson(),
        description="how the rate varies over time, a table of a kind: poisson (steady, random moments), bursts"
        " (everybody at once, now and then), curve (a day's), ramp (from one rate to another), or replay (moments of a"
        " run, a file or a list, in place of the rate)",
    )
    activity: NumberDistribution = Field(
        default=Constant(value=1),
        description="how much of the rate each user has, in any unit (it is divided by the mean): with a heavy tail few"
        " users write most of all",
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
    sizes: dict[str, NumberDistribution] = Field(
        default={},
        description="type of message -> its size in bytes, in place of size; what an attachment tells of may have up to"
        " 2 GB",
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

    @field_validator("sizes")
    @classmethod
    def _of_types(cls, sizes: dict[str, Distribution]) -> dict[str, Distribution]:
        for type in sizes:
            if type not in _TYPES:
                raise FieldError(type, f"unknown type{suggestion(type, _TYPES)}; known here: {', '.join(_TYPES)}")
        return sizes

    @field_validator("activity")
    @classmethod
    def _of_some(cls, activity: Distribution) -> Distribution:
        if mean_of(activity) <= 0:
            raise ValueError("expected more than 0 on average, got 0")
        return activity

    @model_validator(mode="after")
    def _amended_once(self) -> Workload:
        if self.recalls + self.edits > 1:
            raise FieldError(
                "edits", f"expected at most 1 together with recalls = {self.recalls:g}, got {self.edits:g}"
            )
        return self
