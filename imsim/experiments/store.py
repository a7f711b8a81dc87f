"""Finished replications in a folder: one line of JSON for each, written as soon as it is finished."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from imsim import disk
from imsim.analysis.metrics import Measures
from imsim.analysis.run_length import Behind
from imsim.analysis.warmup import Steadiness
from imsim.experiments import fingerprint
from imsim.experiments.replicate import Sample, replication_seed
from imsim.scenario import Scenario

FILE = "finished.jsonl"


class FolderStore:
    """A store of samples in the file `finished.jsonl` of a folder.

    A line is valid only for the same design, seed and program. So a folder can serve several sweeps, and an extended
    one. If a process is killed, at most its last line is incomplete; that replication is run again.

    Raises: UsageError or RunError if the folder cannot be made or written.
    """

    def __init__(self, folder: Path, measures: Measures) -> None:
        self._names = measures.all
        self._functions = {name: known(fingerprint.function, one) for name, one in measures.functions.items()}
        self._path = folder / FILE
        self._designs: dict[int, tuple[Scenario, str | None]] = {}
        self._kept: dict[str, dict[str, Any]] = {}
        with disk.errors("write to the folder", folder, name="out"):
            folder.mkdir(parents=True, exist_ok=True)
            self._path.touch()
            text = self._path.read_text(encoding="utf-8", errors="replace")
        for line in text.split("\n"):
            self._take(line)
        self._begin = "" if not text or text.endswith("\n") else "\n"

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
            before = self._kept.get(entry["key"], {})
            values = before.get("values", {}) | entry["values"]
            functions = before.get("functions", {}) | entry["functions"]
            behind = before.get("behind", {}) | entry["behind"]
            Steadiness.from_json_dict(entry["steadiness"])  # raises if the line is not one
            self._kept[entry["key"]] = entry | {"values": values, "functions": functions, "behind": behind}
        except (ValueError, TypeError, KeyError):
            pass  # an incomplete line is ignored

    def get(self, scenario: Scenario, replication: int) -> Sample | None:
        """Return a replication's sample, or None if it or one of the metrics is missing."""
        seed = replication_seed(scenario.seed, replication)
        key = self._key(scenario, seed)
        entry = self._kept.get(key) if key else None
        if entry is None or not all(name in entry["values"] for name in self._names):
            return None
        if any(entry["functions"].get(name) != source for name, source in self._functions.items()):
            return None
        behind = {name: Behind(*entry["behind"][name]) for name in self._names if name in entry["behind"]}
        values = {name: entry["values"][name] for name in self._names}
        return Sample(
            replication, seed, entry["digest"], values, behind, Steadiness.from_json_dict(entry["steadiness"])
        )

    def put(self, scenario: Scenario, sample: Sample) -> None:
        """Append a sample to the file. Raises: RunError if the file cannot be written."""
        key = self._key(scenario, sample.seed)
        if key is None:
            return
        entry = {
            "key": key,
            "seed": sample.seed,
            "digest": sample.digest,
            "values": sample.values,
            "steadiness": asdict(sample.steadiness),
            "behind": {name: astuple(one) for name, one in sample.behind.items()},
            "functions": self._functions,
        }
        note = "finished runs are kept, and are not run again"
        with disk.errors("write", self._path, name="out", note=note), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{self._begin}{json.dumps(entry)}\n")  # one write, so that lines of two processes do not mix
        self._begin = ""

    def _key(self, scenario: Scenario, seed: int) -> str | None:
        """Return the key of a replication, or None if the design or a metric cannot be compared across processes."""
        if id(scenario) not in self._designs:
            # The reference keeps the scenario alive, so that no other object can get its id.
            self._designs[id(scenario)] = (scenario, known(fingerprint.design, scenario))
        design = self._designs[id(scenario)][1]
        return (
            None if design is None or None in self._functions.values() else f"{design}:{seed}:{fingerprint.program()}"
        )


def known(digest: Callable[[Any], str], one: object) -> str | None:
    """Return the digest of a design or a function; None, with a warning, if it cannot be compared across processes."""
    try:
        return digest(one)
    except fingerprint.NotComparableError as error:
        warnings.warn(
            f"out: {error}, which cannot be compared with an earlier process: the folder is neither read nor written",
            stacklevel=2,
        )
        return None
