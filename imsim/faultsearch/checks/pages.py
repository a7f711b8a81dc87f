"""Pages: how much a sync, a range or a room brings at once."""

from __future__ import annotations

import json
from collections.abc import Iterable

from imsim.core import frames, internal_frames
from imsim.core.model import Message
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import RouterSent


def written_in(message: Message) -> int:
    """How many bytes its users wrote in it."""
    file = json.dumps(message.file, ensure_ascii=False, separators=(",", ":")) if message.file is not None else ""
    return len(f"{message.content}{message.custom or ''}{file}".encode())


def fits(sizes: Iterable[int], most: int) -> bool:
    """Whether a page may hold what has these sizes: no more than its bytes, except one that alone has more; and
    what has nothing."""
    sizes = [size for size in sizes if size]
    return sum(sizes) <= most or len(sizes) == 1


class Pages(Check):
    """A page of a sync has no more messages and bytes than it may have; and one after which there is more is not empty,
    or it would be asked for again without end."""

    @on(RouterSent, internal_frames.Down, frames.Page | frames.SyncDone)
    def sent(self, entry: RouterSent[internal_frames.Down]) -> None:
        sessions, frame = entry.frame.sessions, entry.frame.frame
        assert isinstance(frame, frames.Page | frames.SyncDone)
        sizes = [written_in(message) for message in frame.messages]
        # Not the custom of conversation states: they are sent as they are by now, and storage has weighed earlier ones.
        if len(frame.messages) > self.policies.page or not fits(sizes, self.policies.page_bytes):
            text = f"{sessions} got {len(frame.messages)} messages with {sum(sizes)} bytes in one page"
            self.violated("pages_are_no_larger_than_configured", text)
        if type(frame) is frames.Page and not sizes:
            self.violated("pages_are_not_empty", f"{sessions} got nothing, and was to ask for more")
