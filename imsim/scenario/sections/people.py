"""The users and their devices, their conversations, and the messages that they send."""

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
    """The online periods of devices. Each device alternates between online and offline, for random times."""

    online: SecondsDistribution = Field(description="how long a device stays online, seconds or a duration")
    offline: SecondsDistribution = Field(description="how long it is offline afterwards, seconds or a duration")
    start: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the devices that are online at the start (0 to 1); every device then begins a new"
        " period, online or offline. Absent: the devices start in the steady state, in the middle of their periods",
    )

    @model_validator(mode="after")
    def _take_time(self) -> Sessions:
        for name, length in (("online", self.online), ("offline", self.offline)):
            if mean_of(length) <= 0:
                raise FieldError(name, "expected a mean of more than 0 s, got 0 s")
        return self


class Population(Section):
    """The users and their devices."""

    users: int = Field(default=100, ge=1, le=10_000_000, description="number of users")
    devices: int = Field(default=1, ge=1, le=8, description="devices of each user")
    sessions: Sessions | None = Field(
        default=None,
        description="online periods of the devices. A user sends only while one of their devices is online, and a"
        " device fetches the messages it missed when it returns. Absent: all devices are online all the time",
    )


class Conversations(Section):
    """The conversations, and the shares of messages that go to them."""

    p2p_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the messages that go to a p2p partner (0 to 1). Messages that neither go to partners"
        " nor, by room_share, to chatrooms go to groups; a user who is not in a group sends them to partners instead",
    )
    room_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the messages that go to chatrooms (0 to 1); a user who is not in a chatroom sends them"
        " to groups instead",
    )
    partners: int = Field(default=1, ge=0, description="p2p partners that each user sends to")
    partner_skew: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="how unevenly a user's messages go to partners: the share of the k-th partner is proportional to 1"
        " / k ** partner_skew (Zipf); 0: evenly",
    )
    groups: int = Field(default=0, ge=0, le=10_000_000, description="number of groups")
    group_size: NumberDistribution = Field(
        default=Constant(value=10),
        description="members of a group: rounded, at least 1, at most population.users and limits.group_size",
    )
    group_skew: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="how unevenly a user's messages go to the user's groups: the share of group g0, g1, ... is"
        " proportional to 1 / (number + 1) ** group_skew (Zipf); 0: evenly",
    )
    rooms: int = Field(default=0, ge=0, le=1_000_000, description="number of chatrooms")
    room_size: NumberDistribution = Field(
        default=Constant(value=50),
        description="users in the audience of a chatroom: rounded, at least 1, at most population.users and"
        " limits.room_size",
    )
    churn: float = Field(
        default=0.0,
        ge=0,
        le=1e3,
        description="changes of membership per second and group, a Poisson process: the group's owner invites a guest,"
        " who only reads; the next change is that the guest leaves; and so on",
    )
    friend_requests: float = Field(
        default=0.0,
        ge=0,
        le=1e3,
        description="friend requests per second and user, a Poisson process; each goes to a random user, who accepts"
        " it at once",
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
            raise FieldError("groups", f"expected at least 1, because {shares} {leaves} messages for groups, got 0")
        if self.room_share > 0 and self.rooms == 0:
            raise FieldError(
                "rooms", f"expected at least 1, because room_share = {self.room_share:g} sends to chatrooms, got 0"
            )
        if self.p2p_share > 0 and self.partners == 0:
            raise FieldError(
                "partners", f"expected at least 1, because p2p_share = {self.p2p_share:g} sends to partners, got 0"
            )
        if self.churn > 0 and self.groups == 0:
            raise FieldError("groups", f"expected at least 1, because churn = {self.churn:g} changes groups, got 0")
        return self


#: The types that users send. (A notification reports a change in a group; users do not send it.)
_TYPES = tuple(str(type) for type in MessageType if type != MessageType.NOTIFICATION)
_MOST_SHARE = 1e9

#: Types whose whole content is in the message, without an attachment: limits.content_bytes applies to them.
CARRIED = ("text", "custom")
MOST_BYTES = 2**31 - 1


class Workload(Section):
    """The messages: how often users send, of which types and sizes."""

    rate: float = Field(
        default=0.1,
        ge=1e-9,
        le=1e6,
        description="messages per second and user (while online), on average. Users do not wait for an answer before"
        " the next message (open model)",
    )
    arrivals: ArrivalsField = Field(
        default=Poisson(),
        description="how the rate changes over time. A table whose kind is: poisson (a steady rate, random moments),"
        " bursts (short times with a higher rate for all users), curve (a daily pattern), ramp (from one rate to"
        " another), or replay (moments from a run, a file or a list, instead of a rate)",
    )
    activity: NumberDistribution = Field(
        default=Constant(value=1),
        description="relative rate of each user, in any unit (it is divided by the mean). With a heavy tail, few users"
        " send most of the messages",
    )
    size: NumberDistribution = Field(
        default=Constant(value=100),
        description="size of a message in bytes: rounded, at least 1, at most limits.content_bytes. It is the size of"
        " the content; or of the attachment's file, or of custom, for types that have these",
    )
    types: dict[str, float] = Field(
        default={"text": 1.0},
        description=f"message type -> its share of the messages, in any unit; types are {', '.join(_TYPES)}",
    )
    sizes: dict[str, NumberDistribution] = Field(
        default={},
        description="message type -> size in bytes, instead of `size`; the file of an attachment can have up to 2 GB",
    )
    recalls: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the messages that their senders recall (0 to 1). Messages to chatrooms are never"
        " recalled, because chatrooms do not keep them",
    )
    edits: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the messages that their senders edit (0 to 1). Messages to chatrooms and messages of"
        " other types than text are never edited",
    )
    amended_after: SecondsDistribution = Field(
        default=Exponential(mean=5.0),
        description="time from sending a message to its recall or edit, seconds or a duration; a recall or edit after"
        " the end of duration is left out",
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
        # Scenarios that differ only in the order of their types are equal, so their plans must be equal, too.
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
            raise ValueError("expected a mean of more than 0, got 0")
        return activity

    @model_validator(mode="after")
    def _amended_once(self) -> Workload:
        if self.recalls + self.edits > 1:
            raise FieldError(
                "edits", f"expected at most 1 together with recalls = {self.recalls:g}, got {self.edits:g}"
            )
        return self
