"""The scenario: a description of an IM system and its users. Simulated and live runs both follow it.

Every field has a default, so a scenario lists only the fields that matter to its question. Durations are float seconds
in Python; a TOML file can also contain "250us", "5ms", "2s", "1.5min" or "2h".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from html import escape
from os import PathLike
from typing import Any, ClassVar, Self

import tomli_w
from pydantic import BaseModel, ValidationError, field_validator, model_validator

from imsim.core.exceptions import UsageError
from imsim.core.policies import Policies as CorePolicies
from imsim.scenario import consistency, files
from imsim.scenario.arrivals import Replay
from imsim.scenario.differences import differences
from imsim.scenario.errors import explain
from imsim.scenario.fields import ScenarioFields
from imsim.scenario.sections import Section
from imsim.scenario.slicing import sliced

#: Sections that only the simulation uses.
LIVE_IGNORES = ("network", "topology", "faults", "cost")

_MOST_NAMED = 4  # fields in a repr


class Scenario(ScenarioFields):
    """One IM system, its users, and for how long they send messages. Frozen; `replace` makes a changed copy.

    Raises:
        UsageError: a field is invalid; there is one line for each problem. (A section or a built-in distribution that
            is created on its own raises pydantic's ValidationError instead.)

    Example:
        >>> office = imsim.Scenario.load("office")
        >>> office.replace({"topology.routers": 4}).changes
        {'topology.routers': (2, 4)}
    """

    _internal: ClassVar[frozenset[str]] = frozenset({"core_policies", "ignored_live", "lasting", "left_out"})

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
        """Load a preset by its name, or a TOML file by its path, and apply `overrides`.

        Args:
            name_or_path: the name of a preset, or the path of a TOML file.
            overrides: "path=value" texts as on the command line (the value is read as TOML if possible, else as plain
                text), or a mapping of dotted paths to Python values: {"population.users": 500}.
            seed: replaces the scenario's own seed.

        Raises:
            UsageError: there is no such preset or file, or a field is unknown or has a wrong value.

        Example:
            >>> imsim.Scenario.load("office", {"population.users": 500})
            <Scenario office: 500 users, 10 s, seed 1; differs from the preset office in population.users>
        """
        name, text = files.read(name_or_path)
        scenario = cls.from_toml(text, name=name)
        changes = files.changes(overrides, name)
        if seed is not None:
            changes["seed"] = seed
        return scenario.replace(changes)

    @classmethod
    def from_toml(cls, text: str, *, name: str = "custom") -> Scenario:
        """Return the scenario that a TOML text describes.

        Args:
            text: the text of a scenario file.
            name: the scenario's name.

        Raises:
            UsageError: the text is not TOML, or a field is unknown or has a wrong value.

        Example:
            >>> imsim.Scenario.from_toml('duration = "30s"').duration
            30.0
        """
        fields = files.parse(text, name)
        if "name" in fields:
            raise UsageError(f"scenario {name}: name: not a field of a file; a scenario has its file's name")
        return cls(name=name, **fields)

    def to_toml(self) -> str:
        """Return the scenario as TOML. `from_toml` reads it back as an equal scenario (except for the name)."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def replace(self, overrides: Mapping[str, object]) -> Scenario:
        """Return a copy with new values at these dotted paths: `office.replace({"topology.routers": 4})`.

        All values are set before the first one is checked.

        Args:
            overrides: the new values, by dotted path.

        Raises:
            UsageError: a path is unknown, or the scenario with these values is not valid.

        Example:
            >>> office = imsim.Scenario.load("office")
            >>> office.replace({"workload.rate": 2}).changes
            {'workload.rate': (0.3, 2.0)}
        """
        if not overrides:
            return self
        fields = files.as_tables(self)
        for path, value in overrides.items():
            files.put(fields, path, value, self.name)
        return Scenario(**fields)

    def lasting(self, duration: object) -> Scenario:
        """Return a copy with this duration: seconds, or a text such as "5s".

        The copy has no faults and no replayed moments after the new end, and no warm-up that does not fit. `left_out`
        lists what was removed.

        Args:
            duration: the seconds, or a text with a unit.

        Raises:
            UsageError: the duration is not a time above 0.
        """
        fields: dict[str, object] = {"duration": duration, "warmup": 0.0, "faults": [], "workload.arrivals": "poisson"}
        seconds = self.replace(fields).duration
        fields |= {
            "warmup": self.warmup if self.warmup < seconds else 0.0,
            "faults": [fault for fault in self.faults if fault.at < seconds],
            "workload.arrivals": self.workload.arrivals.until(seconds),
        }
        return self.replace(fields)

    @property
    def changes(self) -> dict[str, tuple[object, object]]:
        """The fields that differ from the preset of this name: dotted path -> (the preset's value, this value).

        A scenario whose name is not a preset's is compared with the defaults, `Scenario()`.
        """
        return {path: (values[0], values[1]) for path, (values, _) in differences([self._base, self]).items()}

    @property
    def _base(self) -> Scenario:
        return _preset(self.name) if self.name in files.preset_names() else Scenario()

    @property
    def _base_name(self) -> str:
        return f"the preset {self.name}" if self.name in files.preset_names() else "the defaults"

    def __hash__(self) -> int:
        return hash(_hashable(self))

    def __repr__(self) -> str:
        users = f"{self.population.users:,} users, {self.duration:g} s, seed {self.seed}"
        changed = [path for path in differences([self._base, self]) if path not in ("seed", "duration")]
        more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
        differs = f"; differs from {self._base_name} in {', '.join(changed[:_MOST_NAMED])}{more}" if changed else ""
        return f"<Scenario {self.name}: {users}{differs}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return HTML for a notebook: the title, and a table of the differences from the preset or the defaults."""
        title = f"<b>{escape(self.name)}</b>" + (f": {escape(self.title)}" if self.title else "")
        users = f"{self.population.users:,} users · {self.duration:g} s · seed {self.seed}"
        found = differences([self._base, self])
        if not found:
            return f"<div>{title}<br>{users}<br><small>equal to {escape(self._base_name)}</small></div>"
        rows = "".join(
            f"<tr><td><code>{escape(path)}</code></td><td>{escape(was)}</td><td>{escape(now)}</td></tr>"
            for path, (_, (was, now)) in found.items()
        )
        head = f"<tr><th>field</th><th>{escape(self._base_name)}</th><th>this scenario</th></tr>"
        return f"<div>{title}<br>{users}<table>{head}{rows}</table></div>"

    def slice(self, share: float) -> Scenario:
        """Return a smaller scenario that is as busy: this share of the users, and of what serves them.

        `office.slice(0.04)` is a twenty-fifth of `office`, and its simulation takes a twenty-fifth of the work.
        It scales:

        - Users, groups and chatrooms, and with them the load. Each user writes as often, to groups of the same size.
        - The workers of each node. Where the share of them is not a whole number, the slice has the next lower number,
          but at least one, and `speed` makes up for the rest. The number of nodes stays.
        - The `queue` of each node, so that an operation waits as long in a full one.
        - The batch of a group commit, like the workers.
        - The bandwidths between servers, and the hourly prices: costs per million messages stay.

        Utilisation stays. Latencies stay where the workers can be divided; slower workers take longer for each
        operation: with one worker of a quarter of the speed the median is up to 45 % off. A group commit stays one at
        a time and takes as long, so storage with several workers and `commit` is not as busy as the whole.

        Args:
            share: the size of the smaller scenario, above 0 and up to 1.

        Raises:
            UsageError: the share is out of range, the scenario replays recorded moments, or groups would have more
                members than there are users.
        """
        return self.replace(sliced(self, share))

    def left_out(self, shorter: Scenario, *, live: bool = False) -> list[str]:
        """List the faults and moments that are missing in `shorter`, a copy made by `lasting`: one line each.

        Args:
            shorter: the copy.
            live: list only what matters to a live run.
        """
        found, why = [], f"they would come after the end of the requested duration ({shorter.duration:g} s)"
        if (many := len(self.faults) - len(shorter.faults)) and not live:
            found.append(f"{many} of {len(self.faults)} faults are left out: {why}")
        mine, its = self.workload.arrivals, shorter.workload.arrivals
        if isinstance(mine, Replay) and isinstance(its, Replay) and (many := len(mine.at) - len(its.at)):
            found.append(f"{many} of {len(mine.at)} moments of the replay are left out: {why}")
        return found

    def oddities(self) -> list[str]:
        """List values that are allowed, but probably a mistake: one line each.

        An example is a timeout below the network's latency.
        """
        return consistency.oddities(self)

    def core_policies(self) -> CorePolicies:
        """Return [policies] and [limits] as the core's machines need them.

        `token_lifetime` is left out: only the issuer of tokens needs it.
        """
        fields = self.policies.model_dump(exclude={"token_lifetime"}) | self.limits.model_dump()
        return CorePolicies(**fields)

    def ignored_live(self) -> list[str]:
        """Return the dotted paths of the fields that a live run does not use; all of them are whole sections."""
        return list(LIVE_IGNORES)

    @staticmethod
    def presets() -> dict[str, str]:
        """Return the scenarios that are shipped with imsim: name -> title."""
        return {name: files.parse(files.preset_text(name), name)["title"] for name in files.preset_names()}

    @staticmethod
    def preset_text(name: str) -> str:
        """Return the text of a preset's file, with its comments.

        Args:
            name: the name of the preset.

        Raises:
            UsageError: there is no such preset.
        """
        return files.preset_text(name)


@cache
def _preset(name: str) -> Scenario:
    return Scenario.load(name)


def _hashable(value: object) -> object:
    """Return a hashable stand-in for a field's value: equal values have equal stand-ins."""
    if isinstance(value, Section):
        return tuple(_hashable(below) for _, below in value)
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(below)) for key, below in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    if isinstance(value, BaseModel | float | int | str | None):
        try:
            return hash(value)
        except TypeError:
            pass
    # Of a custom part only the type is certain: it may change, or compare without a hash.
    return type(value)
