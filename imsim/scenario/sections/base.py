"""What every section of a scenario is."""

from __future__ import annotations

from pydantic import ConfigDict

from imsim.scenario.quiet import QuietModel


class Section(QuietModel):
    """A table of the file. Nothing is guessed: unknown fields and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
