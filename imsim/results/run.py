"""A run: its rows, its scenario and its manifest, in memory or in a folder."""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imsim import disk
from imsim.core.exceptions import UsageError
from imsim.results.columns import Words, integers
from imsim.results.digests import digest
from imsim.results.files import RowFiles, write_tables
from imsim.results.manifest import MANIFEST_FILE, Described, read_manifest, version
from imsim.results.parts import part_of
from imsim.results.schema import TABLES, VERSION, WITHDRAWALS, World
from imsim.results.tables import Tables

if TYPE_CHECKING:
    import pandas as pd

    from imsim.scenario import Scenario

_SCENARIO_FILE = "scenario.toml"


class RunData(Described):
    """The rows of one run, with their manifest and scenario. `make` creates it from new tables, `open` from a folder.

    Users receive its subclass `imsim.analysis.Run`, which computes the statistics. `path` is the folder, or None if the
    run was not written.
    """

    def __init__(
        self, rows: Tables | RowFiles, scenario: Scenario, manifest: dict[str, Any], path: Path | None = None
    ) -> None:
        self._rows = rows
        self.scenario = scenario
        self.manifest = manifest
        self.path = path

    @classmethod
    def make(
        cls,
        rows: Tables | RowFiles,
        scenario: Scenario,
        *,
        world: str,
        seed: int,
        started: datetime,
        extra: Mapping[str, Any] | None = None,
    ) -> Self:
        """Create a run that has just ended.

        Args:
            rows: the rows, in memory or in files.
            scenario: the scenario that was run.
            world: "sim" or "live".
            seed: the seed that was used.
            started: the wall time of the start, with a time zone.
            extra: additional entries of the manifest (JSON values).

        Raises:
            ValueError: `started` has no time zone, there is no such world, or `extra` redefines an entry.
        """
        if started.tzinfo is None:
            raise ValueError(f"started: expected a datetime with a time zone, got {started!r}")
        started = started.astimezone(UTC)
        manifest = {
            "schema": VERSION,
            "run": _run_id(started, World(world), scenario.name),
            "world": str(World(world)),
            "started": started.isoformat(timespec="milliseconds"),
            "scenario": scenario.name,
            "seed": seed,
            "digest": digest(rows),
            "stray": rows.stray,
            **origin(),
            "scenario_values": scenario.model_dump(mode="json"),
        }
        if isinstance(rows, Tables) and rows.utilisation is not None:
            manifest["utilisation"] = rows.utilisation
        clash = manifest.keys() & (extra or {}).keys()
        if clash:
            raise ValueError(f"extra: cannot redefine entries of the manifest: {', '.join(sorted(clash))}")
        return cls(rows, scenario, manifest | dict(extra or {}))

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = False) -> Self:
        """Open the run in a folder.

        Args:
            path: the folder.
            verify: compute the digest of the rows and compare it (about a second for a million rows).

        Raises:
            UsageError: the folder or one of its files is missing or broken, or has another schema version or digest.
        """
        folder = Path(path)
        with disk.errors("read", folder):
            return cls._open(folder, verify)

    @classmethod
    def _open(cls, folder: Path, verify: bool) -> Self:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a run folder: it does not exist")
        manifest = read_manifest(folder)
        scenario = _read_scenario(folder / _SCENARIO_FILE, manifest["scenario"])
        rows = RowFiles(folder, manifest["stray"])
        rows.check()
        if verify and digest(rows) != manifest["digest"]:
            raise UsageError(f"{folder}: the rows have changed since the run was written: their digest differs")
        return cls(rows, scenario, manifest, folder)

    def write(self, parent: Path | str) -> Path:
        """Create the run's folder in `parent` and return its path. `parent` is created if necessary.

        The folder appears complete or not at all.

        Args:
            parent: the folder in which the run's folder is created.

        Raises:
            UsageError: the run's folder already exists or cannot be created.
            RunError: no space is left, or the disk failed. Nothing of the run remains.
        """
        parent = Path(parent)
        folder = parent / self.id
        partial = parent / f".{self.id}.partial"
        if folder.exists():
            raise UsageError(f"{folder} already exists; a run is never overwritten")
        with disk.errors("create the run folder in", parent):
            parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
        try:
            with disk.errors("write", folder):
                if summary := self._summary():
                    self.manifest["summary"] = summary
                self._write_files(partial)
                partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.path = folder
        if isinstance(self._rows, RowFiles):
            self._rows = RowFiles(folder, self._rows.stray)  # the folder of the original files may be temporary
        return folder

    def _summary(self) -> dict[str, Any]:
        """Return the entry `summary` of the manifest of a written run, for lists of runs; an empty one is left out."""
        return {}

    def _write_files(self, folder: Path) -> None:
        if isinstance(self._rows, RowFiles):
            self._rows.write(folder)
        else:
            write_tables(self._rows, folder)
        (folder / _SCENARIO_FILE).write_text(self.scenario.to_toml(), encoding="utf-8")
        manifest = json.dumps(self.manifest, indent=2, ensure_ascii=False)
        (folder / MANIFEST_FILE).write_text(manifest + "\n", encoding="utf-8")

    @cached_property
    def tables(self) -> Tables:
        """All rows, in memory."""
        return self._rows.tables() if isinstance(self._rows, RowFiles) else self._rows

    def has(self, table: str) -> bool:
        """Return whether the run has a table.

        Args:
            table: messages, deliveries, spans, nodes or withdrawals.
        """
        return self._rows.has(table)

    def integers(self, table: str, column: str, missing: int = 0) -> NDArray[np.int64]:
        """Return a column of numbers. Only this column is read from the run's folder.

        Args:
            table: the name of the table.
            column: the name of the column.
            missing: the value for null.
        """
        values, _ = integers(self._rows.column(table, column), missing)
        return values

    def words(self, table: str, column: str) -> Words:
        """Return a column of texts. Only this column is read from the run's folder.

        Args:
            table: the name of the table.
            column: the name of the column.
        """
        return Words(self._rows.column(table, column))

    def where(self, **values: str) -> Self:
        """Return the part of the run that has these values, in memory: `run.where(scene="group")`.

        Args:
            values: a text for each of these columns: scene, type, conversation or sender of the message; recipient or
                route of the delivery.

        Raises:
            UsageError: an unknown column, or a value that it cannot have.
        """
        return type(self)(part_of(self._rows, values), self.scenario, self.manifest)

    @property
    def status(self) -> list[str]:
        """The facts without which no number of the run must be read: it is invalid, or it is partial."""
        lines = [] if self.valid else [f"INVALID: {self.invalid_because}"]
        if self.partial:
            reason = self.manifest.get("ended", {}).get("reason") or "it did not reach its end"
            lines.append(f"partial: ended after {self.manifest.get('played', self.scenario.duration):.4g} s: {reason}")
        return lines

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the results, one line each: that a live run is invalid or partial, and its problems; for a
        simulated run, odd fields of its scenario and nodes that dropped operations."""
        warnings: list[str] = [*self.status, *self.manifest.get("warnings", ())]
        if self.world == World.SIM:
            warnings += self.scenario.oddities()
        for node, of_node in self.manifest.get("utilisation", {}).items():
            if drops := of_node["drops"]:
                consequence = "deliveries can be late or lost"
                warnings.append(f"{node} dropped {drops:,} operations, because its queue was full: {consequence}")
        return warnings

    @cached_property
    def messages(self) -> pd.DataFrame:
        """One row for each intended message (schema.MESSAGES). Times are in ns from the start, <NA> if unknown."""
        return self._frame("messages")

    @cached_property
    def deliveries(self) -> pd.DataFrame:
        """One row for each message that was not rejected and each entitled device (schema.DELIVERIES)."""
        return self._frame("deliveries")

    @cached_property
    def spans(self) -> pd.DataFrame:
        """The spans of each delivery (schema.SPANS), which show where its time went. Times are in ns from the start.

        Raises:
            UsageError: the run was recorded without spans.
        """
        return self._recorded("spans")

    @cached_property
    def nodes(self) -> pd.DataFrame:
        """How busy the nodes were (schema.NODES): one row for each node and time bucket.

        Raises:
            UsageError: the run was recorded without spans.
        """
        return self._recorded("nodes")

    @cached_property
    def withdrawals(self) -> pd.DataFrame:
        """The periods in which the tester had taken devices out of the test (schema.WITHDRAWALS); often without rows.

        Times are in ns from the start.
        """
        if not self.has("withdrawals"):
            return _to_pandas(WITHDRAWALS, WITHDRAWALS.empty_table().column)
        return self._frame("withdrawals")

    def _recorded(self, table: str) -> pd.DataFrame:
        if not self.has(table):
            raise UsageError(f"run {self.id} has no spans: record them with simulate(..., spans=True)")
        return self._frame(table)

    def _frame(self, table: str) -> pd.DataFrame:
        return _to_pandas(TABLES[table], lambda name: self._rows.column(table, name))

    def __repr__(self) -> str:
        rows = f"{self._rows.count('messages')} messages, {self._rows.count('deliveries')} deliveries"
        return f"<{type(self).__name__} {self.id}: {rows}>"


def origin() -> dict[str, Any]:
    """Return the entries of a manifest about this installation: imsim's version and commit, and the machine."""
    return {
        "imsim": version(),
        "commit": _commit(),
        "machine": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        },
    }


