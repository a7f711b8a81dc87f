"""The baseline: results of an earlier commit, in a small file of the repository.

For each subject, a simulated scenario with its changes, it has the seeds of the replications, the digests of their
rows, and the values of the metrics that relative budgets need.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imsim import disk
from imsim.analysis.intervals import estimate
from imsim.analysis.kinds import kind_of
from imsim.core.exceptions import UsageError
from imsim.experiments.comparison import difference
from imsim.experiments.replicate import Replications
from imsim.results.manifest import version
from imsim.scenario import Scenario

#: The name of the file, in the folder of the file of budgets.
NAME = "imsim-baseline.json"

_VERSION = 1


@dataclass(frozen=True)
class Subject:
    """The results of one subject. `values` has one number for each seed, None for null."""

    scenario: Mapping[str, Any]
    seeds: Sequence[int]
    digests: Sequence[str]
    values: Mapping[str, Sequence[float | None]]

    @classmethod
    def of(cls, found: Replications, metrics: Iterable[str]) -> Subject:
        """Return the results of replications."""
        samples = found.samples
        return cls(
            found.scenario.model_dump(mode="json"),
            [sample.seed for sample in samples],
            [sample.digest for sample in samples],
            {metric: [_json(sample.values[metric]) for sample in samples] for metric in metrics},
        )

    def changes(self, scenario: Scenario) -> list[str]:
        """Return the fields in which a scenario differs from the baseline's, as `path: before -> now`."""
        return [
            f"{path}: {before!r} -> {now!r}"
            for path, before, now in _differences(self.scenario, scenario.model_dump(mode="json"))
        ]

    def difference(self, before: Subject, name: str) -> list[str]:
        """Return a line for each metric that differs from an earlier result of the same subject."""
        if list(before.digests) == list(self.digests)[: len(before.digests)]:
            return []
        lines = []
        for metric in self.values:
            known, now = (_numbers(one.values.get(metric, ())) for one in (before, self))
            count = min(len(known), len(now))
            if not count:
                lines.append(f"{name}: {metric}: not in the baseline")
                continue
            found = difference(metric, known[:count], now[:count])
            lines.append(f"{name}: {str(found).replace('B - A', 'now - baseline')}")
        return lines


class Baseline:
    """The subjects of a file by name. `made_by` is the version of imsim that made it."""

    def __init__(self, subjects: Mapping[str, Subject], made_by: str = "") -> None:
        self.subjects = dict(subjects)
        self.made_by = made_by

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """Read a file. Raises: UsageError if it is missing or broken."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields["version"] != _VERSION:
                raise UsageError(f"{path}: version {fields['version']} is not known here; save the baseline again")
            return cls({name: Subject(**one) for name, one in fields["subjects"].items()}, fields["imsim"])
        except FileNotFoundError:
            raise UsageError(f"{path}: no such baseline; make it with `imsim baseline save`") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: not a baseline: {error}; make it again with `imsim baseline save`") from None

    def to_json_dict(self) -> dict[str, Any]:
        """Return the object that `imsim baseline show --json` prints."""
        subjects = {
            name: {metric: estimate(_numbers(values)).value for metric, values in one.values.items()}
            for name, one in self.subjects.items()
        }
        return {"imsim": self.made_by, "subjects": subjects}

    def __str__(self) -> str:
        lines = [
            f"{name}: {metric}: {estimate(_numbers(values))}{kind_of(metric).suffix} over {len(values)} replications"
            for name, one in self.subjects.items()
            for metric, values in one.values.items()
        ]
        return "\n".join([f"baseline of imsim {self.made_by}", *lines])

    def write(self, path: Path) -> None:
        """Write the file, one line for each subject's list, so that differences in git stay short."""
        subjects = {name: vars(one) for name, one in sorted(self.subjects.items())}
        fields = {"version": _VERSION, "imsim": version(), "subjects": subjects}
        disk.write(path, f"{json.dumps(fields, indent=1)}\n".encode(), name="baseline")


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [math.inf if value is None else value for value in values]


def _json(value: float) -> float | None:
    return value if abs(value) != float("inf") and value == value else None


def _differences(before: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [
            one
            for name in {**before, **now}
            for one in _differences(before.get(name), now.get(name), f"{path}.{name}" if path else name)
        ]
    return [] if before == now else [(path, before, now)]
