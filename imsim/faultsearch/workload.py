"""Drawing the workload: the steps that users take with their devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from imsim.core.model import Scene, conversation_id
from imsim.faultsearch.case import EARLIEST, Step, user_of
from imsim.faultsearch.random import Random

GROUPS = ("team", "club")
ROOMS = ("hall", "bar")
CONFLICTS = 0.4  # the share of repeated idClients whose message has other content

# The kinds of drawn actions, with their weights. Most become one step of that name (see `app`), others become several.
# `burst` sends two messages at once. `twin` sends with an idClient that another device of the user has used; `again`
# does so much later, among other messages. `befriend`, `block`, `news` (a system message) and `say` (in a chatroom,
# entered or not) become changes, settings and sends.
_COMMON = {"send": 10.0, "burst": 3.0, "read": 8.0, "set_conversation": 4.0}
_RARE = {
    "twin": 1.5, "resend": 1.5, "tap": 0.5, "hide": 2.0, "read_count": 2.0, "history": 2.0,
    "create_group": 0.5, "end_session": 0.7, "leave": 1.0, "come": 2.0,
    "change": 7.0, "befriend": 2.0, "block": 0.7, "amend": 4.0, "news": 1.0, "enter": 2.0, "say": 3.0,
    "leave_room": 0.7, "typing": 0.3, "again": 1.0,
}  # fmt: skip

#: The drawn changes of groups. Frequent ones are listed several times.
_CHANGES = (
    "configure", "invite", "invite", "invite", "apply", "apply", "join", "join", "accept", "reject", "leave", "leave",
    "kick", "kick", "transfer", "transfer", "role", "role", "mute", "mute", "unmute", "unmute", "create", "dismiss",
    "dismiss", "resolve", "gossip",
)  # fmt: skip
# actions that can also be about the user's system log
_ABOUT = ("read", "hide", "set_conversation", "read_count", "history")
_AIMED = ("invite", "kick", "transfer", "role", "mute", "unmute", "create", "resolve")

# user -> the conversations that the user writes to, the frequent ones several times
Targets = dict[str, list[tuple[Scene, str]]]


def targets_of(random: Random, users: tuple[str, ...]) -> Targets:
    """Draw the conversations that each user writes to: few, so that users meet. Some users also write to themselves, or
    to a group of which they are not a member."""
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


#: Attachments by message type. "sticker" is a type that the core does not know, as from a newer client.
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
    if random.chance(0.04):  # as many bytes as allowed, which are more than the characters; or slightly more
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


@dataclass
class Workload:
    """The steps drawn so far. Later ones build on earlier ones."""

    random: Random
    users: tuple[str, ...]
    devices: tuple[str, ...]
    targets: Targets
    duration: float
    limit: int  # bytes of content
    steps: list[Step] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)  # name -> founding members
    _sent: list[Step] = field(default_factory=list)

    def draw(self) -> list[Step]:
        random = self.random
        self.groups = {
            name: random.some(self.users, random.whole(1, len(self.users))) for name in GROUPS[: random.whole(1, 2)]
        }
        founders = {name: self._found(name, members) for name, members in self.groups.items()}
        if random.chance(0.6):
            self._befriend()
        if random.chance(0.4):
            for device in self.devices:
                self._add(random.between(0.3, 4), device, "enter", name=ROOMS[0], recent=0)
        weights = {action: weight * random.around(0.3, 3) for action, weight in _COMMON.items()}
        weights |= {action: weight * random.around(0.3, 3) for action, weight in _RARE.items() if random.chance(0.7)}
        actions = [action for action, weight in weights.items() for _ in range(int(weight * 10))]
        at = EARLIEST
        for number in range(random.whole(20, 100)):
            if random.chance(0.5):
                at = random.between(EARLIEST, self.duration)
            else:
                at = min(self.duration, round(at + random.between(0, 0.3), 6))
            self._step(number, at, random.pick(actions), random.pick(self.devices))
        for name, members in self.groups.items():
            others = [user for user in members if user != user_of(founders[name])]
            if others and random.chance(0.3):
                self._remove_for_a_while(name, founders[name], random.pick(others))
        return sorted(self.steps, key=lambda step: step.time)

    # --- helpers ---

    def _add(self, at: float, device: str, action: str, **arguments: Any) -> Step:
        self.steps.append(Step(at, device, action, arguments))
        return self.steps[-1]

    def _say(self, at: float, device: str, scene: Scene, to: str, id_client: str) -> Step:
        return self._add(at, device, "send", **message(self.random, scene, to, id_client, self.limit))

    def _change(self, at: float, device: str, scene: Scene, to: str, id: str, event: str, **rest: Any) -> None:
        self._add(at, device, "change", scene=str(scene), to=to, id=id, event=event, **rest)

    def _devices_of(self, user: str) -> list[str]:
        return [device for device in self.devices if user_of(device) == user]

    def _others(self, device: str) -> list[str]:
        """Return the user's other devices."""
        return [other for other in self._devices_of(user_of(device)) if other != device]

    def _partner(self, user: str) -> str:
        return next(to for scene, to in self.targets[user] if scene == Scene.P2P)

    def _soon(self, at: float) -> float:
        return round(at + self.random.between(0, 0.05), 6)

    def _later(self, at: float) -> float:
        return min(self.duration, round(at + self.random.around(0.05, 3), 6))

    def _group_settings(self) -> dict[str, Any]:
        return {"join": self.random.pick(("open", "approval", "invite")), "consent": self.random.chance(0.4)}

    # --- groups and friends ---

    def _found(self, name: str, members: list[str]) -> str:
        """Create a group. Return the device that creates it."""
        random = self.random
        founder = random.pick([device for device in self.devices if user_of(device) in members])
        at = random.between(0.5, 3)
        self._add(at, founder, "create_group", name=name, members=members, data=self._group_settings())
        if random.chance(0.5):
            admin: dict[str, Any] = {"targets": members, "data": {"role": "admin"}}
            later = round(at + random.between(0, 2), 6)
            self._change(later, founder, Scene.GROUP, name, f"{name}-admins", "role", **admin)
        if random.chance(0.15):
            later = self._later(at)
            self._change(later, founder, Scene.GROUP, name, f"{name}-heir", "transfer", targets=members[-1:])
        return founder

    def _befriend(self) -> None:
        """Have users who write to each other become friends early."""
        for user in self.users:
            other, at = self._partner(user), self.random.between(0.3, 2)
            mine, theirs = self._devices_of(user)[0], self._devices_of(other)[-1]
            for device, to, event, later in (
                (mine, other, "friend_request", 0.0),
                (theirs, user, "friend_accept", 2.0),
            ):
                when = round(at + later * self.random.between(0.2, 1), 6)
                self._change(when, device, Scene.P2P, to, f"{event}-{user}-{other}", event)

    def _remove_for_a_while(self, name: str, founder: str, user: str) -> None:
        """Remove a member for a while, and amend meanwhile a message that the member has seen.

        Without this step it would seldom happen.
        """
        random, id = self.random, f"{name}-away"
        at, event = random.between(EARLIEST, self.duration / 2), random.pick(("recall", "edit"))
        doings: list[tuple[str, dict[str, Any]]] = [
            ("send", {"id": id, "content": "before", "type": "text"}),
            ("change", {"id": f"{id}-kick", "event": "kick", "targets": [user]}),
            ("amend", {"id": f"{id}-amend", "event": event, "own": True, "back": 2, "content": "meanwhile"}),
            ("change", {"id": f"{id}-invite", "event": "invite", "targets": [user]}),
        ]
        for action, arguments in doings:
            self._add(at, founder, action, scene="group", to=name, **arguments)
            at = round(at + random.between(0.2, 2), 6)

    # --- the drawn actions ---

    def _step(self, number: int, at: float, action: str, device: str) -> None:
        random, user, id = self.random, user_of(device), f"{device}-{number}"
        scene, to = random.pick(self.targets[user])
        conversation = conversation_id(scene, user, to)
        if action in _ABOUT and random.chance(0.12):
            conversation = conversation_id(Scene.SYSTEM, user, user)
        match action:
            case "send" | "burst":
                for part in "ab"[: 2 if action == "burst" else 1]:
                    self._sent.append(self._say(at, device, scene, to, f"{id}{part}"))
            case "twin":
                self._twin(at, device)
            case "again":
                self._again(id, at, device)
            case "read" | "hide":
                self._add(at, device, action, conversation=conversation)
                if random.chance(0.5):  # all devices at once: each sends its own mark
                    for other in self._others(device):
                        self._add(self._soon(at), other, action, conversation=conversation)
            case "set_conversation":
                self._add(at, device, action, conversation=conversation, **self._settings(number))
                for other in (device, *self._others(device)):  # a race between devices
                    if random.chance(0.3):
                        settings = self._settings(number + 100)
                        self._add(self._soon(at), other, action, conversation=conversation, **settings)
            case "read_count":
                self._add(at, device, action, conversation=conversation, seq=random.whole(1, 6))
            case "history":
                first = random.whole(1, 12)
                self._add(at, device, action, conversation=conversation, first=first, last=first + random.whole(-1, 8))
            case "end_session":
                self._add(at, device, action, other=random.pick(self._others(device) or [device]).split("/")[1])
            case "create_group":
                name = random.pick(GROUPS)
                members = self.groups.get(name) if random.chance(0.5) else random.some(self.users, 2)
                data = {} if random.chance(0.5) else self._group_settings()
                self._add(at, device, action, name=name, members=members or [user], data=data)
            case "change":
                self._change_group(id, at, device)
            case "befriend":
                self._ask_to_be_friends(id, at, device)
            case "block":
                blocked = conversation_id(Scene.P2P, user, random.pick(self.users))
                self._add(at, device, "set_conversation", conversation=blocked, blocked=random.chance(0.6))
            case "amend":
                self._amend(id, at, device, scene, to)
            case "news":
                other, said = random.pick(self.users), {"content": "", "type": "custom", "custom": f"news {id}"}
                self._add(at, device, "send", scene="system", to=other, id=id, **said)
            case "enter" | "leave_room":
                recent = {"recent": random.pick((0, 0, 3))} if action == "enter" else {}
                self._add(at, device, action, name=random.pick(ROOMS), **recent)
            case "say":
                self._say_in_room(id, at, device)
            case "typing":
                self._add(at, device, action, conversation=conversation)
            case _:
                self._add(at, device, action)

    def _say_in_room(self, id: str, at: float, device: str) -> None:
        random, room = self.random, self.random.pick(ROOMS)
        for letter in "abcd"[: random.pick((1, 2, 4))]:
            said = self._say(at, device, Scene.CHATROOM, room, f"{id}{letter}").arguments
            if random.chance(0.1) and self._others(device):
                other = random.pick(self._others(device))
                self._add(self._later(at), other, "send", **{**said, "content": f"not {said['content']}"})
        if random.chance(0.3):
            event, id = random.pick(("recall", "recall", "edit")), f"{id}z"
            about = {"own": random.chance(0.8), "back": random.whole(1, 3), "content": f"edited by {id}"}
            amended = self._later(at)
            self._add(amended, device, "amend", scene="chatroom", to=room, id=id, event=event, **about)
            self._add(self._later(amended), random.pick(self.devices), "enter", name=room, recent=3)

    def _amend(self, id: str, at: float, device: str, scene: Scene, to: str) -> None:
        random = self.random
        event = random.pick(("recall", "recall", "edit"))
        wish = {"scene": str(scene), "to": to, "id": id, "event": event, "own": random.chance(0.7)}
        back = random.whole(1, 4)
        self._add(at, device, "amend", **wish, back=back, content=f"edited by {id}")
        # and then recall it; the device's latest message is the edit at that time
        if event == "edit" and random.chance(0.5):
            wish |= {"id": f"{id}r", "event": "recall"}
            self._add(self._later(at), device, "amend", **wish, back=back + int(bool(wish["own"])), content="")

    def _ask_to_be_friends(self, id: str, at: float, device: str) -> None:
        random, user = self.random, user_of(device)
        event = random.pick(("friend_request", "friend_request", "friend_accept", "friend_reject", "friend_delete"))
        other = self._partner(user)
        self._change(at, device, Scene.P2P, other, id, event)
        if random.chance(0.5):
            for number, theirs in enumerate(random.some(self._devices_of(other), 2)):
                answer = random.pick(("friend_accept", "friend_reject"))
                self._change(self._later(at), theirs, Scene.P2P, user, f"{id}{number}", answer)

    def _change_group(self, id: str, at: float, device: str) -> None:
        """Draw a change by any user; for an application or invitation, also several answers."""
        random, name, user = self.random, self.random.pick(GROUPS), user_of(device)
        event = random.pick(_CHANGES)
        targets = random.some(self.users, random.whole(1, 2)) if event in _AIMED and random.chance(0.9) else []
        data: dict[str, Any] = {}
        if event == "configure":
            data = self._group_settings()
        elif event == "role":
            data = {"role": random.pick(("admin", "member"))}
        self._change(at, device, Scene.GROUP, name, id, event, targets=targets, data=data)
        if event == "mute":  # others then try to speak
            for other in random.some(self.devices, 2):
                self._say(self._later(at), other, Scene.GROUP, name, f"{other}-{id}")
        if event == "dismiss" and random.chance(0.7):
            self._change(self._later(at), random.pick(self.devices), Scene.GROUP, name, f"{id}again", "create")
        if event in ("leave", "kick") and random.chance(0.7):  # and join again, in one way or another
            other = random.pick(self.devices)
            if event == "leave":
                self._rejoin(at, device, name, f"{id}back0", "join", [user])
            self._rejoin(at, other, name, f"{id}back1", "invite", [user] if event == "leave" else targets)
        answering: list[tuple[str, list[str]]] = []
        if event == "apply":
            answering = [(other, [user]) for other in random.some(self.devices, 3)]
        elif event == "invite":
            answering += [(other, []) for other in self.devices if user_of(other) in targets][:3]
        for number, (other, about) in enumerate(answering):
            answer = random.pick(("accept", "accept", "reject"))
            self._change(self._later(at), other, Scene.GROUP, name, f"{id}{number}", answer, targets=about)

    def _rejoin(self, at: float, device: str, name: str, id: str, event: str, targets: list[str]) -> None:
        self._change(self._later(self._later(at)), device, Scene.GROUP, name, id, event, targets=targets)

    def _twin(self, at: float, device: str) -> None:
        random = self.random
        twins = [step for step in self._sent if step.device in self._others(device)]
        if twins:
            twin = random.pick(twins)
            arguments = dict(twin.arguments)
            if random.chance(CONFLICTS):
                field = random.pick(("content", "content", "custom"))
                arguments[field] = f"{arguments.get(field, '')} changed"
            race = round(twin.time + random.between(0, 0.02), 6)
            self._add(race if random.chance(0.6) else at, device, "send", **arguments)

    def _again(self, id: str, at: float, device: str) -> None:
        """Send an idClient of another device again, without the mark of a repetition, among messages of other
        devices."""
        twins = [step for step in self._sent if step.device in self._others(device) and step.time < at]
        if twins:
            twin = self.random.pick(twins).arguments
            scene, to = Scene(twin["scene"]), twin["to"]
            for letter in "uv":
                self._say(at, device, scene, to, f"{id}{letter}")
            self._add(at, device, "send", **twin)
            number = id.removeprefix(f"{device}-")
            for other in self.devices:
                whom = user_of(device) if scene == Scene.P2P else to
                if (scene, whom) in self.targets[user_of(other)]:
                    self._say(at, other, scene, whom, f"{other}-{number}w")

    def _settings(self, number: int) -> dict[str, Any]:
        """Draw one or two settings of a conversation, which may equal the present ones."""
        random = self.random
        settings: dict[str, Any] = {}
        for name in random.some(("pinned", "muted", "custom"), random.whole(1, 2)):
            if name == "custom":
                settings[name] = f"note {number}" + ("." * self.limit if random.chance(0.05) else "")
            else:
                settings[name] = random.chance(0.6)
        return settings
