"""Refresh the generated tables of the pages in docs/: `python -m docs.field_tables`.

A table is between two comments, `<!-- generated: NAME -->` and `<!-- end -->`. Its contents come from the models of
`imsim.scenario` and of the adapter `websocket`: types, defaults, bounds and descriptions. `tests/test_docs.py` fails if
a page is not current.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from imsim.core.frames import GATEWAY_OPS
from imsim.core.internal_frames import ROUTER_OPS
from imsim.core.storage import STORAGE_OPS
from imsim.load.adapters.described import description
from imsim.scenario import Scenario, arrivals, distributions
from imsim.scenario.sections import PROFILES, faults, network, people, policies, topology
from imsim.scenario.sections.cost import Cost

DOCS = Path(__file__).parent

#: The units of numbers that are neither counts nor shares; a field whose name ends in _bytes needs no entry.
UNITS = {
    "Conversations.churn": "per second and group",
    "Conversations.friend_requests": "per second and user",
    "Workload.rate": "messages per second and user",
    "Workload.size": "bytes",
    "Workload.sizes": "bytes",
    "Link.bandwidth": "bytes/s",
    "ClientLink.bandwidth": "bytes/s",
    "ClientLink.upload": "bytes/s",
    "Limits.user_rate": "per second",
    "Limits.group_rate": "per second",
    "Limits.room_rate": "per second",
    "Limits.typing_rate": "per second",
    "Limits.presence_rate": "per second",
    "Cost.gateway": "per hour",
    "Cost.router": "per hour",
    "Cost.storage": "per hour",
    "Cost.worker": "per hour",
    "Cost.stored_million": "per 1e6 rows",
    "Cost.stored_gb": "per 1e9 bytes",
    "Cost.delivered_gb": "per 1e9 bytes",
    "Cost.stored_gb_month": "per 1e9 bytes and month",
    "Cost.retention_days": "days",
    "Empirical.percentiles": "%, value",
}

#: Values of fields that have no default, to make an instance whose other values are the defaults.
_REQUIRED: dict[type[BaseModel], dict[str, object]] = {
    people.Sessions: {"online": 1, "offline": 1},
    network.Link: {"latency": 0},
    faults.NodeCrash: {"at": 0, "target": "router0"},
    faults.Partition: {"at": 0, "target": "gateway0", "other": "router0"},
    faults.LossBurst: {"at": 0},
    faults.StorageStall: {"at": 0},
    faults.SlowReader: {"at": 0},
    faults.MassReconnect: {"at": 0},
    arrivals.Bursts: {"factor": 2, "every": 2, "lasting": 1},
    arrivals.Curve: {"points": [[0, 1]]},
    arrivals.Ramp: {"start": 0, "end": 1, "over": 1},
    arrivals.Replay: {"at": [0]},
    distributions.Constant: {"value": 0},
    distributions.Uniform: {"low": 0, "high": 1},
    distributions.Exponential: {"mean": 1},
    distributions.Lognormal: {"median": 1, "p99": 2},
    distributions.Pareto: {"minimum": 1, "alpha": 2},
    distributions.Empirical: {"values": [0]},
}

_SECTIONS = ("population", "conversations", "workload", "network", "topology", "faults", "policies", "limits", "cost")


def fields(model: type[BaseModel], *, left_out: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> str:
    """Return the table of a model's fields."""
    chosen = [name for name in (only or model.model_fields) if name not in (*left_out, "kind")]
    return table(["field", "type", "default", "allowed", "meaning"], [row(model, name) for name in chosen])


def kinds(models: tuple[type[BaseModel], ...], *, common: tuple[str, ...] = ()) -> str:
    """Return one table of the fields of several kinds of a thing. `common` names fields that all of them have."""
    rows = [["every kind", *row(models[0], name)] for name in common]
    for model in models:
        kind = f"`{model.model_fields['kind'].default}`"
        rows.append([kind, "", "", "", "", _first_paragraph(model)])
        rows += [["", *row(model, name)] for name in model.model_fields if name not in ("kind", *common)]
    return table(["kind", "field", "type", "default", "allowed", "meaning"], rows)


