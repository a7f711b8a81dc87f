"""Reading and writing a case as JSON, with defaults for optional fields and checks of all of them.

Mistakes are reported before anything runs. Otherwise, a step that names an unknown device would look like a bug of the
core.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, create_model

from imsim import disk
from imsim.core.attachments import check_attachment
from imsim.core.exceptions import BadAttachment, UsageError
from imsim.core.model import LONGEST_ID_CLIENT, Scene, check_name
from imsim.core.policies import Policies
from imsim.faultsearch.case import PROBE, Case, Step, user_of
from imsim.faultsearch.faults import KINDS, Fault
from imsim.scenario.errors import explain, suggestion
from imsim.scenario.sections import Limits, Section
from imsim.scenario.sections import Policies as PoliciesSection

S = TypeVar("S", bound=Section)

#: Seconds after the end of a case until which steps and faults may start. Some follow from earlier ones.
_LEEWAY = 10.0

_Required: Any = Field(default=...)
_TEXT = (str, _Required)
_NAMES: Any = (list[str], [])
_SCENE = (Literal["p2p", "group", "system", "chatroom"], _Required)
_ID = (str, Field(min_length=1, max_length=LONGEST_ID_CLIENT))
_WHERE = {"scene": _SCENE, "to": _TEXT, "id": _ID}
_CONVERSATION = {"conversation": _TEXT}
_YES = (bool, False)

#: action -> its arguments: the type of each, and its default unless it is required.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "send": {
        **_WHERE,
        "content": _TEXT,
        "type": _TEXT,
        "file": (dict[str, Any] | None, None),
        "custom": (str | None, None),
    },
    "resend": {},
    "tap": {},
    "read": _CONVERSATION,
    "set_conversation": {**_CONVERSATION, "pinned": _YES, "muted": _YES, "blocked": _YES, "custom": (str, "")},
    "hide": _CONVERSATION,
    "read_count": {**_CONVERSATION, "seq": (int, _Required)},
    "history": {**_CONVERSATION, "first": (int, _Required), "last": (int, _Required)},
    "group": {"name": _TEXT, "after": (str, "")},
    "friends": {"after": (str, "")},
    "create_group": {"name": _TEXT, "members": (list[str], _Required), "data": (dict[str, Any], {})},
    "change": {**_WHERE, "event": _TEXT, "targets": _NAMES, "data": (dict[str, Any], {})},
    "amend": {
        **_WHERE,
        "event": (Literal["recall", "edit"], _Required),
        "own": (bool, _Required),
        "back": (int, Field(ge=1)),
        "content": _TEXT,
    },
    "enter": {"name": _TEXT, "recent": (int, Field(ge=0))},
    "leave_room": {"name": _TEXT},
    "typing": _CONVERSATION,
    "end_session": {"other": _TEXT},
    "leave": {},
    "come": {},
}


class _Event(Section):
    time: float
    arguments: dict[str, Any] = Field(default_factory=dict)


class _Step(_Event):
    device: str
    action: str


class _Fault(_Event):
    kind: str
    target: str


_Seconds = Annotated[float, Field(gt=0)]


class _Case(Section):
    seed: int = Field(default=0, ge=0)
    users: list[str] = Field(default_factory=list)
    devices: list[str] = Field(min_length=1)
    kinds: list[str] = Field(default_factory=list)
    gateways: int = Field(default=1, ge=1)
    routers: int = Field(default=1, ge=1)
    policies: dict[str, Any] = Field(default_factory=dict)
    client_latency: _Seconds = 0.02
    backend_latency: _Seconds = 0.001
    storage_latency: _Seconds = 0.005
    duration: _Seconds
    steps: list[_Step]
    faults: list[_Fault]
    wall_skew: float = Field(default=0.0, ge=0)


def load(path: str | PathLike[str]) -> Case:
    """Return the case in a JSON file. The file holds the case itself, or an object with the case under "case".

    Raises: UsageError if the file cannot be read, is not JSON, or has a wrong field.
    """
    try:
        with disk.errors("read", path, name="case"):
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"case: {path} is not JSON: {error}") from None
    return read(fields["case"] if isinstance(fields, Mapping) and "case" in fields else fields)


def save(case: Case, path: str | PathLike[str]) -> None:
    """Write the case as JSON, with each step and each fault on its own line, so that it is easy to edit.

    Raises: UsageError or RunError if the file cannot be written.
    """
    lines = []
    for name, value in case.to_json().items():
        rows = ",\n".join(f"  {json.dumps(row)}" for row in value) if name in ("steps", "faults") and value else ""
        lines.append(f" {json.dumps(name)}: " + (f"[\n{rows}\n ]" if rows else json.dumps(value)))
    disk.write(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode(), name="case")


def read(fields: Any) -> Case:
    """Return the case that these fields, read from JSON, stand for.

    Raises: UsageError, one line that names the first wrong field and the expected value.
    """
    if not isinstance(fields, Mapping):
        raise UsageError("case: must be an object with devices, duration, steps and faults")
    written = validated(_Case, fields, "case")
    sections = written.model_dump(exclude={"users", "devices", "kinds", "policies", "steps", "faults"})
    case = Case(
        **sections,
        users=tuple(written.users or dict.fromkeys(user_of(device) for device in written.devices)),
        devices=tuple(written.devices),
        kinds=tuple(written.kinds or [""] * len(written.devices)),
        policies=_policies(written.policies),
        steps=tuple(Step(**step.model_dump()) for step in written.steps),
        faults=tuple(Fault(**fault.model_dump()) for fault in written.faults),
    )
    check(case)
    return case


def check(case: Case) -> None:
    """Check that every name in the case is known, and that nothing is missing.

    Raises: UsageError
    """
    for user in case.users:
        check_name("case: users", user)
        if "@" in user:  # the separator between user and time in a token
            raise UsageError(f"case: users: must be names without @ (got {user!r})")
    for number, device in enumerate(case.devices):
        user, _, name = device.partition("/")
        if user not in case.users or not name or "/" in name or name == PROBE or device in case.devices[:number]:
            wanted = f"must be USER/NAME, each once, with USER one of {', '.join(case.users)} and NAME not {PROBE}"
            raise UsageError(f"case: devices.{number}: {wanted} (got {device!r})")
        check_name(f"case: devices.{number}", name)
    if len(case.kinds) != len(case.devices):
        raise UsageError(f"case: kinds: must have one for each of {len(case.devices)} devices (got {len(case.kinds)})")
    gateways, routers = case.gateway_names, case.router_names
    targets = {
        "device": case.devices,
        "user": case.users,
        "gateway": gateways,
        "router": routers,
        "nodes": [*gateways, *routers],
        "storage": ["storage"],
        "any": [*case.devices, *gateways, *routers],
    }
    for number, step in enumerate(case.steps):
        _check_step(case, f"case: steps.{number}", step)
    for number, fault in enumerate(case.faults):
        _check_fault(case, targets, f"case: faults.{number}", fault)


def _check_fault(case: Case, targets: Mapping[str, Sequence[str]], where: str, fault: Fault) -> None:
    """Check one fault. `targets`: the valid targets, by the kind's `where`."""
    _on_time(case, where, fault.time)
    kind = KINDS[fault.kind]
    _one_of(f"{where}.target", f"target of {fault.kind}", fault.target, targets[kind.where])
    validated(_model_of_kind(fault.kind), fault.arguments, f"{where} ({fault.kind}): arguments")
    for other in fault.arguments.get("others", ()):
        _one_of(f"{where}.arguments.others", "node", other, targets["nodes"])


