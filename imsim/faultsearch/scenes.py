"""Short scenes for what chance alone brings about in one run of a hundred or less.

They are drawn from luck of their own and come on top of the workload and the faults, which stay what they are. A scene
only makes its situation likely: whatever else happens in the run may be in its way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from imsim.core.model import Scene, conversation_id
from imsim.faultsearch.case import EARLIEST, Step
from imsim.faultsearch.faults import Fault
from imsim.faultsearch.random import Random
from imsim.faultsearch.workload import ROOMS

Where = dict[str, Any]  # scene and to


class Scenes:
    """`steps` and `faults` are those that come on top. `rivals`: pairs of devices of which only one may be logged in. A
    scene begins at some time, and each thing done in it moves that on, so that it follows what was done before it,
    probably."""

    def __init__(
        self,
        random: Random,
        devices: tuple[str, ...],
        gateways: list[str],
        routers: list[str],
        duration: float,
        rivals: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.steps: list[Step] = []
        self.faults: list[Fault] = []
        self._random = random
        self._devices = devices
        self._gateways = gateways
        self._routers = routers
        self._duration = duration
        self._rivals = rivals
        self._at = 0.0
        self._count = 0
        for scene, probability in _SCENES.items():
            if random.chance(probability):
                scene(self)

    def add_faults(self) -> None:
        """What needs the network to go wrong. Where nothing else does, nothing is to."""
        for scene, probability in _WITH_FAULTS.items():
            if (len(self._gateways) > 1 or scene not in _WITH_TWO_GATEWAYS) and self._random.chance(probability):
                scene(self)

    # --- groups: each has one of its own, of two users, whom nothing else in it concerns ---

    def _group(self, name: str) -> tuple[Where, str, str]:
        """The group, its maker, the other member."""
        maker, other = self._two_users()
        self._at = self._random.between(0.3, 0.7 * self._duration)
        made = {"name": name, "members": [maker, other], "data": {"join": "open", "consent": False}}
        self._by(maker, "create_group", made)
        return {"scene": str(Scene.GROUP), "to": name}, maker, other

    def _mute(self) -> None:
        """And have the other speak: as the change is under way, and once it is done."""
        where, maker, other = self._group("muted")
        begun = self._at
        self._change(maker, where, "mute", [other])
        for number in range(6):
            later = self._random.around(0.001, 0.1) if number < 4 else self._random.between(0.3, 1.5)
            self._at = round(begun + later, 6)
            self._say(other, where)
        self._at = round(begun + 3, 6)
        self._change(maker, where, "unmute", [other])

    def _silence(self) -> None:
        """A muted user edits what was said before, goes, is unmuted meanwhile, and comes back."""
        where, maker, other = self._group("silent")
        device = self._say_by_one(other, where)
        self._change(maker, where, "mute", [other])
        self._amend(device, where, "edit", own=True)
        for user, event, targets in ((other, "leave", []), (maker, "unmute", [other]), (other, "join", [])):
            self._change(user, where, event, targets)
        self._say(other, where)

    def _hush(self) -> None:
        """Everybody is muted, except those who see to the group."""
        where, maker, other = self._group("hushed")
        self._change(maker, where, "mute", [])
        for user in (maker, other):
            self._say(user, where)
        self._change(maker, where, "role", [other], role="admin")
        self._say(other, where)

    def _rise_and_fall(self) -> None:
        """A user who was an admin and left, or who handed the group on, is no longer one: it shows when they try."""
        where, maker, other = self._group("ranks")
        self._change(maker, where, "role", [other], role="admin")
        if self._random.chance(0.5):
            self._change(other, where, "leave", [])
            self._change(other, where, "join", [])
        else:
            self._change(maker, where, "transfer", [other])
            self._change(other, where, "transfer", [maker])
        self._say(maker, where)
        self._change(other, where, "configure", [], join="approval")
        self._amend(self._one_of(other), where, "recall", own=False)

    def _take_back(self) -> None:
        """The maker recalls what the other has said."""
        where, maker, other = self._group("tidy")
        self._say(other, where)
        self._amend(self._one_of(maker), where, "recall", own=False)

    def _go_and_take_back(self) -> None:
        """A user who has left amends what they have said."""
        where, maker, other = self._group("left")
        device = self._say_by_one(other, where)
        self._change(other, where, "leave", [])
        self._amend(
            device, where, self._random.pick(("recall", "recall", "edit")), own=True, back=2
        )  # before the leave
        self._say(maker, where)
        self._by(other, "read", {"conversation": conversation_id(Scene.GROUP, other, where["to"])})

    def _amend_at_once(self) -> None:
        """The maker recalls what the other edits in that very moment, and more is said."""
        where, maker, other = self._group("hasty")
        for _ in range(3):
            device = self._say_by_one(other, where)
            begun = self._at
            for amending, event, own in ((self._one_of(maker), "recall", False), (device, "edit", True)):
                self._at = round(begun + self._random.around(0.0001, 0.02), 6)
                self._amend(amending, where, event, own=own)
            self._at = round(begun + self._random.around(0.0001, 0.02), 6)
            self._say(maker, where)

    def _apply(self) -> None:
        """The other goes, and asks to come back."""
        where, maker, other = self._group("wary")
        self._change(other, where, "leave", [])
        self._change(maker, where, "configure", [], join="approval")
        self._change(other, where, "apply", [])
        self._change(maker, where, self._random.pick(("accept", "reject")), [other])

    def _make_again(self) -> None:
        where, maker, other = self._group("brief")
        for event in ("dismiss", "create"):
            self._change(maker, where, event, [other])

    # --- between two users ---

    def _conflict(self) -> None:
        """Two devices of a user say different things under one idClient, at the same time."""
        user, other = self._two_users()
        twins = self._random.some(self._of(user), 2)
        at = self._random.between(EARLIEST, self._duration)
        for _ in range(8):
            id = self._id()
            for device in twins:
                late = self._random.around(0.0001, 0.02)
                sent = {**_to(other), "id": id, "content": f"by {device}", "type": "text"}
                self._add(round(at + late, 6), device, "send", sent)
            at = round(at + self._random.between(0, 0.2), 6)

    def _tap_again(self) -> None:
        """The same send, and the same group, again and again: under way, done, or failed."""
        user, other = self._two_users()
        self._at, device = self._random.between(EARLIEST, self._duration), self._one_of(user)
        sent = {**_to(other), "id": self._id(), "content": "tap", "type": "text"}
        made = {"name": "tapped", "members": [user, other]}
        for action, arguments in (("send", sent), ("create_group", made)):
            self._add(self._at, device, action, arguments)
            for _ in range(4):
                self._at = round(self._at + self._random.around(0.01, 2), 6)
                self._say_by_one(other, _to(user), quickly=True)
                self._add(self._at, device, "tap", {})

    def _block(self) -> None:
        """A blocked user edits what was said before, and speaks; and each of the two types."""
        user, other = self._two_users()
        self._at = self._random.between(EARLIEST, 0.8 * self._duration)
        device = self._say_by_one(user, _to(other))
        for blocked in (True, False):
            self._by(other, "set_conversation", {"conversation": _between(user, other), "blocked": blocked})
            self._amend(device, _to(other), "edit", own=True)
            self._say(user, _to(other))
            for typing in (user, other):
                self._by(typing, "typing", {"conversation": _between(user, other)})

    def _settings(self) -> None:
        """Several are changed at once, from one device, and the conversation is hidden: they are one request."""
        user, other = self._two_users()
        self._at = self._random.between(EARLIEST, 0.8 * self._duration)
        self._say(other, _to(user))
        device, about = self._one_of(user), {"conversation": _between(user, other)}
        changes = [("set_conversation", {name: True}) for name in ("pinned", "muted", "blocked")]
        for action, change in self._shuffled([*changes, ("set_conversation", {"custom": "x"}), ("hide", {})]):
            self._at = round(self._at + self._random.around(0.0001, 0.02), 6)
            self._add(self._at, device, action, {**about, **change})
        self._wait()
        self._say(other, _to(user))
        self._by(user, "set_conversation", {**about, "blocked": False})

    def _befriend_late(self) -> None:
        """A request that nobody answered in time, and that of the other."""
        user, other = self._two_users()
        self._at = self._random.between(EARLIEST, 0.7 * self._duration)
        self._change(user, _to(other), "friend_request", [])
        self._at = round(self._at + self._random.between(0.2, 3), 6)
        self._change(other, _to(user), "friend_request", [])
        self._change(user, _to(other), self._random.pick(("friend_accept", "friend_reject", "friend_request")), [])

    def _take_much_back(self) -> None:
        """The latest of several, when those before it are gone: the last message is looked for, page by page, and
        meanwhile another one may go."""
        user, other = self._two_users()
        self._at, device = self._random.between(EARLIEST, self._duration - 5), self._one_of(user)
        for _ in range(5):
            self._say_by_one(user, _to(other), device, quickly=True)
        self._wait()
        # Counted from the latest of one's own, the recalls included: the fourth, the third, the fifth; the second.
        for back in (2, 4, 3):
            self._amend(device, _to(other), "recall", own=True, back=back)
        self._at = round(self._at - self._random.between(0.3, 0.7), 6)
        self._amend(device, _to(other), self._random.pick(("recall", "edit")), own=True, back=7)

    def _look_far_back(self) -> None:
        """For more than one page."""
        user, other = self._two_users()
        self._at = self._random.between(EARLIEST, self._duration)
        for _ in range(4):
            self._say(user, _to(other), quickly=True)
        self._wait()
        self._by(user, "history", {"conversation": _between(user, other), "first": 1, "last": 30})

    def _hear_the_service(self) -> None:
        """System messages, which are read, looked at again, and set as a conversation is."""
        user, other = self._two_users()
        self._at, log = self._random.between(EARLIEST, 0.8 * self._duration), conversation_id(Scene.SYSTEM, user, user)
        news = {"scene": str(Scene.SYSTEM), "to": user, "id": self._id(), "content": "", "type": "custom"}
        self._by(other, "send", {**news, "custom": "news"})
        self._by(user, "history", {"conversation": log, "first": 1, "last": 10})
        self._add(self._at, self._one_of(user), "read", {"conversation": log})
        self._wait()
        change = {"muted": True} if self._random.chance(0.5) else {"custom": "mine"}
        self._by(user, "set_conversation", {"conversation": log, **change})

    # --- rooms ---

    def _edit_in_room(self) -> None:
        writer, reader = self._two_users()
        self._at = self._random.between(0.5, 0.8 * self._duration)
        where = self._enter([writer, reader], ROOMS[0])
        device = self._say_by_one(writer, where)
        self._amend(device, where, self._random.pick(("edit", "edit", "recall")), own=True)

    def _come_and_go(self) -> None:
        """In a moment, while others come; who comes last is heard, and hears what was said."""
        users = sorted({device.split("/")[0] for device in self._devices})
        self._at, room = self._random.between(0.5, 0.8 * self._duration), self._random.pick(ROOMS)
        for _ in range(2):
            for device in self._devices:
                for action in self._random.pick((("enter",), ("enter", "leave_room"), ("leave_room", "enter"))):
                    recent = {"recent": self._random.pick((0, 1, 30))} if action == "enter" else {}
                    self._at = round(self._at + self._random.around(0.0001, 0.1), 6)
                    self._add(self._at, device, action, {"name": room, **recent})
            for user in self._random.some(users, 2):
                self._say_by_one(user, {"scene": str(Scene.CHATROOM), "to": room}, quickly=True)

    def _enter(self, users: Sequence[str], room: str) -> Where:
        for user in users:
            recent = self._random.pick((0, 3))
            for device in self._of(user):
                self._add(self._at, device, "enter", {"name": room, "recent": recent})
        self._wait()
        return {"scene": str(Scene.CHATROOM), "to": room}

    # --- with faults ---

    def _overtake(self) -> None:
        """Many pushes to a user, which come in another order or not at all, while the user writes and reads."""
        random, (reader, writer) = self._random, self._two_users()
        self._at = random.between(EARLIEST, self._duration - 4)
        kind, how = "reordering", {"up_to": random.around(0.05, 0.5), "rate": 0.5, "seconds": 6.0}
        if random.chance(0.3):
            kind, how = "loss", {"rate": 0.4, "seconds": 6.0}
        self.faults += [Fault(self._at, kind, device, how) for device in self._of(reader)]
        for _ in range(10):
            self._at = round(self._at + random.between(0, 0.2), 6)
            self._say(writer, _to(reader), quickly=True)
            device = self._one_of(reader)
            if random.chance(0.4):
                self._say_by_one(reader, _to(writer), device, quickly=True)
            elif random.chance(0.3):
                self._add(self._at, device, "read", {"conversation": _between(reader, writer)})

    def _race(self) -> None:
        """A device is there several times, and what it says over one gateway may overtake what it says over others."""
        random, (user, other) = self._random, self._two_users()
        device, at = self._one_of(user), random.between(EARLIEST, self._duration)
        late = {"others": self._routers, "up_to": random.around(1, 4), "seconds": 4.0}
        self.faults += [Fault(at, "lag", gateway, late) for gateway in self._gateways[1:]]
        for number in range(3):
            self.faults.append(Fault(round(at + 0.05 + number, 6), "double_login", device, {}))
        for _ in range(24):
            self._at = round(at + random.between(0, 3.5), 6)
            self._say_by_one(user, _to(other), device, quickly=True)

    def _take_turns(self) -> None:
        """Of two devices one ends the other's session, which has just said something over a gateway that is slow."""
        random = self._random
        if not self._rivals:
            return
        pair = random.pick(self._rivals)
        user = pair[0].split("/")[0]
        other = random.pick([one for one in sorted({d.split("/")[0] for d in self._devices}) if one != user])
        self._at = random.between(EARLIEST, 0.6 * self._duration)
        self._add(self._at, pair[0], "come", {})
        for number in range(4):
            self._wait(1, 2)
            late = {"others": self._routers, "up_to": random.around(1, 4), "seconds": 1.0}
            self.faults.append(Fault(self._at, "lag", random.pick(self._gateways), late))
            one, next_one = pair if number % 2 == 0 else pair[::-1]
            for _ in range(3):
                self._say_by_one(user, _to(other), one, quickly=True)
                self._wait(0.01, 0.05)
            self._add(self._at, next_one, "come", {})
            for _ in range(3):
                self._wait(0.05, 0.4)
                self._say_by_one(user, _to(other), next_one, quickly=True)

    def _undo_together(self) -> None:
        """Somebody says what storage refuses, for the other has blocked them; right behind it the other ends the
        friendship."""
        user, other = self._two_users()
        self._at = self._random.between(EARLIEST, 0.5 * self._duration)
        for _ in range(3):
            self._change(user, _to(other), "friend_request", [])
            self._change(other, _to(user), "friend_accept", [])
            self._by(other, "set_conversation", {"conversation": _between(user, other), "blocked": True})
            self._answer_late()
            self._say(user, _to(other), quickly=True)
            self._at = round(self._at + self._random.around(0.0005, 0.03), 6)
            self._change(other, _to(user), "friend_delete", [])
            self._by(other, "set_conversation", {"conversation": _between(user, other), "blocked": False})

    def _say_again(self) -> None:
        """A device that has forgotten having said something says it again, to a writer that has forgotten it as well;
        right behind it its user is put out."""
        where, maker, other = self._group("anew")
        device = self._one_of(other)
        for _ in range(3):
            said = self._words(where)
            self._add(self._at, device, "send", said)
            self._wait()
            again = {"seconds": self._random.around(0.01, 0.2), "detect": 0.05}
            self.faults += [Fault(self._at, "router_crash", router, again) for router in self._routers]
            self.faults.append(Fault(self._at, "app_crash", device, {"seconds": 0.1, "silent": False}))
            self._wait(1, 2)
            self._answer_late()
            self._add(self._at, device, "send", said)
            self._at = round(self._at + self._random.around(0.0005, 0.03), 6)
            self._change(maker, where, "kick", [other])
            self._change(maker, where, "invite", [other])

    def _answer_late(self) -> None:
        """Of what storage is asked now, some is answered late."""
        late = {"by": self._random.around(0.05, 0.4), "silent": False, "done": True, "rate": 0.5, "seconds": 0.3}
        self.faults.append(Fault(self._at, "storage_late", "storage", late))

    def _revoke_in_vain(self) -> None:
        """A user's tokens, while storage fails, or is silent."""
        random, at = self._random, self._random.between(EARLIEST, self._duration)
        kind, how = "storage_fails", {"done": False, "rate": 1.0, "seconds": random.around(0.1, 1)}
        if random.chance(0.3):
            kind, how = "storage_late", {**how, "by": 0.1, "silent": True}
        self.faults.append(Fault(at, kind, "storage", how))
        user = random.pick(self._devices).split("/")[0]
        self.faults.append(Fault(round(at + 0.02, 6), "revoke", user, {"race": False, "spare": 0.0}))

    def _log_in_late(self) -> None:
        """Connections that break while what they began with is on its way."""
        random, device = self._random, self._random.pick(self._devices)
        at, every = random.between(EARLIEST, self._duration), random.around(0.3, 1.5)
        late = {"others": self._routers, "up_to": random.around(3, 8), "seconds": 12.0}
        self.faults += [Fault(at, "lag", gateway, late) for gateway in self._gateways[1:]]
        for number in range(8):
            self.faults.append(Fault(round(at + every * (number + random.between(0, 0.5)), 6), "break", device, {}))

    def _restart(self) -> None:
        """Two talk, in a room and among themselves, before and after all routers begin again: by the wall clocks of
        then it may be earlier."""
        random, (one, other) = self._random, self._two_users()
        self._at = random.between(0.5, 0.8 * self._duration)
        room = self._enter([one, other], random.pick(ROOMS))
        for router in self._routers:
            again = {"seconds": random.around(0.01, 0.5), "detect": random.around(0.01, 0.5)}
            self.faults.append(Fault(round(self._at + 1, 6), "router_crash", router, again))
        for _ in range(6):
            for where in (_to(other), room):
                self._say(one, where, quickly=True)
            self._wait(0.2, 1.2)

    def _in_and_out_again(self) -> None:
        """Of a room, as connections break: what was asked for last counts, whatever was answered."""
        random, device = self._random, self._random.pick(self._devices)
        self._at, room = random.between(0.5, 0.8 * self._duration), random.pick(ROOMS)
        for _ in range(4):
            for action in random.pick((("leave_room", "enter"), ("enter", "leave_room"), ("enter",))):
                recent = {"recent": 0} if action == "enter" else {}
                self._at = round(self._at + random.around(0.0001, 0.5), 6)
                self._add(self._at, device, action, {"name": room, **recent})
            self.faults.append(Fault(round(self._at + random.around(0.0001, 0.1), 6), "break", device, {}))
            self._wait()

    # --- words ---

    def _two_users(self) -> tuple[str, str]:
        users = sorted({device.split("/")[0] for device in self._devices})
        one = self._random.pick(users)
        return one, self._random.pick([user for user in users if user != one])

    def _of(self, user: str) -> list[str]:
        return [device for device in self._devices if device.split("/")[0] == user]

    def _one_of(self, user: str) -> str:
        return self._random.pick(self._of(user))

    def _shuffled(self, things: list[Any]) -> list[Any]:
        return sorted(things, key=lambda _: self._random.between(0, 1))

    def _wait(self, least: float = 0.4, most: float = 1.2) -> None:
        self._at = round(self._at + self._random.between(least, most), 6)

    def _id(self) -> str:
        self._count += 1
        return f"rare-{self._count}"

    def _say(self, user: str, where: Where, *, quickly: bool = False) -> None:
        self._by(user, "send", self._words(where), quickly=quickly)

    def _say_by_one(self, user: str, where: Where, device: str = "", *, quickly: bool = False) -> str:
        """Say it by one device, which is returned: there it can be amended as its own."""
        device = device or self._one_of(user)
        self._add(self._at, device, "send", self._words(where))
        if not quickly:
            self._wait()
        return device

    def _words(self, where: Where) -> dict[str, Any]:
        return {**where, "id": self._id(), "content": "so", "type": "text"}

    def _change(self, user: str, where: Where, event: str, targets: list[str], **data: Any) -> None:
        self._by(user, "change", {**where, "id": self._id(), "event": event, "targets": targets, "data": data})

    def _amend(self, device: str, where: Where, event: str, *, own: bool, back: int = 1) -> None:
        wish = {**where, "id": self._id(), "event": event, "own": own, "back": back, "content": "better"}
        self._add(self._at, device, "amend", wish)
        self._wait()

    def _by(self, user: str, action: str, arguments: dict[str, Any], *, quickly: bool = False) -> None:
        """By all of the user's devices, for some may not be there: under one idClient it is one thing all the same."""
        for device in self._of(user):
            self._add(self._at, device, action, arguments)
        if not quickly:
            self._wait()

    def _add(self, at: float, device: str, action: str, arguments: dict[str, Any]) -> None:
        self.steps.append(Step(min(at, self._duration), device, action, arguments))


