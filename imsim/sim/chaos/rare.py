"""Short scenes for what chance alone brings about in one run of a hundred or less.

They are drawn from luck of their own and come on top of the workload and the faults, which stay what they are. A scene
only makes its situation likely: whatever else happens in the run may be in its way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imsim.core.model import Scene, conversation_id
from imsim.sim.chaos.case import EARLIEST, Step
from imsim.sim.chaos.dice import Dice
from imsim.sim.chaos.faults import Fault
from imsim.sim.chaos.workload import ROOMS


class Rare:
    """`steps` and `faults` are those that come on top."""

    def __init__(
        self,
        dice: Dice,
        devices: tuple[str, ...],
        gateways: list[str],
        routers: list[str],
        duration: float,
    ) -> None:
        self.steps: list[Step] = []
        self.faults: list[Fault] = []
        self._dice = dice
        self._devices = devices
        self._gateways = gateways
        self._routers = routers
        self._duration = duration
        for scene, probability in _SCENES.items():
            if dice.chance(probability):
                scene(self)

    def add_faults(self) -> None:
        """What needs the network to go wrong. Where nothing else does, nothing is to."""
        for scene, probability in _WITH_FAULTS.items():
            if (scene in (Rare._overtake, Rare._restart) or len(self._gateways) > 1) and self._dice.chance(probability):
                scene(self)

    # --- groups: each has one of its own, of two users, whom nothing else in it concerns ---

    def _group(self, name: str) -> tuple[dict[str, Any], str, str, float]:
        """The group, its maker, the other member, and when it is there, probably."""
        maker, other = self._two_users()
        at = self._dice.between(0.3, 0.7 * self._duration)
        made = {"name": name, "members": [maker, other], "data": {"join": "open", "consent": False}}
        self._by(maker, at, "create_group", made)
        return {"scene": str(Scene.GROUP), "to": name}, maker, other, self._after(at)

    def _mute(self) -> None:
        """And have the other speak: as the change is under way, and once it is done."""
        where, maker, other, at = self._group("muted")
        wish = {**where, "targets": [other], "data": {}}
        self._by(maker, at, "change", {**wish, "id": "rare-mute", "event": "mute"})
        for number in range(6):
            later = self._dice.around(0.001, 0.1) if number < 4 else self._dice.between(0.3, 1.5)
            self._say(round(at + later, 6), other, where, f"rare-muted-{number}")
        self._by(maker, round(at + 3, 6), "change", {**wish, "id": "rare-unmute", "event": "unmute"})

    def _take_back(self) -> None:
        """The maker recalls what the other has said."""
        where, maker, other, at = self._group("tidy")
        self._say(at, other, where, "rare-said")
        wish = {**where, "id": "rare-recall", "event": "recall", "own": False, "back": 1, "content": ""}
        self._by(maker, self._after(at), "amend", wish)

    def _apply(self) -> None:
        """The other goes, and asks to come back."""
        where, maker, other, at = self._group("wary")
        for user, event, targets, data in (
            (other, "leave", [], {}),
            (maker, "configure", [], {"join": "approval"}),
            (other, "apply", [], {}),
            (maker, self._dice.pick(("accept", "reject")), [other], {}),
        ):
            wish = {**where, "id": f"rare-{event}", "event": event, "targets": targets, "data": data}
            self._by(user, at, "change", wish)
            at = self._after(at)

    def _make_again(self) -> None:
        where, maker, other, at = self._group("brief")
        for event in ("dismiss", "create"):
            wish = {**where, "id": f"rare-{event}", "event": event, "targets": [other], "data": {}}
            self._by(maker, at, "change", wish)
            at = self._after(at)

    # --- others ---

    def _conflict(self) -> None:
        """Two devices of a user say different things under one idClient, at the same time."""
        user, other = self._two_users()
        twins = self._dice.some(self._of(user), 2)
        at, where = self._dice.between(EARLIEST, self._duration), {"scene": str(Scene.P2P), "to": other}
        for number in range(8):
            for device in twins:
                late = self._dice.around(0.0001, 0.02)
                sent = {**where, "id": f"rare-twin-{number}", "content": f"by {device}", "type": "text"}
                self._add(round(at + late, 6), device, "send", sent)
            at = round(at + self._dice.between(0, 0.2), 6)

    def _edit_in_room(self) -> None:
        writer, reader = self._two_users()
        at, where = self._dice.between(0.5, 0.8 * self._duration), {"scene": str(Scene.CHATROOM), "to": ROOMS[0]}
        for user in (writer, reader):
            self._by(user, at, "enter", {"name": ROOMS[0], "recent": 0})
        at = self._after(at)
        device = self._dice.pick(self._of(writer))
        self._add(at, device, "send", {**where, "id": "rare-draft", "content": "good", "type": "text"})
        wish = {**where, "id": "rare-edit", "event": self._dice.pick(("edit", "edit", "recall")), "content": "better"}
        self._add(self._after(at), device, "amend", {**wish, "own": True, "back": 1})

    def _look_far_back(self) -> None:
        """For more than one page."""
        user, other = self._two_users()
        at = self._dice.between(EARLIEST, self._duration)
        for number in range(4):
            self._say(at, user, {"scene": str(Scene.P2P), "to": other}, f"rare-more-{number}")
        about = conversation_id(Scene.P2P, user, other)
        self._by(user, self._after(at), "history", {"conversation": about, "first": 1, "last": 30})

    # --- with faults ---

    def _overtake(self) -> None:
        """Many pushes to a user, which come in another order."""
        dice, (reader, writer) = self._dice, self._two_users()
        at, up_to = dice.between(EARLIEST, self._duration - 4), dice.around(0.05, 0.5)
        for device in self._of(reader):
            self.faults.append(Fault(at, "reordering", device, {"up_to": up_to, "rate": 0.5, "seconds": 6.0}))
        for number in range(10):
            at = round(at + dice.between(0, 0.2), 6)
            self._say(at, writer, {"scene": str(Scene.P2P), "to": reader}, f"rare-push-{number}")

    def _race(self) -> None:
        """A device is there several times, and what it says over one gateway may overtake what it says over others."""
        dice, (user, other) = self._dice, self._two_users()
        device, at = dice.pick(self._of(user)), dice.between(EARLIEST, self._duration)
        late = {"others": self._routers, "up_to": dice.around(1, 4), "seconds": 4.0}
        self.faults += [Fault(at, "lag", gateway, late) for gateway in self._gateways[1:]]
        for number in range(3):
            self.faults.append(Fault(round(at + 0.05 + number, 6), "double_login", device, {}))
        for number in range(24):
            sent = {"scene": str(Scene.P2P), "to": other, "id": f"rare-race-{number}", "content": "so", "type": "text"}
            self._add(round(at + dice.between(0, 3.5), 6), device, "send", sent)

    def _log_in_late(self) -> None:
        """Connections that break while what they began with is on its way."""
        dice, device = self._dice, self._dice.pick(self._devices)
        at, every = dice.between(EARLIEST, self._duration), dice.around(0.3, 1.5)
        late = {"others": self._routers, "up_to": dice.around(3, 8), "seconds": 12.0}
        self.faults += [Fault(at, "lag", gateway, late) for gateway in self._gateways[1:]]
        for number in range(8):
            self.faults.append(Fault(round(at + every * (number + dice.between(0, 0.5)), 6), "break", device, {}))

    def _restart(self) -> None:
        """Two talk, in a room and among themselves, before and after all routers begin anew: by the wall clocks of
        then it may be earlier."""
        dice, (one, other) = self._dice, self._two_users()
        at, room = dice.between(0.5, 0.8 * self._duration), dice.pick(ROOMS)
        for user in (one, other):
            self._by(user, at, "enter", {"name": room, "recent": dice.pick((0, 3))})
        for router in self._routers:
            again = {"seconds": dice.around(0.01, 0.5), "detect": dice.around(0.01, 0.5)}
            self.faults.append(Fault(round(at + 2, 6), "router_crash", router, again))
        for number in range(6):
            at = round(at + dice.between(0.2, 1.5), 6)
            self._say(at, one, {"scene": str(Scene.P2P), "to": other}, f"rare-clock-{number}")
            self._say(at, one, {"scene": str(Scene.CHATROOM), "to": room}, f"rare-heard-{number}")

    # --- words ---

    def _two_users(self) -> tuple[str, str]:
        users = sorted({device.split("/")[0] for device in self._devices})
        one = self._dice.pick(users)
        return one, self._dice.pick([user for user in users if user != one])

    def _of(self, user: str) -> list[str]:
        return [device for device in self._devices if device.split("/")[0] == user]

    def _after(self, at: float) -> float:
        return round(at + self._dice.between(0.4, 1.2), 6)

    def _say(self, at: float, user: str, where: dict[str, Any], id: str) -> None:
        self._by(user, at, "send", {**where, "id": id, "content": "so", "type": "text"})

    def _by(self, user: str, at: float, action: str, arguments: dict[str, Any]) -> None:
        """By all of the user's devices, for some may not be there: under one idClient it is one thing all the same."""
        for device in self._of(user):
            self._add(at, device, action, arguments)

    def _add(self, at: float, device: str, action: str, arguments: dict[str, Any]) -> None:
        self.steps.append(Step(min(at, self._duration), device, action, arguments))


_SCENES: dict[Callable[[Rare], None], float] = {
    Rare._mute: 0.1,
    Rare._take_back: 0.1,
    Rare._apply: 0.1,
    Rare._make_again: 0.06,
    Rare._conflict: 0.14,
    Rare._edit_in_room: 0.07,
    Rare._look_far_back: 0.12,
}
_WITH_FAULTS: dict[Callable[[Rare], None], float] = {
    Rare._overtake: 0.18,
    Rare._race: 0.15,
    Rare._log_in_late: 0.15,
    Rare._restart: 0.15,
}