def _to_pandas(schema: pa.Schema, column: Callable[[str], pa.ChunkedArray]) -> pd.DataFrame:
    import pandas as pd

    # Plain strings: comparing and grouping categories has surprising results. Nullable integers: floats would round
    # nanoseconds. Only one column at a time is in memory twice.
    nullable = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}
    columns = {}
    for field in schema:
        cells = column(field.name)
        plain = cells.cast(pa.string()) if pa.types.is_dictionary(field.type) else cells
        columns[field.name] = pa.table({field.name: plain}).to_pandas(types_mapper=nullable.get)[field.name]
    return pd.DataFrame(columns, copy=False)


def _run_id(started: datetime, world: str, scenario: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "-", scenario).strip("-")[:40] or "scenario"
    return f"{started:%Y%m%dT%H%M%SZ}-{world}-{name}-{secrets.token_hex(3)}"


def _read_scenario(path: Path, name: str) -> Scenario:
    from imsim.scenario import Scenario
    from imsim.scenario.custom_parts import names_only

    try:
        # The file does not contain the scenario's name, and its own name is always scenario.toml.
        with names_only():
            return Scenario.from_toml(path.read_text(encoding="utf-8"), name=name)
    except OSError as error:
        raise UsageError(f"{path.parent} is incomplete: cannot read {path.name}: {error.strerror}") from error
    except (UnicodeDecodeError, UsageError) as error:
        raise UsageError(f"{path} is broken: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@functools.cache
def _commit() -> str | None:
    """Return the commit of imsim's checkout, followed by "-dirty" if files have changed; None without a checkout."""
    return commit_of(Path(__file__).parents[2])


def commit_of(root: Path) -> str | None:
    """Return the commit of the checkout at `root`, as `_commit` does. It does not write to the checkout."""
    if not (root / ".git").exists():
        return None
    # `git describe --dirty` would write the index. If it cannot, for lack of space, it leaves a lock behind.
    command = ["git", "--no-optional-locks", "-C", str(root), "status", "--porcelain=v2", "--branch", "-uno"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    _, _, commit = result.stdout.partition("# branch.oid ")
    is_dirty = any(not line.startswith("#") for line in result.stdout.splitlines())
    return commit.partition("\n")[0] + ("-dirty" if is_dirty else "") or None