def _to(user: str) -> Where:
    return {"scene": str(Scene.P2P), "to": user}


def _between(one: str, other: str) -> str:
    return conversation_id(Scene.P2P, one, other)


_SCENES: dict[Callable[[Scenes], None], float] = {
    Scenes._mute: 0.1,
    Scenes._silence: 0.1,
    Scenes._hush: 0.1,
    Scenes._rise_and_fall: 0.15,
    Scenes._take_back: 0.15,
    Scenes._go_and_take_back: 0.15,
    Scenes._amend_at_once: 0.12,
    Scenes._apply: 0.1,
    Scenes._make_again: 0.1,
    Scenes._conflict: 0.2,
    Scenes._tap_again: 0.12,
    Scenes._block: 0.15,
    Scenes._settings: 0.12,
    Scenes._befriend_late: 0.15,
    Scenes._take_much_back: 0.12,
    Scenes._look_far_back: 0.12,
    Scenes._hear_the_service: 0.15,
    Scenes._edit_in_room: 0.15,
    Scenes._come_and_go: 0.15,
}
_WITH_FAULTS: dict[Callable[[Scenes], None], float] = {
    Scenes._overtake: 0.3,
    Scenes._race: 0.2,
    Scenes._take_turns: 0.6,
    Scenes._undo_together: 0.2,
    Scenes._say_again: 0.15,
    Scenes._revoke_in_vain: 0.15,
    Scenes._log_in_late: 0.25,
    Scenes._restart: 0.25,
    Scenes._in_and_out_again: 0.12,
}
_WITH_TWO_GATEWAYS = (Scenes._race, Scenes._take_turns, Scenes._log_in_late)
