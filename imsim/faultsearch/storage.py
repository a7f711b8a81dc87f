"""The storage node, with its faults."""

from __future__ import annotations

from collections.abc import Mapping

from imsim.core import storage
from imsim.core.router.router import Router
from imsim.core.storage.memory import MemoryStorage
from imsim.faultsearch.entries import Stored, Struck
from imsim.faultsearch.surroundings import Surroundings
from imsim.scenario import Stream
from imsim.sim.link import Hop
from imsim.sim.nodes.storage import Asked

_NEVER = float("inf")
_Answer = tuple[bool, str, storage.Request, storage.Result]  # (whether no answer is sent, the router, ...)


class StorageNode:
    """Storage that keeps its data, but may be slow, stall, fail, or not answer.

    It executes the requests of one life of a router in the order of their arrival. A restarted router's requests may
    overtake those of its earlier life. Answers may always overtake each other.

    It executes a request of an ended life at most `storage_timeout` after the end of that life, or never.
    """

    name = "storage"

    def __init__(self, world: Surroundings, stream: Stream) -> None:
        self.world = world
        self.data = MemoryStorage(world.case.policies.fanout)
        self.waiting = 0  # the number of unanswered requests
        self._stream = stream
        self._last: dict[Router, float] = {}
        self._windows = world.windows["storage"]

    def wire(self, routers: Mapping[str, Hop]) -> None:
        self._routers = routers

    def receive(self, asked: Asked) -> None:
        _, request = asked
        at = self.world.clock.now + self._delay()
        if window := self._windows.get("storage_slow"):
            at += window.draw() * window.arguments["up_to"]
            self._record_hit("storage_slow", request)
        if window := self._windows.get("storage_stall"):
            at = max(at, window.end)
            self._record_hit("storage_stall", request)
        asker = self.world.askers[request]
        at = self._last[asker] = max(at, self._last.get(asker, 0.0))
        self.waiting += 1
        self.world.clock.call_at(at, self._execute, asked)

    def _execute(self, asked: Asked) -> None:
        name, request = asked
        died = self.world.deaths.get(self.world.askers[request], _NEVER)
        if self.world.clock.now > died + self.world.case.policies.storage_timeout:
            self.waiting -= 1
            return  # the router's life ended too long ago
        delay, silent = self._delay(), False
        result: storage.Result
        failed, late = self._windows.strikes("storage_fails"), self._windows.strikes("storage_late")
        for window in (failed, late):
            if window is not None:
                self._record_hit(window.fault.kind, request)
        if (failed and not failed.arguments["done"]) or (late and not late.arguments["done"]):
            result = storage.Failed("nothing was done")
        else:
            result = self.data.execute(request)
            self.world.record(Stored(self.world.clock.now, "storage", name, request, result))
            if failed:
                result = storage.Failed("who knows")
        if late:
            delay += late.arguments["by"]
            silent = late.arguments["silent"]
        self.world.clock.call_at(self.world.clock.now + delay, self._answer, (silent, name, request, result))
        self.world.trigger_ambush(name, request, "done")

    def _answer(self, answer: _Answer) -> None:
        silent, name, request, result = answer
        self.waiting -= 1
        if not silent:
            _, stored = self._routers[name]
            stored((request, result))

    def _delay(self) -> float:
        return self.world.case.storage_latency * (0.5 + self._stream.next())

    def _record_hit(self, kind: str, request: storage.Request) -> None:
        self.world.record(Struck(self.world.clock.now, "storage", kind, request))
