"""The scenario: one description of an IM system and its users, from which both worlds run.

Every field has a default, so a scenario says only what matters to its question. Durations are float seconds in Python;
in TOML also "250us", "5ms", "2s", "1.5min", "2h".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any, Self

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from imsim.core.exceptions import UsageError
from imsim.core.policies import Policies as CorePolicies
from imsim.scenario import consistency, files
from imsim.scenario.arrivals import Replay
from imsim.scenario.errors import FieldError, explain, suggestion
from imsim.scenario.quantities import PositiveSeconds, Seconds
from imsim.scenario.sections import (
    AnyFault,
    Conversations,
    Cost,
    Fault,
    Limits,
    Network,
    Policies,
    Population,
    Section,
    Topology,
    Workload,
)
from imsim.scenario.sections.faults import (
    TIERS,
    LossBurst,
    MassReconnect,
    Partition,
    SlowReader,
    StorageStall,
    nodes_of,
)
from imsim.scenario.sections.people import CARRIED, MOST_BYTES

#: Tiers that send each other anything.
_JOINED = ({"gateway", "router"}, {"router"}, {"router", "storage"})

# The one place that says what only the simulation can choose.
LIVE_IGNORES = ("network", "topology", "faults", "cost")


class Scenario(Section):
    """One IM system, its users, and for how long they talk. Frozen; `with_` makes a changed copy.

    Raises: UsageError where the fields are no scenario, one line for each problem. (A section or a named distribution
    built on its own raises pydantic's ValidationError.)
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
    faults: list[AnyFault] = Field(default=[], description="what goes wrong, and when (simulated only)")
    policies: Policies = Field(default=Policies(), description="how client and server behave")
    limits: Limits = Field(default=Limits(), description="where queues and requests end")
    cost: Cost = Field(default=Cost(), description="what the service costs to run (simulated only)")

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
        if users == 1 and talk.friend_requests:
            raise FieldError(
                "conversations.friend_requests", "expected 0, as one user has nobody to ask; or more users"
            )
        _check_fits("workload.size", self.workload.size.upper, "limits.content_bytes", limits.content_bytes)
        for type, size in self.workload.sizes.items():
            name, limit = ("limits.content_bytes", limits.content_bytes) if type in CARRIED else ("2 GB", MOST_BYTES)
            _check_fits(f"workload.sizes.{type}", size.upper, name, limit)
        for what, count, size, limit in (
            ("group_size", talk.groups, talk.group_size, limits.group_size),
            ("room_size", talk.rooms, talk.room_size, limits.room_size),
        ):
            if count:
                largest = min(size.upper, users) if math.isfinite(size.upper) else size.upper
                _check_fits(f"conversations.{what}", largest, f"limits.{what}", limit)
        for number, fault in enumerate(self.faults):
            _check_fault(f"faults.{number}", fault, self.topology)
        consistency.check(self)
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
        fields = files.as_tables(self)
        for path, value in overrides.items():
            files.put(fields, path, value, self.name)
        return Scenario(**fields)

    def lasting(self, duration: object) -> Scenario:
        """A copy with this duration (seconds, or "5s"), without what would come after its end: faults, moments of a
        replay, and a warm-up that does not fit. `left_out` tells of them. Raises: UsageError."""
        fields: dict[str, object] = {"duration": duration, "warmup": 0.0, "faults": [], "workload.arrivals": "poisson"}
        seconds = self.with_(fields).duration
        fields |= {
            "warmup": self.warmup if self.warmup < seconds else 0.0,
            "faults": [fault for fault in self.faults if fault.at < seconds],
            "workload.arrivals": self.workload.arrivals.until(seconds),
        }
        return self.with_(fields)

    def left_out(self, shorter: Scenario, *, live: bool = False) -> list[str]:
        """What this scenario has and `shorter`, which it is `lasting` for less, has not: a line each. `live`: only what
        would have mattered to a live run."""
        found, until = [], f"come before the end of the duration that was asked for ({shorter.duration:g} s)"
        if (many := len(self.faults) - len(shorter.faults)) and not live:
            found.append(f"{many} of {len(self.faults)} faults are left out: only the others {until}")
        mine, its = self.workload.arrivals, shorter.workload.arrivals
        if isinstance(mine, Replay) and isinstance(its, Replay) and (many := len(mine.at) - len(its.at)):
            found.append(f"{many} of {len(mine.at)} moments of the replay are left out: only the others {until}")
        return found

    def oddities(self) -> list[str]:
        """What may be meant, and mostly is not, such as a timeout shorter than the network: a line each."""
        return consistency.oddities(self)

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


def _check_fault(path: str, fault: Fault, topology: Topology) -> None:
    """Whoever it befalls must be there."""
    if isinstance(fault, LossBurst | SlowReader | MassReconnect):
        return
    counts = {"gateway": topology.gateways, "router": topology.routers, "storage": topology.storages}
    sides = []
    for field in ("target", "other") if isinstance(fault, Partition) else ("target",):
        target = getattr(fault, field)
        nodes = nodes_of(target, counts)
        if isinstance(fault, StorageStall) and not target.startswith("storage"):
            nodes = None
        if nodes is None:
            tiers = ["storage"] if isinstance(fault, StorageStall) else TIERS
            known = [*tiers, *(f"{tier}{n}" for tier in tiers for n in range(counts[tier]))]
            listed = ", ".join(known if len(known) <= 12 else [*known[:11], "..."])
            raise FieldError(f"{path}.{field}", f"there is no {target}{suggestion(target, known)}; there are {listed}")
        sides.append(nodes)
    if len(sides) == 2 and not any(
        {one[0], other[0]} in _JOINED and one != other for one in sides[0] for other in sides[1]
    ):
        assert isinstance(fault, Partition)
        raise FieldError(f"{path}.other", f"nothing that could be cut off goes from {fault.target} to {fault.other}")


def _check_fits(path: str, largest: float, limit_path: str, limit: int) -> None:
    """Where the tail is open the plan cuts it at the limit; a known maximum beyond it is a mistake."""
    if largest < 1:
        raise FieldError(path, f"expected values of 1 or more, got at most {largest:g}")
    if limit < largest < math.inf:
        raise FieldError(path, f"expected at most {limit_path} ({limit}), got up to {largest:g}")
