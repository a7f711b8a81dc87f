"""The shared part of the adapters that use a description."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any
from urllib.parse import urlsplit

from imsim.core.exceptions import UsageError
from imsim.load.adapters.described import templates
from imsim.load.adapters.described.compiler import compiled
from imsim.load.adapters.described.description import Description
from imsim.load.adapters.described.templates import Template
from imsim.load.adapters.interface import Adapter, Target


class DescribedAdapter(Adapter):
    """A server whose protocol is described. The features follow from the description."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        _check_url(target.url)
        self.description, file = self._read()
        self.features = self.description.offered
        self.protocol = compiled(self.description, file, self._template)

    @abstractmethod
    def _read(self) -> tuple[Description, str]:
        """Return the description, and the name of its file for errors."""

    def _template(self, document: Any) -> Template:
        """Return the template of a frame."""
        return templates.compiled(document)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("ws", "wss") and bool(parts.hostname) and not (parts.query or parts.fragment)
        _ = parts.port  # raises ValueError if it is not a port
    except ValueError:
        is_url = False
    if not is_url:
        raise UsageError(f"url: must be ws://host:port or wss://host:port (got {url!r})")
