"""A description in the form that a session uses: compiled once, and shared by all devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from imsim.core.model import Scene
from imsim.load.adapters.described.paths import MISSING, Getter, getter
from imsim.load.adapters.described.templates import Template, Text, as_text
from imsim.load.adapters.interface import Request, Response

Names = Mapping[str, object]
Test = Callable[[Any, Names], bool]

_SHOWN = 200  # characters of a frame in a report


class Condition(NamedTuple):
    """A condition of a rule: the value at a place of the document, and its test."""

    get: Getter
    test: Test
    needs_value: bool  # False: a document without the value meets the condition


@dataclass(slots=True, eq=False)
class Rule:
    """A compiled matcher.

    act: what the session does with a frame that matches; the name of its method.
    step: the number of the step of the login, for its answers and refusals.
    scene: the kind of conversation, for joins and deliveries.
    where: conditions of each element of a list, or of the join that an answer is about.
    """

    act: str
    conditions: tuple[Condition, ...]
    each: Callable[[Any], Iterator[Any]] | None = None
    where: tuple[Condition, ...] = ()
    step: int = 0
    scene: Scene | None = None
    id: Getter | None = None
    n: Getter | None = None
    to: Getter | None = None
    to_of_frame: bool = False
    sender: Getter | None = None
    sender_of_frame: bool = False
    text: Getter | None = None
    synced: bool = False
    code: Getter | None = None
    reason: Getter | None = None
    keep: tuple[tuple[str, Getter, str], ...] = ()  # (placeholder, getter, path)
    last: tuple[tuple[str, Getter, str], ...] = ()  # like `keep`
    reply: Template | None = None
    reply_values: tuple[tuple[str, Getter, bool], ...] = ()  # (placeholder, getter, whether it begins at the frame)
    reply_is_complete: bool = False  # whether `reply` has no other placeholders

    def matches(self, document: Any, names: Names) -> bool:
        """Return whether the document meets all conditions."""
        return not self.conditions or meets(document, self.conditions, names)

    def items(self, document: Any, names: Names) -> Iterable[Any]:
        """Return the parts of a document that the rule is about; none if it has no such list."""
        if self.each is None:
            return (document,)
        try:
            found = list(self.each(document))
        except MISSING:
            return ()
        return [one for one in found if meets(one, self.where, names)] if self.where else found

    def reason_in(self, document: Any) -> str:
        """Return the reason of a refusal: the one that the rule finds, or the whole frame."""
        return optional(self.reason, document) or shown(document)


def meets(document: Any, conditions: Iterable[Condition], names: Names) -> bool:
    """Return whether the document meets all of these conditions."""
    for get, test, needs_value in conditions:
        try:
            value = get(document)
        except MISSING:
            if needs_value:
                return False
        else:
            if not test(value, names):
                return False
    return True


class RuleIndex:
    """All rules, by the value of the field that most of them test, such as `op` or `type`."""

    def __init__(self, rules: list[tuple[Rule, dict[str, Any]]]) -> None:
        self._get, self._by_value, self._others = _indexed(rules)

    def of(self, document: Any) -> tuple[Rule, ...]:
        """Return the rules that may match the document, in their order."""
        if self._get is None:
            return self._others
        try:
            return self._by_value.get(self._get(document), self._others)
        except MISSING:
            return self._others


def _indexed(
    rules: list[tuple[Rule, dict[str, Any]]],
) -> tuple[Getter | None, dict[object, tuple[Rule, ...]], tuple[Rule, ...]]:
    counts = Counter(path for _, when in rules for path, value in when.items() if _constants(value))
    if not counts:
        return None, {}, tuple(rule for rule, _ in rules)
    path = counts.most_common(1)[0][0]
    keys = [_constants(when.get(path)) for _, when in rules]
    values = {value for one in keys for value in one}
    by_value: dict[object, tuple[Rule, ...]] = {
        value: tuple(
            # The index has tested the field. So the other conditions are left.
            _without(rule, when, path) if key else rule
            for (rule, when), key in zip(rules, keys, strict=True)
            if not key or value in key
        )
        for value in values
    }
    others = tuple(rule for (rule, _), key in zip(rules, keys, strict=True) if not key)
    return getter(path), by_value, others


def _constants(expected: object) -> frozenset[str]:
    """Return the texts that a condition allows if it allows only constant texts."""
    listed = expected if isinstance(expected, list) else [expected]
    if all(isinstance(one, str) and not Text(one).names for one in listed):
        return frozenset(map(_constant, listed))
    return frozenset()


def _constant(text: str) -> str:
    return Text(text).fill({})


def _without(rule: Rule, when: dict[str, Any], path: str) -> Rule:
    left = tuple(one for one, tested in zip(rule.conditions, when, strict=True) if tested != path)
    changed = {name: getattr(rule, name) for name in Rule.__slots__}
    return Rule(**changed | {"conditions": left})


@dataclass(slots=True)
class Step:
    """A step of the login. `waits`: whether it ends with an answer."""

    frame: Template | None
    waits: bool


@dataclass(slots=True)
class HttpCall:
    """An HTTP request with placeholders."""

    method: str
    url: Text
    headers: tuple[tuple[str, Text], ...]
    body: Template | None
    accept: frozenset[int]
    keep: tuple[tuple[str, Getter, str], ...]

    def request(self, ref: str, values: Names, timeout: float) -> Request:
        """Return the request with these values."""
        headers = [(name, text.fill(values)) for name, text in self.headers]
        body = b""
        if self.body is not None:
            body = self.body.render(values)
            if all(name.lower() != "content-type" for name, _ in headers):
                headers.append(("Content-Type", "application/json"))
        return Request(self.method, self.url.fill_url(values), tuple(headers), body, ref, timeout)

    def is_success(self, status: int) -> bool:
        """Return whether the status code is one of success."""
        return status in self.accept if self.accept else 200 <= status < 300

    def reason(self, response: Response) -> str:
        """Return what happened to the request, for a report."""
        happened = f"HTTP {response.status} in answer" if response.status else "no answer"
        return f"{happened} to the request {self.method} of the description: {shown(response.body)}"


@dataclass(slots=True)
class Joining:
    """The use of groups or chatrooms."""

    request: HttpCall | None = None
    create: Template | None = None
    create_waits: bool = False
    enter: Template | None = None
    enter_waits: bool = False
    again: bool = True


@dataclass(slots=True)
class Protocol:
    """A description, compiled."""

    url: Text
    headers: tuple[tuple[str, Text], ...]
    subprotocols: tuple[str, ...]
    is_lines: bool
    requests: tuple[HttpCall, ...]
    steps: tuple[Step, ...]
    joins: dict[Scene, Joining]
    sends: dict[Scene, Template]
    resend: bool
    has_answers: bool
    answers_in_order: bool
    answers_by_number: bool
    read: Template | None
    delivery_names: tuple[str, ...]  # the placeholders that `delivered.keep` defines
    ping: Template | None
    ping_every: float
    silence: float | None
    rules: RuleIndex
    first_values: dict[str, object]  # of the placeholders that answers and messages define


def value_of(get: Getter | None, document: Any) -> Any:
    """Return the value that a getter takes, or None."""
    if get is None:
        return None
    try:
        return get(document)
    except MISSING:
        return None


def text_of(get: Getter | None, document: Any) -> str | None:
    """Return the value that a getter takes as a text, or None."""
    value = value_of(get, document)
    return value if value is None or type(value) is str else as_text(value)


def optional(get: Getter | None, document: Any) -> str:
    """Return the value that a getter takes, as a text; an empty text if there is none."""
    return as_text(value_of(get, document))


def shown(data: object) -> str:
    """Return a frame as a report shows it: its beginning."""
    text = data.decode(errors="replace") if isinstance(data, bytes) else as_text(data)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
