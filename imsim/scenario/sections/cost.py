"""What the service costs to run."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from imsim.scenario.errors import FieldError
from imsim.scenario.sections.base import Section

#: Fields that are not prices.
_ASSUMPTIONS = frozenset({"currency", "average_load", "retention_days", "row_bytes"})


class Cost(Section):
    """Prices, in one currency: what is not listed costs nothing. They change no row, only what designs cost."""

    currency: str = Field(
        default="USD", min_length=1, description="the unit of all prices; only shown, never converted"
    )
    gateway: float = Field(default=0.0, ge=0, description="of one gateway for an hour")
    router: float = Field(default=0.0, ge=0, description="of one router for an hour")
    storage: float = Field(default=0.0, ge=0, description="of one storage for an hour")
    worker: float = Field(
        default=0.0, ge=0, description="of one worker (a core) of any node for an hour, on top of its node"
    )
    stored_million: float = Field(
        default=0.0,
        ge=0,
        description="of a million rows written: one for each message that is stored, and under policies.fanout ="
        " 'write' one more for each member of the conversation",
    )
    stored_gb: float = Field(
        default=0.0,
        ge=0,
        description="of 1e9 bytes of content stored, for as long as it is kept; counted once a message",
    )
    delivered_gb: float = Field(
        default=0.0, ge=0, description="of 1e9 bytes of content delivered to devices (egress); counted for each device"
    )

    stored_gb_month: float = Field(
        default=0.0, ge=0, description="of keeping 1e9 bytes for a month; needs retention_days"
    )
    average_load: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="the month's average load as a multiple of the simulated one: 0.4 if the run is the peak hour and"
        " has 2.5 times the average. Absent: where workload.arrivals is a curve or bursts, the load of their mean"
        " (workload.rate); otherwise the average simulated load goes on all month, that of a ramp, too",
    )
    retention_days: float | None = Field(
        default=None,
        gt=0,
        le=100_000,
        description="how long a message is kept before it is deleted: storage stops growing at that age."
        " Absent: messages are kept without end",
    )
    row_bytes: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="bytes that each row written takes in storage besides the content: ids, times, indexes, replicas",
    )

    @property
    def is_given(self) -> bool:
        """Whether there is any price at all."""
        return any(value for name, value in self.__dict__.items() if name not in _ASSUMPTIONS)

    @model_validator(mode="after")
    def _kept_for_a_time(self) -> Self:
        if self.stored_gb_month and self.retention_days is None:
            raise FieldError(
                "stored_gb_month",
                "needs retention_days: without it storage grows without end, and no monthly price exists",
            )
        return self
