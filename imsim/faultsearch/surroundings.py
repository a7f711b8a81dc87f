"""What all parts of a world share: its case, clock, trace and luck, and what waits for something to happen in it."""

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
    """The world, as its links, nodes and applications know it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.clock = Clock(0.0)
        self.trace: list[Entry] = []
        self.longest_queue = 0  # the most pushes that ever waited on one connection
        self.owners: dict[int, str] = {}  # connection -> the instance that opened it
        self._luck = Draws(case.seed, "chaos", "luck")
        self._jitter = Draws(case.seed, "reconnect")
        self._links = Draws(case.seed, "chaos", "link")
        self._walls: dict[str, Stream] = {}
        self.ambushes: list[Fault] = []  # crashes that wait for their moment
        self.at_login: dict[str, Fault] = {}  # revocations that wait for a user to log in
        self.askers: dict[storage.Request, Router] = {}  # the machine that asked storage for it
        self.deaths: dict[Router, float] = {}  # of the machine of each life of a router that is over: when
        self.placement = Placement(case.router_names)
        self.windows: dict[str, Windows] = {name: Windows() for name in ("storage", *case.devices)}

    @property
    def now(self) -> float:
        return self.clock.now

    def record(self, entry: Entry) -> None:
        self.trace.append(entry)

    def happened(self, fault: Fault) -> None:
        """The fault has hit something."""
        self.record(Struck(self.clock.now, fault.target, fault.kind))

    def later(self, seconds: float, function: Callable[[Any], object], argument: Any) -> None:
        self.clock.call_at(self.clock.now + seconds, function, argument)

    @abstractmethod
    def new_connection(self, client: Any) -> Any:
        """For this instance, to some gateway."""

    @abstractmethod
    def crash(self, name: str, fault: Fault) -> None:
        """A server crashes."""

    @abstractmethod
    def revoke(self, fault: Fault) -> None:
        """A user's tokens are revoked."""

    def refusal(self, device: str, instance: str) -> Code | None:
        """Why the token of this device's instance is not taken at present."""
        window = self.windows[device].get("token_refused")
        if window is None:
            return None
        self.record(Struck(self.clock.now, instance, "token_refused"))
        return Code(window.arguments["code"])

    def new_token(self, user: str) -> str:
        """Good for this user, from now on."""
        return f"{user}@{self.clock.now!r}"

    # --- luck ---

    def stream(self, fault: Fault) -> Stream:
        """The luck of one fault, whatever the others do."""
        return Stream(self._luck, stream_number(str(fault)))

    def jitter_stream(self, number: int) -> Stream:
        return Stream(self._jitter, number)

    def wall_epoch(self, node: str) -> float:
        """The wall time at which this node's clock was 0, by what it believes in the life that begins now."""
        if node not in self._walls:
            self._walls[node] = Stream(self._links, stream_number(f"{node} wall"))
        return self.case.wall_skew * self._walls[node].next()

    # --- what waits for its moment ---

    def spring(self, router: str, request: storage.Request, moment: str) -> None:
        """Something of a router happened with storage: is that what an ambush waits for?"""
        if moment == "asked" and isinstance(request, storage.OpenUser) and request.user in self.at_login:
            self.later(0.0, self.revoke, self.at_login.pop(request.user))
        if (fault := self._ambush_for(router, request.op, moment)) is not None:
            self.later(0.0, lambda fault: self.crash(router, fault), fault)

    def crashes_on(self, gateway: str, op: str, moment: str) -> bool:
        """A frame has arrived at a gateway, or was passed on: is that what an ambush waits for?"""
        fault = self._ambush_for(gateway, op, moment)
        if fault is not None:
            self.crash(gateway, fault)
        return fault is not None

    def _ambush_for(self, node: str, op: str, moment: str) -> Fault | None:
        """The ambush that waits for this, which is over with it."""
        for fault in self.ambushes:
            if (fault.target, fault.arguments["op"], fault.arguments["moment"]) == (node, op, moment):
                self.ambushes.remove(fault)
                return fault
        return None