def _check_step(case: Case, where: str, step: Step) -> None:
    _on_time(case, where, step.time)
    _one_of(f"{where}.device", "device", step.device, case.devices)
    _one_of(f"{where}.action", "action", step.action, ARGUMENTS)
    where = f"{where} ({step.action}): arguments"
    validated(_model_of_action(step.action), step.arguments, where)
    _check_whom(case, where, step)


def _check_whom(case: Case, where: str, step: Step) -> None:
    """Check the users and names in the arguments. A client of a correct application sends no others."""
    arguments = step.arguments
    if arguments.get("scene") in (Scene.P2P, Scene.SYSTEM):
        _one_of(f"{where}: to", "user", arguments["to"], case.users)
    elif "to" in arguments:
        check_name(f"{where}: to", arguments["to"])
    if "name" in arguments:
        check_name(f"{where}: name", arguments["name"])
    for list_of_users in ("members", "targets"):
        for user in arguments.get(list_of_users, ()):
            _one_of(f"{where}: {list_of_users}", "user", user, case.users)
    if step.action == "send":
        file = arguments.get("file")
        if "event" in (file or {}):
            raise UsageError(f"{where}: file: must not have an event; use the action change or amend instead of send")
        try:
            check_attachment(arguments["type"], file)
        except BadAttachment as error:
            raise UsageError(f"{where}: {error}") from None


def _policies(fields: Mapping[str, Any]) -> Policies:
    """Return the policies with these fields and the usual defaults, checked as [policies] and [limits] of a
    scenario."""
    known = {name: section for section in (PoliciesSection, Limits) for name in section.model_fields}
    known = {name: section for name, section in known.items() if name in Policies.__dataclass_fields__}
    for name in fields:
        _one_of(f"case: policies.{name}", "policy", name, known)
    for section in (PoliciesSection, Limits):
        own = {name: value for name, value in fields.items() if known[name] is section}
        validated(section, own, "case: policies")
    return Policies(**fields)


def validated(model: type[S], fields: Any, where: str) -> S:
    """Return the fields as an instance of this model.

    Raises: UsageError, one line that names the wrong field, after `where`.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"{where}: {explain(error, model)[0]}") from None


def _on_time(case: Case, where: str, time: float) -> None:
    if not 0 <= time <= case.duration + _LEEWAY:
        raise UsageError(f"{where}.time: must be from 0 s to {case.duration + _LEEWAY:g} s (got {time:g})")


def _one_of(where: str, what: str, name: str, known: Any) -> None:
    if name not in known:
        raise UsageError(f"{where}: unknown {what} {name!r}{suggestion(name, known)}; known: {', '.join(known)}")


@cache
def _model_of_action(action: str) -> type[Section]:
    return create_model(action, __base__=Section, **ARGUMENTS[action])


@cache
def _model_of_kind(name: str) -> type[Section]:
    kind = KINDS[name]
    fields: dict[str, Any] = {argument: (of.type, of.field) for argument, of in kind.arguments.items()}
    if kind.where == "nodes":
        fields["others"] = (list[str], _Required)
    return create_model(name, __base__=Section, **fields)
