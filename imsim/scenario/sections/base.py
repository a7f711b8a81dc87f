"""The base class of a scenario's sections."""

from __future__ import annotations

from pydantic import ConfigDict

from imsim.scenario.quiet import QuietModel


class Section(QuietModel):
    """A table of a scenario's file. Unknown fields and wrong types are errors; no value is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
