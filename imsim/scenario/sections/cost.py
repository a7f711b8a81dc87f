"""What the service costs to run."""

from __future__ import annotations

from pydantic import Field

from imsim.scenario.sections.base import Section


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

    @property
    def is_given(self) -> bool:
        """Whether there is any price at all."""
        return any(value for value in self.__dict__.values() if not isinstance(value, str))
