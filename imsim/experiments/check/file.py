"""The file of budgets: `imsim.toml`, or the table `[tool.imsim]` of pyproject.toml.

[server.chat]                       # optional: servers that budgets name
command = "imsim serve office --port {port}"
url = "ws://127.0.0.1:{port}"

[[budget]]
scenario = "office"                 # a preset, or a TOML file beside this one
set = { "workload.rate" = 2 }
metric = "delivery.p99"
where = { scene = "group" }
max = "200ms"

[[budget]]
scenario = "office"
server = "chat"                     # live; without it, the scenario is simulated
metric = "delivery.p99"
max_increase = "10%"                # against the baseline, or the base of a live check
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from imsim.analysis.kinds import MetricKind, kind_of
from imsim.analysis.latency import of_part
from imsim.analysis.metrics import check_name
from imsim.core.exceptions import UsageError
from imsim.scenario import Scenario
from imsim.scenario.errors import FieldError, explain
from imsim.scenario.quantities import PositiveSeconds, parse_duration, shown
from imsim.scenario.sections.base import Section

#: The files that are looked for, in this order.
NAMES = ("imsim.toml", "pyproject.toml")


def _share(value: object) -> float:
    """Read a share: "5%" or 0.05."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value) if isinstance(value, str) else None
    number = float(match[1]) / 100 if match else value
    if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number <= 10:
        raise ValueError(f"expected a share such as '5%' or 0.05, got {shown(value)}")
    return float(number)


Share = Annotated[float, BeforeValidator(_share)]


class ServerEntry(Section):
    """A server that a live check loads: one that it starts with `command`, or one that runs at `url` already.

    In the texts, {port} is a free port, the same in all of them.
    """

    command: str | None = Field(None, min_length=1)
    build: str | None = Field(None, min_length=1)  # run before the command, in the same folder
    url: str = Field("ws://127.0.0.1:{port}", min_length=1)
    ready: str | None = Field(None, min_length=1)  # answers 200 once the server is ready; else: the port accepts
    adapter: str = "imsim"
    options: dict[str, str] = Field(default_factory=dict)
    key: str | None = None
    start_timeout: PositiveSeconds = 30.0

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if self.command is None and "{port}" in self.url:
            raise FieldError("url", "expected an address, or a command that starts the server at {port}")
        if self.command is None and self.build is not None:
            raise FieldError("build", "has no effect without a command")
        return self


