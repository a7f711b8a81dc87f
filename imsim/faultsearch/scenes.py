"""Scenes: short scripts for situations that random workloads rarely produce. The data is in `scenes.json`.

Scenes have their own random stream and are added to the workload and the faults, which stay as they are. A scene only
makes its situation likely: other events of the run may prevent it.

A scene has these fields:

- `about`: what happens in it. `probability`: the share of seeds that play it.
- `needs`: "faults" or "two gateways"; without them it is left out.
- `cast`: "two users" (`one` and `other`); "rivals" (the devices `first` and `second` of user `one`, only one of which
    may be logged in, and user `other`); or "everybody".
- `group`: a group that `one` creates for the scene; or `room`: a chatroom.
- `steps`: the steps, played in order.

Names stand for values: those of the cast, `devices`, `users`, `gateways`, `second_gateways`, `routers`, and those that
a step defines. The forms of a step:

    {"let": {NAME: VALUE}}                                     define names
    {"begin": {"after": SECONDS, "within": SHARE, "left": SECONDS}}    draw the start; SHARE: of the duration
    {"by": WHO, "do": ACTION, "in": PLACE, "with": ARGUMENTS}  a step of one device, or of all devices of a user
    {"fault": KIND, "on": WHO, "with": ARGUMENTS}              a fault
    {"repeat": TIMES, "steps": STEPS}, {"each": NAME, "of": VALUES, "steps": STEPS}
    {"chance": PROBABILITY, "then": STEPS, "else": STEPS}, {"pick": [STEPS, STEPS]}, {"shuffle": STEPS}

Time: a wait follows each step of a device; `wait` gives its length. `pause` is a wait before a step. `mark` marks the
present time, and `since` moves to that many seconds after the mark. These fields may also stand alone. PLACE is
"group", "room", "p2p" (with the other of the two users) or "system" (the system log of `one`).

A value is "$name", a text with "{name}" in it, or drawn: {"between": [LOW, HIGH]}, {"around": [LOW, HIGH]}, {"pick":
[...]}, {"some": [VALUES, NUMBER]}, {"device_of": USER}; or computed: {"devices_of": USER}, {"user_of": DEVICE},
{"times": [A, B]}. "$new_id" is a new idClient each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from math import prod
from typing import Any, Literal

from pydantic import Field, field_validator

from imsim.core import model
from imsim.core.exceptions import UsageError
from imsim.faultsearch.case import Step, user_of
from imsim.faultsearch.case_file import ARGUMENTS, validated
from imsim.faultsearch.faults import KINDS, Fault
from imsim.faultsearch.random import Random
from imsim.scenario.errors import FieldError, suggestion
from imsim.scenario.sections import Section

_USUAL_WAIT = {"between": [0.4, 1.2]}
_GROUP = {"name": "$group", "members": ["$one", "$other"], "data": {"join": "open", "consent": False}}
_MAKE_GROUP: list[dict[str, Any]] = [
    {"begin": {"after": 0.3, "within": 0.7}},
    {"by": "one", "do": "create_group", "with": _GROUP},
]

#: The default arguments of an action. A scene may override them.
_USUAL: dict[str, dict[str, Any]] = {
    "send": {"content": "so", "type": "text"},
    "change": {"event": "", "targets": [], "data": {}},
    "amend": {"event": "", "own": True, "back": 1, "content": "better"},
}
_TIMES = {"since", "pause", "wait", "mark"}
#: The further fields that each kind of step may have.
_FORMS: dict[str, set[str]] = {
    "do": {"by", "in", "with", *_TIMES},
    "fault": {"on", "with", *_TIMES},
    "let": set(),
    "begin": set(),
    "repeat": {"steps"},
    "each": {"of", "steps"},
    "chance": {"then", "else"},
    "pick": set(),
    "shuffle": set(),
}


class Scene(Section):
    """A scene as in the file."""

    about: str
    probability: float = Field(ge=0, le=1)
    needs: list[Literal["faults", "two gateways"]] = Field(default_factory=list)
    cast: Literal["two users", "rivals", "everybody"] = "two users"
    group: str = ""
    room: str = ""
    steps: list[dict[str, Any]]

    @field_validator("steps")
    @classmethod
    def _steps(cls, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for where, step in _all_of(steps, ""):
            kind = next((kind for kind in _FORMS if kind in step), None)
            allowed = {kind, *_FORMS[kind]} if kind else _TIMES
            for name in step:
                if name not in allowed:
                    raise FieldError(where, f"unknown field {name!r}{suggestion(name, _FORMS)}")
            for kind, known in (("do", ARGUMENTS), ("fault", KINDS)):
                if kind in step and step[kind] not in known:
                    raise FieldError(where, f"unknown {kind} {step[kind]!r}{suggestion(step[kind], known)}")
        return steps


def _all_of(steps: Sequence[dict[str, Any]], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each step and its inner steps, with the path of each."""
    for number, step in enumerate(steps):
        yield f"{where}{number}", step
        for name in ("steps", "then", "else", "shuffle"):
            yield from _all_of(step.get(name, ()), f"{where}{number}.{name}.")
        for choice, alternative in enumerate(step.get("pick", ())):
            yield from _all_of(alternative, f"{where}{number}.pick.{choice}.")


