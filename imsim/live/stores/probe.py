"""A write that only finds out whether a store works."""

from __future__ import annotations

from imsim.core.storage import RevokeTokens

PROBE_BYTES = 65_536  # as much as a few messages, because a disk that is almost full may still take a few bytes


class Probe(RevokeTokens):
    """A request that writes PROBE_BYTES and changes nothing that a user can see. -> Saved.

    It revokes the tokens of the user "". There is no such user, so a store may also treat it as a revocation.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("", 0.0)
