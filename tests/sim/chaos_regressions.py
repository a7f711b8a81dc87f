"""Seeds that once broke something, as data: each has been mended."""

from __future__ import annotations

#: seed -> what it once broke
REGRESSIONS: dict[int, str] = {
    9: "a client took another device's message for the success of its own send, for the sake of an equal idClient",
    905: "a message was pushed to no session of the device that sent it, not even to a later one that lacked it",
    188: "the search itself: a sender that gave up waits behind its own gap",
    289: "the search itself: heartbeats were taken for unrest",
}
