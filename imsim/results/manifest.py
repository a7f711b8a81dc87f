"""The manifest of a run: where its rows come from, and whether its numbers can be trusted."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imsim.core.exceptions import UsageError
from imsim.results.schema import VERSION

MANIFEST_FILE = "manifest.json"

_REQUIRED = {
    "run": str,
    "world": str,
    "started": str,
    "scenario": str,
    "seed": int,
    "digest": str,
    "stray": int,
}


class Described:
    """The facts that a manifest holds: the base of a run with its rows, and of a run of which only the folder is known.

    manifest: the entries of the manifest.
    """

    manifest: dict[str, Any]

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
        if adapter == "imsim":
            return None
        name = server.get("name") if isinstance(server, Mapping) else None
        return str(name or adapter)

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
    def digest(self) -> str:
        """The SHA-256 of the canonical rows. Runs with equal digests have equal rows."""
        return str(self.manifest["digest"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest in a run's folder. Raises: UsageError if it is missing or broken, or of another version."""
    path = folder / MANIFEST_FILE
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


def version() -> str:
    """Return the version of imsim that is installed; "unknown" if none is."""
    try:
        return importlib.metadata.version("imsim")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
