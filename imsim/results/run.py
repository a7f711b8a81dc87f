"""A run: its rows, its scenario and its manifest, in memory or in a folder."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
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
from imsim.results.schema import VERSION, WITHDRAWALS, World
from imsim.results.tables import Tables

if TYPE_CHECKING:
    import pandas as pd

    from imsim.scenario import Scenario

_MANIFEST_FILE = "manifest.json"
_SCENARIO_FILE = "scenario.toml"

_REQUIRED = {
    "run": str,
    "world": str,
    "started": str,
    "scenario": str,
    "seed": int,
    "digest": str,
    "stray": int,
}


class RunData:
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
        manifest = _read_manifest(folder / _MANIFEST_FILE)
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
                self._write_files(partial)
                partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.path = folder
        if isinstance(self._rows, RowFiles):
            self._rows = RowFiles(folder, self._rows.stray)  # the folder of the original files may be temporary
        return folder

    def _write_files(self, folder: Path) -> None:
        if isinstance(self._rows, RowFiles):
            self._rows.write(folder)
        else:
            write_tables(self._rows, folder)
        (folder / _SCENARIO_FILE).write_text(self.scenario.to_toml(), encoding="utf-8")
        manifest = json.dumps(self.manifest, indent=2, ensure_ascii=False)
        (folder / _MANIFEST_FILE).write_text(manifest + "\n", encoding="utf-8")

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

    @property
    def has_acks(self) -> bool:
        """Whether senders learn that the server has their messages. A live run lists the features of its server."""
        features: Sequence[str] = self.manifest.get("features", ("ack",))
        return "ack" in features

    @property
    def partial(self) -> bool:
        """Whether the run ended early, so that its rows cover only a part of the scenario."""
        return bool(self.manifest.get("partial", False))

    @property
    def valid(self) -> bool:
        """Whether the measurement can be trusted; False if the load generator spoilt it (`invalid_because`)."""
        return bool(self.manifest.get("valid", True))

    @property
    def invalid_because(self) -> str | None:
        """Why the measurement cannot be trusted; None if it can."""
        return None if self.valid else str(self.manifest.get("invalid_because", "it is marked as invalid"))

    @property
    def server(self) -> str | None:
        """The kind or name of the server of a live run; None if it is imsim's own or the run is simulated."""
        server, adapter = self.manifest.get("server"), self.manifest.get("adapter", "imsim")
        name = server.get("name") if isinstance(server, Mapping) else None
        return str(name) if name else None if adapter == "imsim" else str(adapter)

    @property
    def status(self) -> list[str]:
        """The facts without which no number of the run must be read: it is invalid, or it is partial."""
        lines = [] if self.valid else [f"INVALID: {self.invalid_because}"]
        if self.partial:
            reason = self.manifest.get("ended", {}).get("reason") or "it did not reach its end"
            lines.append(f"partial: ended after {self.manifest.get('played', self.scenario.duration):.4g} s: {reason}")
        return lines

    @property
    def id(self) -> str:
        """The name of the run and of its folder: `<utc time>-<world>-<scenario>-<random>`."""
        return str(self.manifest["run"])

    @property
    def world(self) -> str:
        """The kind of run: "sim" or "live"."""
        return str(self.manifest["world"])

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.manifest["seed"])

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

    @property
    def digest(self) -> str:
        """The SHA-256 of the canonical rows. Runs with equal digests have equal rows."""
        return str(self.manifest["digest"])

    @cached_property
    def messages(self) -> pd.DataFrame:
        """One row for each intended message (schema.MESSAGES). Times are in ns from the start, <NA> if unknown."""
        return _to_pandas(self._rows.table("messages"))

    @cached_property
    def deliveries(self) -> pd.DataFrame:
        """One row for each message that was not rejected and each entitled device (schema.DELIVERIES)."""
        return _to_pandas(self._rows.table("deliveries"))

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
        return _to_pandas(self._rows.table("withdrawals") if self.has("withdrawals") else WITHDRAWALS.empty_table())

    def _recorded(self, table: str) -> pd.DataFrame:
        if not self.has(table):
            raise UsageError(f"run {self.id} has no spans: record them with simulate(..., spans=True)")
        return _to_pandas(self._rows.table(table))

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


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    import pandas as pd

    # Plain strings: comparing and grouping categories has surprising results. Nullable integers: floats would round
    # nanoseconds.
    plain = [
        pa.field(field.name, pa.string()) if pa.types.is_dictionary(field.type) else field for field in table.schema
    ]
    nullable = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}
    frame: pd.DataFrame = table.cast(pa.schema(plain)).to_pandas(types_mapper=nullable.get)
    return frame


def _run_id(started: datetime, world: str, scenario: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "-", scenario).strip("-")[:40] or "scenario"
    return f"{started:%Y%m%dT%H%M%SZ}-{world}-{name}-{secrets.token_hex(3)}"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path.parent} is not a run folder: cannot read {path.name}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is broken: {error}") from error
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise UsageError(f"{path} is broken: it is not the manifest of a run")
    if manifest["schema"] != VERSION:
        raise UsageError(
            f"{path} has schema version {manifest['schema']!r}, but this imsim ({version()}) reads version {VERSION}; "
            "use the imsim that wrote it"
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise UsageError(f"{path} is broken: {key!r} is missing or not of type {kind.__name__}")
    return manifest


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


def version() -> str:
    """Return the version of imsim that is installed; "unknown" if none is."""
    try:
        return importlib.metadata.version("imsim")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


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
