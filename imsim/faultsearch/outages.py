"""Who tells the nodes that a connection of the backbone broke, and that it is there again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imsim.faultsearch.world import World


class Outages:
    """A broken connection is noticed after a while by both ends, and at the latest when they connect again: there is
    never traffic over a new connection before both know that the old one is gone."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._broken: set[tuple[str, str]] = set()
        self._untold: set[tuple[str, str]] = set()  # those of them of which nobody knows yet

    def lost(self, pair: tuple[str, str], after: float) -> None:
        """The connection of the two broke; they notice `after` so many seconds."""
        self._broken.add(pair)
        self._untold.add(pair)
        self._world.later(after, self._tell, pair)

    def back(self, pair: tuple[str, str]) -> None:
        """They are connected again: routers look for what they did not hear of."""
        self._tell(pair)
        self._broken.discard(pair)
        gateways, routers = self._world.gateways, self._world.routers
        for one, other in (pair, pair[::-1]):
            if one in gateways and other in routers:
                gateways[one].router_back(other)
            elif one in routers and other in routers:
                routers[one].router_back()

    def repair(self) -> None:
        for pair in sorted(self._broken):
            self.back(pair)

    def _tell(self, pair: tuple[str, str]) -> None:
        if pair not in self._untold:
            return
        self._untold.remove(pair)
        gateways, routers = self._world.gateways, self._world.routers
        for one, other in (pair, pair[::-1]):
            if one in gateways and other in routers:
                gateways[one].router_lost(other)
            elif one in routers and other in gateways:
                routers[one].gateway_lost(other)
