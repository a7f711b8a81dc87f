"""Drawing what the users do with their devices."""

from __future__ import annotations

from typing import Any

from imsim.core.model import Scene, conversation_id
from imsim.faultsearch.case import EARLIEST, Step
from imsim.faultsearch.random import Random

GROUPS = ("team", "club")
ROOMS = ("hall", "bar")
CONFLICTS = 0.4  # how many twins of a message say something else

# What is drawn, by how often: most become steps of that name (see `app`), others several. `burst` is two sends at once;
# `twin` sends with an idClient that another device of the user has used, and `again` does so long after, amid what
# others say; `befriend`, `block`, `news` (a system message) and `say` (in a chatroom that was entered or not) are
# changes, settings and sends.
_COMMON = {"send": 10.0, "burst": 3.0, "read": 8.0, "set_conversation": 4.0}
_RARE = {
    "twin": 1.5, "resend": 1.5, "tap": 0.5, "hide": 2.0, "read_count": 2.0, "history": 2.0,
    "create_group": 0.5, "end_session": 0.7, "leave": 1.0, "come": 2.0,
    "change": 7.0, "befriend": 2.0, "block": 0.7, "amend": 4.0, "news": 1.0, "enter": 2.0, "say": 3.0,
    "leave_room": 0.7, "typing": 0.3, "again": 1.0,
}  # fmt: skip

#: What is wanted of groups, the frequent several times.
_CHANGES = (
    "configure", "invite", "invite", "invite", "apply", "apply", "join", "join", "accept", "reject", "leave", "leave",
    "kick", "kick", "transfer", "transfer", "role", "role", "mute", "mute", "unmute", "unmute", "create", "dismiss",
    "dismiss", "resolve", "gossip",
)  # fmt: skip
_ABOUT = ("read", "hide", "set_conversation", "read_count", "history")  # which the user's system log can be, too
_AIMED = ("invite", "kick", "transfer", "role", "mute", "unmute", "create", "resolve")

Targets = dict[str, list[tuple[Scene, str]]]  # user -> whom they write to, the frequent ones several times


def targets_of(random: Random, users: tuple[str, ...]) -> Targets:
    """Whom each user writes to: a few, so that they meet; at times oneself, or a group that is none of theirs."""
    partner = random.pick(users)
    targets: Targets = {}
    for user in users:
        other = partner if partner != user else users[(users.index(user) + 1) % len(users)]
        mine = [(Scene.P2P, other)] * 4 + [(Scene.GROUP, GROUPS[0])] * 3
        if random.chance(0.3):
            mine.append((Scene.P2P, user))
        if random.chance(0.6):
            mine += [(Scene.GROUP, GROUPS[1])] * random.whole(1, 3)
        targets[user] = mine
    return targets


#: What a message can carry, by its type; one that the core does not know is a newer client's.
ATTACHMENTS: dict[str, dict[str, Any]] = {
    "image": {"url": "https://f/1.png", "width": 640, "height": 480, "size": 9_000},
    "audio": {"url": "https://f/2.ogg", "duration": 2.5, "size": 4_000, "format": "ogg"},
    "video": {"url": "https://f/3.mp4", "duration": 12, "size": 80_000, "format": "mp4", "preview": "https://f/3.png"},
    "file": {"url": "https://f/4.pdf", "size": 0, "format": "application/pdf"},
    "geo": {"title": "Caf\u00e9", "longitude": -0.1, "latitude": 51.5},
    "sticker": {"pack": "cats", "tags": ["\u732b", None, 1.5]},
}