class BudgetEntry(Section):
    """One budget: a metric of a subject, and its limit.

    The subject is a scenario that is simulated, a scenario that is played against a server, or the folder of a run.
    """

    name: str | None = Field(None, min_length=1)
    scenario: str | None = Field(None, min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = Field(None, ge=0)
    server: str | ServerEntry | None = None
    run: str | None = Field(None, min_length=1)
    metric: str
    where: dict[str, str] = Field(default_factory=dict)
    max: float | str | None = None
    min: float | str | None = None
    max_increase: Share | None = None
    max_decrease: Share | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        try:
            check_name(self.measure)
        except UsageError as error:
            raise FieldError("where" if self.where else "metric", str(error)) from None
        if (self.scenario is None) == (self.run is None):
            raise FieldError("scenario", "expected a scenario, or the folder of a run as `run`, and not both")
        if self.run is not None and (self.set or self.server is not None or self.seed is not None):
            raise FieldError("run", "a run has been played already, so set, seed and server have no effect")
        limits = [name for name in ("max", "min", "max_increase", "max_decrease") if getattr(self, name) is not None]
        if len(limits) != 1:
            found = " and ".join(limits) or "none"
            raise FieldError("max", f"expected one of max, min, max_increase and max_decrease, got {found}")
        if self.run is not None and self.is_relative:
            raise FieldError(limits[0], "a run has no baseline: use max or min")
        _ = self.bound
        return self

    @property
    def is_relative(self) -> bool:
        """Whether the limit is relative to a baseline."""
        return self.max_increase is not None or self.max_decrease is not None

    @property
    def is_upper(self) -> bool:
        """Whether larger values breach the budget."""
        return self.max is not None or self.max_increase is not None

    @property
    def measure(self) -> str:
        """The metric of the part of the run that the budget is about: delivery.p99[scene=group]."""
        return of_part(self.metric, self.where)

    @property
    def kind(self) -> MetricKind:
        """The kind of the metric: its unit, and whether less is better."""
        return kind_of(self.metric)

    @property
    def bound(self) -> float:
        """The limit in the metric's unit; for a relative limit, the factor by which the metric may change."""
        if self.max_increase is not None:
            return 1 + self.max_increase
        if self.max_decrease is not None:
            return 1 - self.max_decrease
        name, value = ("max", self.max) if self.max is not None else ("min", self.min)
        if isinstance(value, str) and self.kind.is_duration:
            try:
                return parse_duration(value) * (1000 if self.kind.unit == "ms" else 1)
            except ValueError as error:
                raise FieldError(name, str(error)) from None
        if self.kind.is_duration and self.kind.unit == "ms":
            raise FieldError(name, f"expected a duration with its unit, as in '200ms', got {shown(value)}")
        if not isinstance(value, int | float):
            raise FieldError(name, f"expected a number, got {shown(value)}")
        return float(value)

    @property
    def limit(self) -> str:
        """The limit as a text: `<= 200 ms`, or `<= +5%`."""
        sign = "<=" if self.is_upper else ">="
        if self.is_relative:
            return f"{sign} {100 * (self.bound - 1):+.4g}%"
        return f"{sign} {self.bound:.4g}{self.kind.suffix}"


class _Fields(Section):
    budget: list[BudgetEntry] = Field(min_length=1)
    server: dict[str, ServerEntry] = Field(default_factory=dict)


@dataclass(frozen=True)
class Budgets:
    """The budgets of a file. `path` is the file; scenarios and runs are relative to its folder."""

    path: Path
    entries: tuple[BudgetEntry, ...]
    servers: Mapping[str, ServerEntry]

    @classmethod
    def read(cls, path: str | PathLike[str] | None = None) -> Budgets:
        """Read the budgets of a file; without one, those of the current folder (`NAMES`).

        Raises:
            UsageError: there is no such file, or a field is unknown or wrong; one line for each problem.
        """
        file = _find() if path is None else Path(path)
        fields = _table(file)
        if fields is None:
            raise UsageError(f"{file}: has no budgets: add a [[tool.imsim.budget]]")
        try:
            found = _Fields(**fields)
        except ValidationError as error:
            raise UsageError("\n".join(f"{file}: {line}" for line in explain(error, _Fields))) from None
        entries = tuple(_named(entry, number, found.budget) for number, entry in enumerate(found.budget))
        names = [entry.name for entry in entries]
        for number, entry in enumerate(entries):
            if names.index(entry.name) < number:
                raise UsageError(f"{file}: budget.{number}.name: {entry.name!r} is the name of another budget, too")
            if isinstance(entry.server, str) and entry.server not in found.server:
                known = ", ".join(found.server) or "none"
                raise UsageError(f"{file}: budget.{number}.server: no [server.{entry.server}] here; known: {known}")
        return cls(file, entries, found.server)

    def scenario(self, entry: BudgetEntry) -> Scenario:
        """Return the scenario of a budget."""
        assert entry.scenario is not None
        name = entry.scenario
        return Scenario.load(
            name if name in Scenario.presets() else self.path.parent / name, entry.set, seed=entry.seed
        )

    def server(self, entry: BudgetEntry) -> ServerEntry | None:
        """Return the server of a budget; None if it is simulated or a run."""
        return self.servers[entry.server] if isinstance(entry.server, str) else entry.server


def _find() -> Path:
    for name in NAMES:
        if Path(name).is_file() and _table(Path(name)) is not None:
            return Path(name)
    raise UsageError(
        "check: no budgets here: write an imsim.toml with a [[budget]], add a [[tool.imsim.budget]] to pyproject.toml, "
        "or name a file"
    )


def _table(file: Path) -> dict[str, Any] | None:
    """Return the table of budgets of a file; None if it is a pyproject.toml without one."""
    try:
        fields = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: not valid TOML: {error}") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    if file.name != "pyproject.toml":
        return fields
    found = fields.get("tool", {}).get("imsim")
    return found if isinstance(found, dict) and "budget" in found else None


def _named(entry: BudgetEntry, number: int, entries: list[BudgetEntry]) -> BudgetEntry:
    """Return a budget with a name: its own, or one that says what is measured where."""
    if entry.name is not None:
        return entry
    where = "".join(f" {key}={value}" for key, value in entry.where.items())
    changes = "".join(f" {path}={value}" for path, value in entry.set.items())
    subject = Path(entry.run).name if entry.run else Path(str(entry.scenario)).stem
    server = "" if entry.server is None else f" on {entry.server if isinstance(entry.server, str) else 'a server'}"
    name = f"{subject}{changes}{server}: {entry.metric}{where} {entry.limit}"
    return entry.model_copy(update={"name": name})
