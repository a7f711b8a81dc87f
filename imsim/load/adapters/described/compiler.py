"""The compilation of a description: it checks the placeholders, and prepares templates, paths and conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from imsim.core.exceptions import UsageError
from imsim.core.model import Scene
from imsim.load.adapters.described import description as described
from imsim.load.adapters.described import templates
from imsim.load.adapters.described.paths import Getter, begins_at_frame, getter, items_getter
from imsim.load.adapters.described.protocol import (
    Condition,
    HttpCall,
    Joining,
    Protocol,
    Rule,
    RuleIndex,
    Step,
    Test,
)
from imsim.load.adapters.described.templates import FRAME, Template, TemplateError, Text
from imsim.scenario.sections import Section

_Table = TypeVar("_Table", bound=Section)

SESSION = frozenset({"url", "http", "user", "device", "number", "namespace", "key"})
"""The placeholders that have one value in a session."""
FRAMES = SESSION | {"n", "time"}
"""The placeholders of all frames."""
SEND = FRAMES | {"id", "to", "text", "text_with_id", "scene"}
JOIN = FRAMES | {"name", "members", "scene"}
READ = FRAMES | {"id", "to", "scene"}
REPLY = FRAMES | {FRAME}


def compiled(
    description: described.Description,
    file: str,
    template: Callable[[Any], Template] = templates.compiled,
) -> Protocol:
    """Compile a description.

    file: its name in errors.
    template: makes the template of a frame.

    Raises: UsageError if a template has an unknown placeholder.
    """
    return _Compiler(description, file, template).protocol()


def compiled_part(document: object, known: Iterable[str], place: str, before: str = "") -> Template:
    """Return the template of a document with these placeholders. `place` is its file and path, for errors.

    Raises: UsageError if the template has an unknown placeholder.
    """
    try:
        template = templates.compiled(document, before)
        templates.check(template.names, known)
    except TemplateError as error:
        raise UsageError(f"{place}: {error}") from None
    return template


class _Compiler:
    def __init__(self, description: described.Description, file: str, template: Callable[[Any], Template]) -> None:
        self._description = description
        self._file = file
        self._make = template
        self._kept: set[str] = set()  # the placeholders that earlier answers define
        self._rules: list[tuple[Rule, dict[str, Any]]] = []

    def protocol(self) -> Protocol:
        it = self._description
        self._define("initial", it.initial)
        requests = tuple(
            self._call(path, one, SESSION) for path, one in _numbered("connect.request", it.connect.request)
        )
        url = self._text("connect.url", it.connect.url, SESSION)
        headers = self._headers("connect.headers", it.connect.headers, SESSION)
        steps = tuple(self._step(path, number, one) for number, (path, one) in enumerate(_numbered("login", it.login)))
        joins = {
            Scene.GROUP: self._joining(Scene.GROUP, it.join.group),
            Scene.CHATROOM: self._joining(Scene.CHATROOM, it.join.chatroom),
        }
        sends = {
            scene: self._template(f"send.{scene}", document, SEND)
            for scene, document in (
                (Scene.P2P, it.send.p2p),
                (Scene.GROUP, it.send.group),
                (Scene.CHATROOM, it.send.chatroom),
            )
            if document is not None
        }
        answers = [*it.acked, *it.received, *it.failed]
        self._check_numbers(sends, answers)
        for path, failure in _numbered("failed", it.failed):
            self._message_rule("failed", path, failure, code=_maybe(failure.code), reason=_maybe(failure.text))
        for path, received in _numbered("received", it.received):
            self._message_rule("weakly_acked", path, received)
        for path, acked in _numbered("acked", it.acked):
            self._message_rule("acked", path, acked)
        for path, delivery in _numbered("delivered", it.delivered):
            self._delivery(path, delivery)
        delivery_names = {name for one in it.delivered for name in one.keep}
        self._check_names("delivered.keep", delivery_names)
        reading = None
        if it.read is not None:
            reading = self._template("read.send", it.read.send, READ | delivery_names)
            for path, answer in _numbered("read.answer", it.read.answer):
                self._message_rule("receipt", path, answer)
                if answer.n is not None and "n" not in reading.names:
                    raise self._error(f"{path}.n", "needs {n} in 'read.send'")
        for path, reply in _numbered("reply", it.reply):
            self._reply(path, reply)
        for path, refusal in _numbered("closed", it.closed):
            conditions = self._conditions(f"{path}.when", refusal.when)
            self._add(Rule("end", conditions, reason=_maybe(refusal.reason)), refusal)
        ping = None if it.keepalive.send is None else self._template("keepalive.send", it.keepalive.send, FRAMES)
        return Protocol(
            url=url,
            headers=headers,
            subprotocols=tuple(it.connect.subprotocols),
            is_lines=it.connect.frames == "lines",
            requests=requests,
            steps=steps,
            joins=joins,
            sends=sends,
            resend=it.send.resend,
            has_answers=bool(it.acked),
            answers_in_order=any(one.in_order for one in answers),
            answers_by_number=any(one.n is not None for one in answers),
            read=reading,
            delivery_names=tuple(sorted(delivery_names)),
            ping=ping,
            ping_every=it.keepalive.every,
            silence=it.keepalive.timeout,
            rules=RuleIndex(self._rules),
            first_values=dict.fromkeys(self._kept) | it.initial,
        )

    # --- the tables ---------------------------------------------------------------------------------------------------

    def _step(self, path: str, number: int, step: described.Login) -> Step:
        frame = None if step.send is None else self._template(f"{path}.send", step.send, FRAMES)
        if frame is None and not step.answer:
            raise self._error(path, "expected 'send', 'answer' or both")
        for answer in step.answer:
            conditions = self._conditions(f"{path}.answer.when", answer.when)
            self._add(Rule("step_answered", conditions, step=number, keep=_kept(answer.keep)), answer)
        for refusal in step.refused:
            conditions = self._conditions(f"{path}.refused.when", refusal.when)
            self._add(Rule("step_refused", conditions, step=number, reason=_maybe(refusal.reason)), refusal)
        self._define(f"{path}.answer.keep", [name for answer in step.answer for name in answer.keep])
        return Step(frame, waits=bool(step.answer))

    def _joining(self, scene: Scene, join: described.Join) -> Joining:
        path = f"join.{scene}"
        made = Joining(create_waits=bool(join.created), enter_waits=bool(join.entered), again=join.again)
        if join.request is not None:
            if join.request.keep:
                raise self._error(f"{path}.request.keep", "only answers to 'connect.request' and 'login' are kept")
            made.request = self._call(f"{path}.request", join.request, JOIN - {"n", "time"})
        for request, answers in (("create", join.created), ("enter", join.entered)):
            if (document := getattr(join, request)) is None:
                continue
            template = self._template(f"{path}.{request}", document, JOIN)
            setattr(made, request, template)
            if any(answer.n is not None for answer in answers) and "n" not in template.names:
                raise self._error(f"{path}.{request}", "needs {n}, because its answer is recognized by 'n'")
        for act, name, matches in (
            ("created", "created", join.created),
            ("entered", "entered", join.entered),
            ("join_refused", "refused", join.refused),
        ):
            for one in matches:
                of_join = {place: value for place, value in one.when.items() if _has_name(value)}
                of_frame = {place: value for place, value in one.when.items() if place not in of_join}
                rule = Rule(
                    act,
                    self._conditions(f"{path}.{name}.when", of_frame),
                    where=self._conditions(f"{path}.{name}.when", of_join, SESSION | {"name"}),
                    scene=scene,
                    n=_maybe(one.n),
                    reason=_maybe(one.reason) if isinstance(one, described.JoinRefusal) else None,
                )
                self._rules.append((rule, of_frame))
        return made

    def _message_rule(self, act: str, path: str, match: described.MessageMatch, **more: Any) -> None:
        rule = Rule(
            act,
            self._conditions(f"{path}.when", match.when),
            each=None if match.each is None else items_getter(match.each),
            where=self._conditions(f"{path}.where", match.where),
            id=_maybe(match.id),
            n=_maybe(match.n),
            **more,
        )
        self._add(rule, match)

    def _delivery(self, path: str, match: described.Delivery) -> None:
        rule = Rule(
            "delivered",
            self._conditions(f"{path}.when", match.when),
            each=None if match.each is None else items_getter(match.each),
            where=self._conditions(f"{path}.where", match.where),
            id=getter(match.id),
            scene=None if match.scene is None else Scene(match.scene),
            to=_maybe(match.to),
            to_of_frame=match.to is not None and begins_at_frame(match.to),
            sender=_maybe(match.sender),
            sender_of_frame=match.sender is not None and begins_at_frame(match.sender),
            text=_maybe(match.text),
            synced=match.synced,
            keep=_kept(match.keep),
            last=_kept(match.last),
        )
        for name in match.last:
            if name not in self._description.initial:
                raise self._error(f"{path}.last.{name}", "needs a first value in 'initial'")
        self._add(rule, match)

    def _reply(self, path: str, match: described.Reply) -> None:
        template = self._template(f"{path}.send", match.send, REPLY)
        places = {name: name.removeprefix(FRAME) for name in template.names if name.startswith(FRAME)}
        try:
            values = tuple((name, getter(place), begins_at_frame(place)) for name, place in places.items())
        except ValueError as error:
            raise self._error(f"{path}.send", str(error)) from None
        rule = Rule(
            "reply_to",
            self._conditions(f"{path}.when", match.when),
            each=None if match.each is None else items_getter(match.each),
            where=self._conditions(f"{path}.where", match.where),
            reply=template,
            reply_values=values,
            reply_is_complete=len(values) == len(template.names),
        )
        self._add(rule, match)

    def _add(self, rule: Rule, match: described.Match) -> None:
        self._rules.append((rule, match.when))

    def _check_numbers(self, sends: Mapping[Scene, Template], answers: Iterable[described.MessageMatch]) -> None:
        if any(one.n is not None for one in answers):
            for scene, template in sends.items():
                if "n" not in template.names:
                    raise self._error(f"send.{scene}", "needs {n}, because an answer is recognized by 'n'")

    # --- templates and conditions -------------------------------------------------------------------------------------

    def _define(self, path: str, names: Iterable[str]) -> None:
        """Make names of values known as placeholders."""
        names = list(names)
        self._check_names(path, names)
        self._kept.update(names)

    def _check_names(self, path: str, names: Iterable[str]) -> None:
        for name in names:
            if name in SEND | JOIN:
                raise self._error(f"{path}.{name}", "the name of another placeholder; choose another name")
            if templates.pieces(f"{{{name}}}") != [name]:
                raise self._error(f"{path}.{name}", "a placeholder has letters, digits and _ only")

    def _template(self, path: str, document: object, known: Iterable[str]) -> Template:
        try:
            template = self._make(document)
            templates.check(template.names, {*known, *self._kept})
        except TemplateError as error:
            raise self._error(path, str(error)) from None
        return template

    def _text(self, path: str, text: str, known: Iterable[str]) -> Text:
        made = Text(text)
        try:
            templates.check(made.names, {*known, *self._kept})
        except TemplateError as error:
            raise self._error(path, str(error)) from None
        return made

    def _headers(self, path: str, headers: Mapping[str, str], known: Iterable[str]) -> tuple[tuple[str, Text], ...]:
        return tuple((name, self._text(f"{path}.{name}", text, known)) for name, text in headers.items())

    def _call(self, path: str, call: described.HttpRequest, known: Iterable[str]) -> HttpCall:
        made = HttpCall(
            call.method,
            self._text(f"{path}.url", call.url, known),
            self._headers(f"{path}.headers", call.headers, known),
            None,
            frozenset(call.accept),
            _kept(call.keep),
        )
        if call.body is not None:
            try:
                made.body = templates.compiled(call.body)
                templates.check(made.body.names, {*known, *self._kept})
            except TemplateError as error:
                raise self._error(f"{path}.body", str(error)) from None
        self._define(f"{path}.keep", call.keep)
        return made

    def _conditions(
        self, path: str, conditions: Mapping[str, Any], known: Iterable[str] = SESSION
    ) -> tuple[Condition, ...]:
        return tuple(self._condition(f"{path}.{place}", place, one, known) for place, one in conditions.items())

    def _condition(self, path: str, place: str, expected: Any, known: Iterable[str]) -> Condition:
        get = getter(place)
        if isinstance(expected, dict):
            if "exists" in expected:
                exists = expected["exists"]
                return Condition(get, lambda value, names: exists, exists)
            unwanted = self._test(path, expected["not"], known)
            return Condition(get, lambda value, names: not unwanted(value, names), False)
        return Condition(get, self._test(path, expected, known), True)

    def _test(self, path: str, expected: Any, known: Iterable[str]) -> Test:
        tests = [
            self._test_of_one(path, one, known) for one in (expected if isinstance(expected, list) else [expected])
        ]
        return tests[0] if len(tests) == 1 else lambda value, names: any(test(value, names) for test in tests)

    def _test_of_one(self, path: str, expected: str | int | float | bool, known: Iterable[str]) -> Test:
        if isinstance(expected, str):
            text = self._text(path, expected, known)
            if text.names:
                return lambda value, names: bool(value == text.fill(names))
            expected = text.fill({})
        if isinstance(expected, bool):  # True == 1 in Python, but not in JSON
            return lambda value, names: value is expected
        return lambda value, names: not isinstance(value, bool) and bool(value == expected)

    def _error(self, path: str, text: str) -> UsageError:
        return UsageError(f"{self._file}: {path}: {text}")


def _numbered(path: str, tables: list[_Table]) -> list[tuple[str, _Table]]:
    """Return the tables of a list with their paths. A single table can be outside of a list, and has no number."""
    if len(tables) == 1:
        return [(path, tables[0])]
    return [(f"{path}.{number}", table) for number, table in enumerate(tables)]


def _has_name(expected: Any) -> bool:
    """Return whether a condition contains `{name}`."""
    if isinstance(expected, dict):
        expected = expected.get("not", "")
    listed = expected if isinstance(expected, list) else [expected]
    return any(isinstance(one, str) and "name" in Text(one).names for one in listed)


def _maybe(path: str | None) -> Getter | None:
    return None if path is None else getter(path)


def _kept(keep: Mapping[str, str]) -> tuple[tuple[str, Getter, str], ...]:
    return tuple((name, getter(path), path) for name, path in keep.items())