def message(random: Random, scene: Scene, to: str, id_client: str, limit: int) -> dict[str, Any]:
    content = f"text of {id_client}"
    if random.chance(0.04):  # as long as it may be in bytes, which are more than the characters; or a little longer
        wide, odd = "\u00e9" * (limit // 2), limit % 2
        content = random.pick((wide + "x" * odd, wide + "x" * (1 + odd), "x" * limit, "x" * (1 + limit)))
    said = {"scene": str(scene), "to": to, "id": id_client, "content": content, "type": "text"}
    if random.chance(0.1):
        said["type"] = "notification"
    elif random.chance(0.15) and len(content) < limit // 2:
        type = random.pick(tuple(ATTACHMENTS))
        return {**said, "content": "", "type": type, "file": ATTACHMENTS[type]}
    if random.chance(0.1) and len(content) < limit // 2:
        return {**said, "custom": f'{{"of": "{id_client}"}}'}
    return said


def steps_of(
    random: Random, users: tuple[str, ...], devices: tuple[str, ...], targets: Targets, duration: float, limit: int
) -> tuple[Step, ...]:
    return _Writer(random, users, devices, targets, duration, limit).write()


class _Writer:
    """The steps in the making: what was drawn first is built upon."""

    def __init__(
        self,
        random: Random,
        users: tuple[str, ...],
        devices: tuple[str, ...],
        targets: Targets,
        duration: float,
        limit: int,
    ) -> None:
        self._dice = random
        self._users = users
        self._devices = devices
        self._targets = targets
        self._duration = duration
        self._limit = limit
        self._steps: list[Step] = []
        self._sent: list[Step] = []
        self._groups = {name: random.some(users, random.whole(1, len(users))) for name in GROUPS[: random.whole(1, 2)]}

    def write(self) -> tuple[Step, ...]:
        random, founders = self._dice, []
        for name, members in self._groups.items():
            founder = random.pick([device for device in self._devices if device.split("/")[0] in members])
            at, data = random.between(0.5, 3), self._group_settings()
            self._add(at, founder, "create_group", {"name": name, "members": members, "data": data})
            founders.append((name, founder, members))
            if random.chance(0.5):
                admin = {"scene": "group", "to": name, "id": f"{name}-admins", "event": "role", "targets": members}
                self._add(round(at + random.between(0, 2), 6), founder, "change", {**admin, "data": {"role": "admin"}})
            if random.chance(0.15):
                heir = {
                    "scene": "group",
                    "to": name,
                    "id": f"{name}-heir",
                    "event": "transfer",
                    "targets": members[-1:],
                }
                self._add(self._later(at), founder, "change", heir)
        if random.chance(0.6):
            self._befriend()
        if random.chance(0.4):
            for device in self._devices:
                self._add(random.between(0.3, 4), device, "enter", {"name": ROOMS[0], "recent": 0})
        weights = {action: weight * random.around(0.3, 3) for action, weight in _COMMON.items()}
        weights |= {action: weight * random.around(0.3, 3) for action, weight in _RARE.items() if random.chance(0.7)}
        actions = [action for action, weight in weights.items() for _ in range(int(weight * 10))]
        at = EARLIEST
        for number in range(random.whole(20, 100)):
            if random.chance(0.5):
                at = random.between(EARLIEST, self._duration)
            else:
                at = min(self._duration, round(at + random.between(0, 0.3), 6))
            self._step(number, at, random.pick(actions), random.pick(self._devices))
        for name, founder, members in founders:
            others = [user for user in members if user != founder.split("/")[0]]
            if others and random.chance(0.3):
                self._send_away_for_a_while(name, founder, random.pick(others))
        return tuple(sorted(self._steps, key=lambda step: step.time))

    def _add(self, at: float, device: str, action: str, arguments: dict[str, Any]) -> Step:
        self._steps.append(Step(at, device, action, arguments))
        return self._steps[-1]

    def _others(self, device: str) -> list[str]:
        """The user's other devices."""
        user = device.split("/")[0]
        return [other for other in self._devices if other != device and other.split("/")[0] == user]

    def _soon(self, at: float) -> float:
        return round(at + self._dice.between(0, 0.05), 6)

    def _step(self, number: int, at: float, action: str, device: str) -> None:
        random, user = self._dice, device.split("/")[0]
        scene, to = random.pick(self._targets[user])
        conversation = conversation_id(scene, user, to)
        if action in _ABOUT and random.chance(0.12):
            conversation = conversation_id(Scene.SYSTEM, user, user)
        if action in ("send", "burst"):
            for part in range(2 if action == "burst" else 1):
                sent = message(random, scene, to, f"{device}-{number}{'ab'[part]}", self._limit)
                self._sent.append(self._add(at, device, "send", sent))
        elif action == "twin":
            self._twin(at, device)
        elif action == "again":
            self._again(number, at, device)
        elif action in ("read", "hide"):
            self._add(at, device, action, {"conversation": conversation})
            if random.chance(0.5):  # on all devices at once: each says how far it has got
                for other in self._others(device):
                    self._add(self._soon(at), other, action, {"conversation": conversation})
        elif action == "set_conversation":
            self._add(at, device, action, {"conversation": conversation, **self._settings(number)})
            for other in (device, *self._others(device)):  # a race
                if random.chance(0.3):
                    settings = self._settings(number + 100)
                    self._add(self._soon(at), other, action, {"conversation": conversation, **settings})
        elif action == "read_count":
            self._add(at, device, action, {"conversation": conversation, "seq": random.whole(1, 6)})
        elif action == "history":
            first = random.whole(1, 12)
            last = first + random.whole(-1, 8)
            self._add(at, device, action, {"conversation": conversation, "first": first, "last": last})
        elif action == "end_session":
            others = self._others(device)
            self._add(at, device, action, {"other": random.pick(others or [device]).split("/")[1]})
        elif action == "create_group":
            name = random.pick(GROUPS)
            members = self._groups.get(name) if random.chance(0.5) else random.some(self._users, 2)
            data = {} if random.chance(0.5) else self._group_settings()
            self._add(at, device, action, {"name": name, "members": members or [user], "data": data})
        elif action in ("change", "befriend", "block", "amend", "news"):
            self._change(f"{device}-{number}", at, action, device, (scene, to))
        elif action in ("enter", "leave_room"):
            recent = {"recent": random.pick((0, 0, 3))} if action == "enter" else {}
            self._add(at, device, action, {"name": random.pick(ROOMS), **recent})
        elif action == "say":
            room = random.pick(ROOMS)
            for letter in "abcd"[: random.pick((1, 2, 4))]:
                sent = message(random, Scene.CHATROOM, room, f"{device}-{number}{letter}", self._limit)
                self._add(at, device, "send", sent)
                if random.chance(0.1) and self._others(device):
                    other = random.pick(self._others(device))
                    self._add(self._later(at), other, "send", {**sent, "content": f"not {sent['content']}"})
            if random.chance(0.3):
                event = random.pick(("recall", "recall", "edit"))
                wish = {"scene": "chatroom", "to": room, "id": f"{device}-{number}z", "event": event}
                about = {
                    "own": random.chance(0.8),
                    "back": random.whole(1, 3),
                    "content": f"edited by {device}-{number}z",
                }
                amended = self._later(at)
                self._add(amended, device, "amend", {**wish, **about})
                self._add(self._later(amended), random.pick(self._devices), "enter", {"name": room, "recent": 3})
        elif action == "typing":
            self._add(at, device, action, {"conversation": conversation})
        else:
            self._add(at, device, action, {})

    def _group_settings(self) -> dict[str, Any]:
        return {"join": self._dice.pick(("open", "approval", "invite")), "consent": self._dice.chance(0.4)}

    def _send_away_for_a_while(self, name: str, founder: str, user: str) -> None:
        """And amend meanwhile what the user has seen: by chance alone that is scenes."""
        random, where, id = self._dice, {"scene": "group", "to": name}, f"{name}-away"
        at, event = random.between(EARLIEST, self._duration / 2), random.pick(("recall", "edit"))
        said = {**where, "id": id, "content": "before", "type": "text"}
        gone, back = (
            {**where, "id": f"{id}-{event}", "event": event, "targets": [user]} for event in ("kick", "invite")
        )
        amended = {**where, "id": f"{id}-amend", "event": event, "own": True, "back": 2, "content": "meanwhile"}
        for action, arguments in (("send", said), ("change", gone), ("amend", amended), ("change", back)):
            self._add(at, founder, action, arguments)
            at = round(at + random.between(0.2, 2), 6)

    def _befriend(self) -> None:
        """Those who write to each other ask each other early on."""
        random = self._dice
        for user in self._users:
            other = next(to for scene, to in self._targets[user] if scene == Scene.P2P)
            mine, theirs = ([d for d in self._devices if d.split("/")[0] == one] for one in (user, other))
            at = random.between(0.3, 2)
            for device, event, later in ((mine[0], "friend_request", 0.0), (theirs[-1], "friend_accept", 2.0)):
                to = other if device is mine[0] else user
                wish = {"scene": "p2p", "to": to, "id": f"{event}-{user}-{other}", "event": event}
                self._add(round(at + later * random.between(0.2, 1), 6), device, "change", wish)

    def _change(self, id: str, at: float, action: str, device: str, to: tuple[Scene, str]) -> None:
        random, user = self._dice, device.split("/")[0]
        if action == "amend":
            event = random.pick(("recall", "recall", "edit"))
            wish = {"scene": str(to[0]), "to": to[1], "id": id, "event": event, "own": random.chance(0.7)}
            back = random.whole(1, 4)
            self._add(at, device, action, {**wish, "back": back, "content": f"edited by {id}"})
            if event == "edit" and random.chance(0.5):  # and think better of it; one's own latest is the edit by then
                back += int(bool(wish["own"]))
                recall = {**wish, "id": f"{id}r", "event": "recall", "back": back, "content": ""}
                self._add(self._later(at), device, action, recall)
        elif action == "news":
            other = random.pick(self._users)
            sent = {"scene": "system", "to": other, "id": id, "content": "", "type": "custom", "custom": f"news {id}"}
            self._add(at, device, "send", sent)
        elif action == "block":
            other = random.pick(self._users)
            arguments = {"conversation": conversation_id(Scene.P2P, user, other), "blocked": random.chance(0.6)}
            self._add(at, device, "set_conversation", arguments)
        elif action == "befriend":
            event = random.pick(("friend_request", "friend_request", "friend_accept", "friend_reject", "friend_delete"))
            other = next(to for scene, to in self._targets[user] if scene == Scene.P2P)
            self._add(at, device, "change", {"scene": "p2p", "to": other, "id": id, "event": event})
            if random.chance(0.5):
                theirs = [d for d in self._devices if d.split("/")[0] == other]
                for number, device in enumerate(random.some(theirs, 2)):
                    wish = {"scene": "p2p", "to": user, "id": f"{id}{number}"}
                    answer = random.pick(("friend_accept", "friend_reject"))
                    self._add(self._later(at), device, "change", {**wish, "event": answer})
        else:
            self._change_group(id, at, device)

    def _change_group(self, id: str, at: float, device: str) -> None:
        """Anything by anybody; or one asks, and several answer."""
        random, name = self._dice, self._dice.pick(GROUPS)
        event = random.pick(_CHANGES)
        targets = random.some(self._users, random.whole(1, 2)) if event in _AIMED and random.chance(0.9) else []
        data: dict[str, Any] = {}
        if event == "configure":
            data = self._group_settings()
        elif event == "role":
            data = {"role": random.pick(("admin", "member"))}
        wish = {"scene": "group", "to": name, "id": id, "event": event, "targets": targets, "data": data}
        self._add(at, device, "change", wish)
        if event == "mute":  # who then has something to say
            for other in random.some(self._devices, 2):
                self._add(
                    self._later(at), other, "send", message(random, Scene.GROUP, name, f"{other}-{id}", self._limit)
                )
        if event == "dismiss" and random.chance(0.7):
            made = {"scene": "group", "to": name, "id": f"{id}again", "event": "create"}
            self._add(self._later(at), random.pick(self._devices), "change", made)
        if event in ("leave", "kick") and random.chance(0.7):
            # And comes back, one way or another.
            other = random.pick(self._devices)
            for number, (again, by) in enumerate((("join", device), ("invite", other))):
                back = {"scene": "group", "to": name, "id": f"{id}back{number}", "event": again, "targets": targets}
                if event == "leave":
                    back["targets"] = [device.split("/")[0]]
                elif again == "join":
                    continue
                self._add(self._later(self._later(at)), by, "change", back)
        answering: list[tuple[str, list[str]]] = []
        if event == "apply":
            answering = [(other, [device.split("/")[0]]) for other in random.some(self._devices, 3)]
        elif event == "invite":
            answering += [(other, []) for other in self._devices if other.split("/")[0] in targets][:3]
        for number, (other, about) in enumerate(answering):
            answer = random.pick(("accept", "accept", "reject"))
            wish = {"scene": "group", "to": name, "id": f"{id}{number}", "event": answer, "targets": about}
            self._add(self._later(at), other, "change", wish)

    def _later(self, at: float) -> float:
        return min(self._duration, round(at + self._dice.around(0.05, 3), 6))

    def _twin(self, at: float, device: str) -> None:
        random = self._dice
        twins = [step for step in self._sent if step.device in self._others(device)]
        if twins:
            twin = random.pick(twins)
            arguments = dict(twin.arguments)
            if random.chance(CONFLICTS):
                field = random.pick(("content", "content", "custom"))
                arguments[field] = f"{arguments.get(field, '')} changed"
            race = round(twin.time + random.between(0, 0.02), 6)
            self._add(race if random.chance(0.6) else at, device, "send", arguments)

    def _again(self, number: int, at: float, device: str) -> None:
        """An idClient of another device comes again, and no word that it is a repetition, amid what others say."""
        twins = [step for step in self._sent if step.device in self._others(device) and step.time < at]
        if twins:
            twin = dict(self._dice.pick(twins).arguments)
            scene, to = Scene(twin["scene"]), twin["to"]
            for letter in "uv":
                before = message(self._dice, scene, to, f"{device}-{number}{letter}", self._limit)
                self._add(at, device, "send", before)
            self._add(at, device, "send", twin)
            for other in self._devices:
                whom = (scene, device.split("/")[0] if scene == Scene.P2P else to)
                if whom in self._targets[other.split("/")[0]]:
                    said = message(self._dice, *whom, f"{other}-{number}w", self._limit)
                    self._add(at, other, "send", said)

    def _settings(self, number: int) -> dict[str, Any]:
        """One or two of a conversation's settings, other than they are or not."""
        random = self._dice
        settings: dict[str, Any] = {}
        for name in random.some(("pinned", "muted", "custom"), random.whole(1, 2)):
            if name == "custom":
                settings[name] = f"note {number}" + ("." * self._limit if random.chance(0.05) else "")
            else:
                settings[name] = random.chance(0.6)
        return settings