def read(text: str) -> dict[str, Scene]:
    """Return the scenes of a file, by name.

    Raises: UsageError, one line that names the wrong field.
    """
    try:
        scenes = json.loads(text)
    except ValueError as error:
        raise UsageError(f"scenes: not JSON: {error}") from None
    return {name: validated(Scene, fields, f"scenes: {name}") for name, fields in scenes.items()}


@cache
def _scenes() -> dict[str, Scene]:
    return read(files("imsim.faultsearch").joinpath("scenes.json").read_text(encoding="utf-8"))


@dataclass
class Stage:
    """The stage on which scenes are played. It collects their `steps` and `faults`.

    `rivals`: pairs of devices of which only one may be logged in.
    """

    random: Random
    devices: tuple[str, ...]
    gateways: list[str]
    routers: list[str]
    duration: float
    rivals: Sequence[tuple[str, str]] = ()
    steps: list[Step] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    _names: dict[str, Any] = field(default_factory=dict)
    _at: float = 0.0
    _mark: float = 0.0
    _count: int = 0

    def play_some(self, *, with_faults: bool) -> None:
        """Play each scene with its probability. Without faults, the scenes that need faults are left out."""
        there = {"faults": with_faults, "two gateways": len(self.gateways) > 1}
        for name, scene in _scenes().items():
            if all(there[need] for need in scene.needs) and self.random.chance(scene.probability):
                try:
                    self.play(scene)
                except (LookupError, TypeError, ValueError) as error:
                    raise UsageError(f"scenes: {name}: {type(error).__name__}: {error}") from error

    def play(self, scene: Scene) -> None:
        users = sorted({user_of(device) for device in self.devices})
        self._names = {"devices": self.devices, "users": users, "gateways": self.gateways, "routers": self.routers}
        self._names["second_gateways"] = self.gateways[1:]
        if scene.cast == "rivals":
            if not self.rivals:
                return
            self._names["first"], self._names["second"] = self.random.pick(self.rivals)
            one = user_of(self._names["first"])
        elif scene.cast == "two users":
            one = self.random.pick(users)
        if scene.cast != "everybody":
            self._names |= {"one": one, "other": self.random.pick([user for user in users if user != one])}
        if scene.room:
            self._names["room"] = scene.room
        if scene.group:
            self._names["group"] = scene.group
            self._play(_MAKE_GROUP)
        self._play(scene.steps)

    # --- steps ---

    def _play(self, steps: Sequence[Mapping[str, Any]]) -> None:
        for step in steps:
            match step:
                case {"let": values}:
                    for name, value in values.items():
                        self._names[name] = self._value(value)
                case {"begin": between}:
                    self._begin(**between)
                case {"repeat": times, "steps": inner}:
                    for _ in range(times):
                        self._play(inner)
                case {"each": name, "of": values, "steps": inner}:
                    for value in self._value(values):
                        self._names[name] = value
                        self._play(inner)
                case {"chance": probability, "then": inner}:
                    self._play(inner if self.random.chance(probability) else step.get("else", ()))
                case {"pick": alternatives}:
                    self._play(self.random.pick(alternatives))
                case {"shuffle": inner}:
                    self._play(sorted(inner, key=lambda _: self.random.between(0, 1)))
                case _:
                    self._play_at_its_time(step)

    def _begin(self, after: float, within: float = 1.0, left: float = 0.0) -> None:
        self._at = self._mark = self.random.between(after, within * self.duration - left)

    def _play_at_its_time(self, step: Mapping[str, Any]) -> None:
        if "since" in step:
            self._at = self._mark
        self._wait(step.get("since", step.get("pause", 0)))
        if "do" in step:
            self._add_step(step["do"], self._named(step["by"]), step.get("in"), step.get("with", {}))
        elif "fault" in step:
            self._add_faults(step["fault"], step["on"], step.get("with", {}))
        self._wait(step.get("wait", _USUAL_WAIT if "do" in step else 0))
        if "mark" in step:
            self._mark = self._at

    def _wait(self, seconds: Any) -> None:
        self._at = round(self._at + self._value(seconds), 6)

    def _add_step(self, action: str, who: str, place: str | None, given: Mapping[str, Any]) -> None:
        """Add a step of each device of a user, as some may be offline. With one idClient it is one message
        nevertheless."""
        devices = self._devices_of(who)
        about = self._about(ARGUMENTS[action], place, user_of(devices[0]))
        arguments = self._value({**about, **_USUAL.get(action, {}), **given})
        at = min(self._at, self.duration)
        self.steps += [Step(at, device, action, arguments) for device in devices]

    def _about(self, arguments: Mapping[str, Any], place: str | None, user: str) -> dict[str, Any]:
        """Return the arguments that name the conversation or room of an action in that place."""
        if place is None:
            place = next((place for place in ("group", "room") if place in self._names), "p2p")
        if place == "room" and "name" in arguments:
            return {"name": self._names["room"]}
        if place == "p2p":
            scene, to = model.Scene.P2P, self._names["other" if user == self._names["one"] else "one"]
        elif place == "system":
            scene, to = model.Scene.SYSTEM, self._names["one"]
        else:
            scene, to = model.Scene.GROUP if place == "group" else model.Scene.CHATROOM, self._names[place]
        if "scene" in arguments:
            return {"scene": str(scene), "to": to, "id": "$new_id"}
        return {"conversation": model.conversation_id(scene, user, to)} if "conversation" in arguments else {}

    def _add_faults(self, kind: str, target: Any, given: Mapping[str, Any]) -> None:
        """Add a fault on each of the targets, or on each device of a user."""
        arguments = self._value(given)
        target = self._named(target)
        if isinstance(target, str):
            target = self._devices_of(target) if KINDS[kind].where == "device" else [target]
        self.faults += [Fault(self._at, kind, one, arguments) for one in target]

    # --- values ---

    def _named(self, value: Any) -> Any:
        """Resolve the value of `by` or `on`, where a name needs no "$"."""
        return self._names.get(value, value) if isinstance(value, str) else self._value(value)

    def _devices_of(self, who: str) -> list[str]:
        return [who] if "/" in who else [device for device in self.devices if user_of(device) == who]

    def _value(self, value: Any) -> Any:
        match value:
            case "$new_id":
                self._count += 1
                return f"rare-{self._count}"
            case str():
                return self._names[value[1:]] if value.startswith("$") else value.format_map(self._names)
            case list():
                return [self._value(one) for one in value]
            case dict() if len(value) == 1 and (make := _MADE.get(next(iter(value)))):
                return make(self, self._value(*value.values()))
            case dict():
                return {name: self._value(one) for name, one in value.items()}
            case _:
                return value


_MADE: dict[str, Callable[[Stage, Any], Any]] = {
    "between": lambda stage, ends: stage.random.between(*ends),
    "around": lambda stage, ends: stage.random.around(*ends),
    "pick": lambda stage, choices: stage.random.pick(choices),
    "some": lambda stage, some: stage.random.some(*some),
    "device_of": lambda stage, user: stage.random.pick(stage._devices_of(user)),
    "devices_of": lambda stage, user: stage._devices_of(user),
    "user_of": lambda stage, device: user_of(device),
    "times": lambda stage, factors: prod(factors),
}
