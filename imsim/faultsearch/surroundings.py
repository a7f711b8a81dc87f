"""The state that all parts of a world share: its case, clock, trace, random streams, and pending ambushes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from imsim.core import storage
from imsim.core.model import Code
from imsim.core.placement import Placement
from imsim.core.router.router import Router
from imsim.faultsearch.case import Case
from imsim.faultsearch.entries import Entry, Struck
from imsim.faultsearch.faults import Fault, Windows
from imsim.faultsearch.random import stream_number
from imsim.scenario import Draws, Stream
from imsim.sim.clock import Clock


class Surroundings(ABC):
    """The part of the world that its links, nodes and applications use."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.clock = Clock(0.0)
        self.trace: list[Entry] = []
        self.longest_queue = 0  # the largest number of pushes that ever waited on one connection
        self.owners: dict[int, str] = {}  # connection -> the instance that opened it
        self._luck = Draws(case.seed, "chaos", "luck")
        self._jitter = Draws(case.seed, "reconnect")
        self._links = Draws(case.seed, "chaos", "link")
        self._walls: dict[str, Stream] = {}
        self.ambushes: list[Fault] = []  # crashes that wait for their trigger
        self.at_login: dict[str, Fault] = {}  # revocations that wait for a login, by user
        self.askers: dict[storage.Request, Router] = {}  # request -> the life of the router that sent it
        self.deaths: dict[Router, float] = {}  # ended life of a router -> the time of its end
        self.placement = Placement(case.router_names)
        self.windows: dict[str, Windows] = {name: Windows() for name in ("storage", *case.devices)}

    @property
    def now(self) -> float:
        return self.clock.now

    def record(self, entry: Entry) -> None:
        self.trace.append(entry)

    def record_hit(self, fault: Fault) -> None:
        """Record that the fault has hit its target."""
        self.record(Struck(self.clock.now, fault.target, fault.kind))

    def later(self, seconds: float, function: Callable[[Any], object], argument: Any) -> None:
        self.clock.call_at(self.clock.now + seconds, function, argument)

    @abstractmethod
    def new_connection(self, client: Any) -> Any:
        """Open a connection of this instance to a gateway."""

    @abstractmethod
    def crash(self, name: str, fault: Fault) -> None:
        """Crash a server."""

    @abstractmethod
    def revoke(self, fault: Fault) -> None:
        """Revoke a user's tokens."""

    def refusal(self, device: str, instance: str) -> Code | None:
        """Return the code with which a fault refuses the token of this instance now, or None."""
        window = self.windows[device].get("token_refused")
        if window is None:
            return None
        self.record(Struck(self.clock.now, instance, "token_refused"))
        return Code(window.arguments["code"])

    def new_token(self, user: str) -> str:
        """Return a token of this user that is issued now."""
        return f"{user}@{self.clock.now!r}"

    # --- random streams ---

    def stream(self, fault: Fault) -> Stream:
        """Return the random stream of one fault, which is independent of the other faults."""
        return Stream(self._luck, stream_number(str(fault)))

    def jitter_stream(self, number: int) -> Stream:
        return Stream(self._jitter, number)

    def wall_epoch(self, node: str) -> float:
        """Return the wall time at which this node's clock was 0, as the node assumes in the life that begins now."""
        if node not in self._walls:
            self._walls[node] = Stream(self._links, stream_number(f"{node} wall"))
        return self.case.wall_skew * self._walls[node].next()

    # --- ambushes ---

    def trigger_ambush(self, router: str, request: storage.Request, moment: str) -> None:
        """Trigger the ambush and the revocation that wait for this moment of a router's storage request, if any."""
        if moment == "asked" and isinstance(request, storage.OpenUser) and request.user in self.at_login:
            self.later(0.0, self.revoke, self.at_login.pop(request.user))
        if (fault := self._take_ambush(router, request.op, moment)) is not None:
            self.later(0.0, lambda fault: self.crash(router, fault), fault)

    def crashes_on(self, gateway: str, op: str, moment: str) -> bool:
        """Trigger the ambush that waits for this frame at a gateway, and return whether there was one."""
        fault = self._take_ambush(gateway, op, moment)
        if fault is not None:
            self.crash(gateway, fault)
        return fault is not None

    def _take_ambush(self, node: str, op: str, moment: str) -> Fault | None:
        """Remove and return the ambush that waits for this moment, or None."""
        for fault in self.ambushes:
            if (fault.target, fault.arguments["op"], fault.arguments["moment"]) == (node, op, moment):
                self.ambushes.remove(fault)
                return fault
        return None
