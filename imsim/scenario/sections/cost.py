"""The prices of the service."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from imsim.scenario.errors import FieldError
from imsim.scenario.sections.base import Section

#: Fields that are not prices.
_ASSUMPTIONS = frozenset({"currency", "average_load", "retention_days", "row_bytes"})


class Cost(Section):
    """Prices in one currency; a price that is not set is 0. Prices do not change the rows of a run, only its cost."""

    currency: str = Field(
        default="USD", min_length=1, description="the unit of all prices; only shown, never converted"
    )
    gateway: float = Field(default=0.0, ge=0, description="price of one gateway for an hour")
    router: float = Field(default=0.0, ge=0, description="price of one router for an hour")
    storage: float = Field(default=0.0, ge=0, description="price of one storage for an hour")
    worker: float = Field(
        default=0.0, ge=0, description="price of one worker (a core) of any node for an hour, added to the node's"
    )
    stored_million: float = Field(
        default=0.0,
        ge=0,
        description="price of writing a million rows: one row for each stored message, and with policies.fanout ="
        " 'write' one more for each member of the conversation",
    )
    stored_gb: float = Field(
        default=0.0,
        ge=0,
        description="price of storing 1e9 bytes of content, for as long as it is kept; counted once for each message",
    )
    delivered_gb: float = Field(
        default=0.0,
        ge=0,
        description="price of 1e9 bytes of content delivered to devices (egress); counted for each device",
    )

    stored_gb_month: float = Field(
        default=0.0, ge=0, description="price of keeping 1e9 bytes for a month; needs retention_days"
    )
    average_load: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="average load of the month as a multiple of the simulated load: 0.4 if the run is the peak hour"
        " with 2.5 times the average load. Absent: if workload.arrivals is a curve or bursts, their mean load"
        " (workload.rate); otherwise the mean of the simulated load, also for a ramp",
    )
    retention_days: float | None = Field(
        default=None,
        gt=0,
        le=100_000,
        description="how long a message is kept before it is deleted; from that age on the amount of stored data no"
        " longer grows. Absent: messages are never deleted",
    )
    row_bytes: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="bytes of storage that each written row needs besides its content: ids, times, indexes, replicas",
    )

    @property
    def is_given(self) -> bool:
        """Whether any price is set."""
        return any(value for name, value in self.__dict__.items() if name not in _ASSUMPTIONS)

    @model_validator(mode="after")
    def _kept_for_a_time(self) -> Self:
        if self.stored_gb_month and self.retention_days is None:
            raise FieldError(
                "stored_gb_month",
                "expected retention_days as well: without it, messages are kept forever at a growing cost",
            )
        return self
