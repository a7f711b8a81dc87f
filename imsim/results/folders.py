"""The runs in a folder: a list from their manifests, the search for one of them, and the deletion of some.

Only manifests are read, and the sizes of files, so a list of a thousand runs takes a moment. Anything else in the
folder is listed as what it is and never changed.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from imsim import disk
from imsim.core.exceptions import RunError, UsageError
from imsim.results.manifest import MANIFEST_FILE, Described, read_manifest
from imsim.results.schema import OPTIONAL, TABLES

LATEST = "latest"

_REQUIRED = {MANIFEST_FILE, "scenario.toml", *(f"{table}.parquet" for table in TABLES if table not in OPTIONAL)}
_WRITTEN = _REQUIRED | {f"{table}.parquet" for table in OPTIONAL} | {"locust.log"}
_DRAWN = (".html", ".png", ".svg", ".pdf")  # reports and pictures, which can be made again
_UNFINISHED = (".partial", ".deleted")
_SHOWN = 5  # runs that an error names


@dataclass(frozen=True)
class RunFolder(Described):
    """The folder of a run.

    path: the folder. manifest: the entries of its manifest. started: the wall time of the start. size: the bytes of its
    files. foreign: the names of files and folders in it that imsim did not write.
    """

    path: Path
    manifest: dict[str, Any]
    started: datetime
    size: int
    foreign: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> RunFolder:
        """Return the run in a folder. Raises: UsageError if it is not one, or is broken or incomplete."""
        manifest = read_manifest(path)
        try:
            started = datetime.fromisoformat(manifest["started"])
        except ValueError:
            raise UsageError(f"{path / MANIFEST_FILE} is broken: 'started' is not a time") from None
        with disk.errors("read", path), os.scandir(path) as entries:
            sizes = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}
        if missing := sorted(_REQUIRED - sizes.keys()):
            raise UsageError(f"{path} is incomplete: there is no {missing[0]}")
        foreign = sorted(name for name in sizes if name not in _WRITTEN and not name.endswith(_DRAWN))
        started = started if started.tzinfo else started.replace(tzinfo=UTC)
        return cls(path, manifest, started, sum(sizes.values()), tuple(foreign))

    @property
    def name(self) -> str:
        """The name of the folder, which is the run's id unless it was renamed."""
        return self.path.name

    @property
    def scenario(self) -> str:
        """The name of the scenario."""
        return str(self.manifest["scenario"])

    @property
    def state(self) -> str:
        """Whether the numbers can be trusted: "valid", "partial" or "invalid"."""
        return "invalid" if not self.valid else "partial" if self.partial else "valid"

    def number(self, *path: str) -> float | None:
        """Return a number of the manifest's summary; None if it is undefined, or if the run is from before summaries.

        path: the names of the entries, such as "delivery_ms", "p99".
        """
        found: Any = self.manifest.get("summary")
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, int | float) and not isinstance(found, bool) else None

    @property
    def kept_because(self) -> str | None:
        """Why the folder must not be deleted; None if it may be."""
        if self.path.is_symlink():
            return "it is a symbolic link; delete the link yourself"
        if self.name.startswith(".") and self.name.endswith(_UNFINISHED):
            return "it is still being written, or its process ended before it was complete"
        if self.foreign:
            names = ", ".join(self.foreign[:3]) + (" ..." if len(self.foreign) > 3 else "")
            return f"it has files that imsim did not write: {names}; move them first"
        return None

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain values; None for what the manifest does not say."""
        return {
            "run": self.name,
            "path": str(self.path),
            "started": self.started.isoformat(),
            "world": self.world,
            "server": self.server,
            "scenario": self.scenario,
            "seed": self.seed,
            "state": self.state,
            "valid": self.valid,
            "partial": self.partial,
            "invalid_because": self.invalid_because,
            "messages": self.number("messages"),
            "lost": self.number("lost"),
            "delivery.p50": self.number("delivery_ms", "p50"),
            "delivery.p99": self.number("delivery_ms", "p99"),
            "digest": self.digest,
            "bytes": self.size,
        }


@dataclass(frozen=True)
class OtherFolder:
    """A folder that is not a run which can be read.

    kind: "damaged" if it has a manifest, "unfinished" if it is being written or deleted, otherwise "foreign".
    """

    path: Path
    kind: Literal["damaged", "unfinished", "foreign"]
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name}: {self.kind}: {self.reason}"


def scan(directory: Path | str) -> tuple[list[RunFolder], list[OtherFolder]]:
    """Return the runs in a folder, the newest last, and the other folders in it, by name. Files are left out.

    Raises: UsageError or RunError if the folder cannot be read.
    """
    directory = Path(directory)
    with disk.errors("read", directory):
        if (directory / MANIFEST_FILE).exists():
            raise UsageError(f"{directory} is a run itself; give the folder that contains the folders of runs")
        names = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())
    runs, others = [], []
    for path in (directory / name for name in names):
        if path.name.startswith("."):
            if path.name.endswith(_UNFINISHED):
                reason = "a process writes or deletes it, or has ended too early; if none runs, remove it"
                others.append(OtherFolder(path, "unfinished", reason))
        elif path.is_symlink():
            others.append(OtherFolder(path, "foreign", f"a symbolic link to {os.readlink(path)}"))
        elif not os.path.lexists(path / MANIFEST_FILE):
            others.append(OtherFolder(path, "foreign", f"not a run, as there is no {MANIFEST_FILE}"))
        else:
            try:
                runs.append(RunFolder.read(path))
            except (UsageError, RunError) as error:
                others.append(OtherFolder(path, "damaged", str(error).removeprefix(f"{directory}{os.sep}")))
    return sorted(runs, key=lambda run: (run.started, run.name)), others


def find(text: str, directory: Path | str) -> RunFolder:
    """Return the run that a text names.

    text: the path of the run's folder; or the folder's name, the start or the end of it, or "latest", in `directory`.

    Raises: UsageError if no run or more than one has this name; also if the run is damaged.
    """
    if os.path.lexists(Path(text) / MANIFEST_FILE):
        return RunFolder.read(Path(text))
    if os.sep in text or (os.altsep and os.altsep in text):
        raise UsageError(f"{text} is not a run folder: there is no {MANIFEST_FILE}")
    runs, others = scan(directory)
    if text == LATEST:
        if not runs:
            raise UsageError(f"{LATEST}: there is no run in {directory}")
        return runs[-1]
    found = [run for run in runs if run.name == text] or [run for run in runs if run.id == text]
    if not found and (same := [other for other in others if other.path.name == text]):
        raise UsageError(str(same[0]))
    found = found or [run for run in runs if run.name.startswith(text) or run.name.endswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(run.name for run in found[:_SHOWN]) + (" ..." if len(found) > _SHOWN else "")
        raise UsageError(f"{text}: {len(found)} runs in {directory} have this name: {names}; give more of it")
    raise UsageError(f"{text}: no run in {directory} has this name; `imsim runs list` shows all")


def handles(runs: Sequence[RunFolder]) -> list[str]:
    """Return a short name for each run: the last part of its name if no other run has the same, else its name."""
    ends = [run.name.rpartition("-")[2] for run in runs]
    lengths = {len(end) for end in ends if end}
    counts = {length: Counter(run.name[-length:] for run in runs) for length in lengths}
    return [end if end and counts[len(end)][end] == 1 else run.name for run, end in zip(runs, ends, strict=True)]


def delete(run: RunFolder) -> None:
    """Delete the folder of a run. For other processes, it disappears at once.

    Raises: UsageError or RunError if it must not or cannot be deleted.
    """
    path = run.path if run.path.name not in ("", "..") else run.path.resolve()
    current = RunFolder.read(path)  # it may have changed since it was listed
    if reason := current.kept_because:
        raise UsageError(f"{run.path} is not deleted: {reason}")
    if current.manifest != run.manifest:
        raise UsageError(f"{run.path} is not deleted: it is another run now")
    doomed = path.with_name(f".{path.name}-{secrets.token_hex(3)}.deleted")
    with disk.errors("delete", path):
        path.rename(doomed)
    with disk.errors("delete", doomed):
        shutil.rmtree(doomed)