def _first_paragraph(model: type[BaseModel]) -> str:
    return _text(" ".join(inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].split()))


def row(model: type[BaseModel], name: str) -> list[str]:
    info = model.model_fields[name]
    if not info.description:
        raise ValueError(f"{model.__name__}.{name}: needs a description: Field(description=...)")
    kind = _type(_annotation(info))
    if (unit := _unit(model, name)) is not None:
        kind += f", {unit}"
    return [f"`{name}`", kind, _default(model, name), _allowed(info), _text(info.description or "")]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _unit(model: type[BaseModel], name: str) -> str | None:
    if name.endswith("_bytes"):
        return "bytes"
    for base in model.__mro__:
        if (unit := UNITS.get(f"{base.__name__}.{name}")) is not None:
            return unit
    return None


def _text(description: str) -> str:
    """Return a description as a cell. The column of types says what a duration is."""
    text = re.sub(r"[,;] seconds or a duration(?: such as '10ns')?(?=$|[.;])", "", description)
    return text.replace("|", "\\|").replace(" -> ", " → ")


def _flat(annotation: Any) -> Iterator[Any]:
    """Yield an annotation, and the parts of a union or of Annotated."""
    yield annotation
    if get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _flat(part)
    elif get_origin(annotation) is Annotated:
        yield from _flat(get_args(annotation)[0])


def _annotation(info: FieldInfo) -> Any:
    """Return the annotation as it was written: pydantic moves the metadata of Annotated to the field."""
    return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


def _validators(annotation: Any) -> set[str]:
    """Return the names of the functions that read a value of this type."""
    functions = (getattr(one, "func", one) for part in _flat(annotation) for one in getattr(part, "__metadata__", ()))
    return {getattr(function, "__name__", type(function).__name__) for function in functions}


def _type(annotation: Any) -> str:
    validators = _validators(annotation)
    if "_NamedOrCustom" in validators:
        return "number or distribution" if "_unitless" in validators else "duration or distribution"
    if "parse_duration" in validators:
        return "duration" if "format_duration" in validators else "duration or number"
    for part in _flat(annotation):
        if part is int:
            return "whole number"
        if part is float:
            return "number"
        if part is str or (isinstance(part, type) and issubclass(part, Enum)):
            return "text"
        if get_origin(part) is dict:
            return f"table of {_plural(_type(get_args(part)[1]))}"
        if get_origin(part) is list:
            return "list of tables"
        if get_origin(part) is tuple:
            return "list"
        if isinstance(part, type) and issubclass(part, BaseModel):
            return "table"
        if get_origin(part) is Callable:
            return "Python object"
    raise TypeError(f"no word for the type {annotation}")


def _plural(words: str) -> str:
    return " or ".join(f"{word}s" for word in words.split(" or "))


def _allowed(info: FieldInfo) -> str:
    for part in _flat(_annotation(info)):
        if isinstance(part, type) and issubclass(part, Enum):
            return ", ".join(f"`{member.value}`" for member in part)
        if get_origin(part) is Literal:
            return ", ".join(f"`{value}`" for value in get_args(part))
    low = high = ""
    for bound in _metadata(_annotation(info)):
        match bound:
            case Ge():
                low = f"≥ {_number(bound.ge)}"
            case Gt():
                low = f"> {_number(bound.gt)}"
            case Le():
                high = f"≤ {_number(bound.le)}"
            case Lt():
                high = f"< {_number(bound.lt)}"
    if low.startswith("≥") and high.startswith("≤"):
        return f"{low[2:]} to {high[2:]}"
    return ", ".join(filter(None, (low, high)))


def _metadata(annotation: Any) -> Iterator[Any]:
    for part in _flat(annotation):
        for one in getattr(part, "__metadata__", ()):
            yield from getattr(one, "metadata", [one])


def _number(value: Any) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _default(model: type[BaseModel], name: str) -> str:
    info = model.model_fields[name]
    if info.is_required():
        return "required"
    if isinstance(info.default, tuple):
        return f"`{list(info.default)}`"
    value = model(**_REQUIRED.get(model, {})).model_dump(mode="json")[name] if info.default is not None else None
    if value is None or info.exclude:
        return "absent" if value is None else f"`{value}`"
    if isinstance(value, dict) and isinstance(info.default, BaseModel) and "kind" not in value:
        return "see below"
    return f"`{_toml(value)}`"


def _toml(value: object) -> str:
    """Return a value as TOML writes it in one line."""
    if isinstance(value, dict):
        inner = ", ".join(f"{key} = {_toml(below)}" for key, below in value.items() if below is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


# --- the tables by name ---------------------------------------------------------------------------------------------


def _presets() -> str:
    return table(["preset", "question"], [[f"`{name}`", title] for name, title in Scenario.presets().items()])


def _networks() -> str:
    rows = []
    for name, link in PROFILES.items():
        dumped = link.model_dump(mode="json")
        jitter = dumped["jitter"]
        rows.append(
            [
                f"`{name}`",
                str(dumped["latency"]),
                f"{jitter['median']}, p99 {jitter['p99']}, at most {jitter['maximum']}",
                f"{link.bandwidth:,.0f}",
                f"{link.upload:,.0f}",
                f"{link.loss:g}",
                str(dumped["retransmit"]),
                "never" if link.max_retransmits is None else f"{link.max_retransmits} retransmissions",
            ]
        )
    head = ["network", "latency", "jitter: median", "bytes/s down", "bytes/s up", "loss", "retransmit", "breaks after"]
    return table(head, rows)


def _operations() -> str:
    ops = {
        "gateway": (GATEWAY_OPS, topology.GatewayTier.carriers),
        "router": (ROUTER_OPS, topology.RouterTier.carriers),
        "storage": (STORAGE_OPS | {"commit"}, topology.StorageTier.carriers),
    }
    rows = [
        [f"`{tier}`", ", ".join(f"`{op}`" for op in sorted(known)), ", ".join(f"`{op}`" for op in sorted(carriers))]
        for tier, (known, carriers) in ops.items()
    ]
    return table(["tier", "operations (`service`)", "of these, they carry messages (`per_byte`)"], rows)


#: The tables of a description, with their models. The fields of matchers that several tables share have own rows.
_DESCRIBED: dict[str, type[BaseModel]] = {
    "": description.Description,
    "connect": description.Connect,
    "connect.request": description.HttpRequest,
    "login": description.Login,
    "login.answer": description.Answer,
    "join.group`, `join.chatroom": description.Join,
    "send": description.Send,
    "delivered": description.Delivery,
    "failed": description.Failure,
    "read": description.Read,
    "reply": description.Reply,
    "keepalive": description.Keepalive,
    "socketio": description.SocketIO,
}
_MATCHERS: dict[str, type[BaseModel]] = {
    "all": description.Match,
    "`received`, `acked`, `failed`, `delivered`, `read.answer`, `reply`": description.ItemsMatch,
    "`received`, `acked`, `failed`, `read.answer`": description.MessageMatch,
    "`created`, `entered`, `refused` of a join": description.JoinMatch,
    "`refused` of a join and of `login`; `closed`": description.Refusal,
}


def _described(models: dict[str, type[BaseModel]]) -> str:
    rows = []
    for name, model in models.items():
        bases = {field for base in model.__mro__[1:] for field in getattr(base, "model_fields", ())}
        shown = [field for field in model.model_fields if field not in bases]
        first = [name if models is _MATCHERS else name and f"`{name}`"]
        for field in shown:
            info = model.model_fields[field]
            if _is_table(info) and model is description.Description:
                continue  # it has rows of its own
            rows.append(
                [*first, f"`{field}`", _described_type(info), _described_default(info), _text(info.description or "")]
            )
            first = [""]
    return table(["table", "key", "type", "default", "meaning"], rows)


def _described_default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    return "" if info.default is None or info.default in ([], {}) else f"`{_toml(info.default)}`"


def _is_table(info: FieldInfo) -> bool:
    return any(isinstance(one, type) and issubclass(one, BaseModel) for one in _with_arguments(info.annotation))


def _with_arguments(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _with_arguments(part)


def _described_type(info: FieldInfo) -> str:
    validators = _validators(_annotation(info))
    words = {"_document": "template", "_conditions": "conditions", "_path": "path", "_items_path": "path"}
    for validator, word in words.items():
        if validator in validators:
            return word
    if "parse_duration" in validators:
        return "duration"
    parts = list(_with_arguments(info.annotation))
    matches = [one for one in parts if isinstance(one, type) and issubclass(one, description.Match)]
    if matches:
        return "matcher"
    if _is_table(info):
        return "table or list of tables" if list in map(get_origin, parts) else "table"
    literals = [value for one in parts if get_origin(one) is Literal for value in get_args(one)]
    names = ", ".join(f"`{value}`" for value in literals)
    if list in map(get_origin, parts):
        return f"list of {names}" if literals else "list of numbers" if int in parts else "list of texts"
    if dict in map(get_origin, parts):
        return "table of paths" if "_path" in {n for one in parts for n in _validators(one)} else "table"
    return names or ("true or false" if bool in parts else "text")


_TIER = tuple(topology.Tier.model_fields)
_FAULTS = tuple(get_args(faults.Fault))
_DISTRIBUTIONS = (
    distributions.Constant,
    distributions.Uniform,
    distributions.Exponential,
    distributions.Lognormal,
    distributions.Pareto,
    distributions.Empirical,
)

TABLES: dict[str, Callable[[], str]] = {
    "presets": _presets,
    "networks": _networks,
    "operations": _operations,
    "scenario": lambda: fields(Scenario, left_out=("name", *_SECTIONS)),
    "sections": lambda: table(
        ["section", "contents"],
        [
            [f"`[{name}]`" if name != "faults" else "`[[faults]]`", Scenario.model_fields[name].description or ""]
            for name in _SECTIONS
        ],
    ),
    "population": lambda: fields(people.Population),
    "population.sessions": lambda: fields(people.Sessions),
    "conversations": lambda: fields(people.Conversations),
    "workload": lambda: fields(people.Workload),
    "arrivals": lambda: kinds(get_args(arrivals.Arrivals)),
    "distributions": lambda: kinds(_DISTRIBUTIONS),
    "network": lambda: fields(network.Network),
    "network.client": lambda: fields(network.ClientLink),
    "network.backend": lambda: fields(network.BackendLink),
    "topology": lambda: fields(topology.Topology),
    "topology.tier": lambda: fields(topology.Tier),
    "topology.gateway": lambda: fields(topology.GatewayTier, left_out=_TIER),
    "topology.storage": lambda: fields(topology.StorageTier, left_out=_TIER),
    "topology.storage.commit": lambda: fields(topology.Commit),
    "policies": lambda: fields(policies.Policies),
    "limits": lambda: fields(policies.Limits),
    "cost": lambda: fields(Cost),
    "faults": lambda: kinds(_FAULTS, common=("at",)),
    "description": lambda: _described(_DESCRIBED),
    "description.matchers": lambda: _described(_MATCHERS),
}

_GENERATED = re.compile(r"^<!-- generated: (.+?) -->\n.*?^<!-- end -->$", re.DOTALL | re.MULTILINE)


def refreshed(text: str) -> str:
    """Return a page with all of its generated tables made again."""
    return _GENERATED.sub(lambda found: f"<!-- generated: {found[1]} -->\n\n{TABLES[found[1]]()}\n\n<!-- end -->", text)


def main() -> None:
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := refreshed(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"refreshed {page.name}")


if __name__ == "__main__":
    main()
