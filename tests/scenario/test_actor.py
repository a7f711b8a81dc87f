"""The calls by which an actor executes a plan, with a client that only records them, and with the rules of the core."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from imsim.core import events
from imsim.core.attachments import ATTACHMENTS, check_attachment
from imsim.core.client.client import Client
from imsim.core.model import Flow, Message, MessageType, Route, Scene
from imsim.core.policies import Policies
from imsim.scenario import Action, Plan, Scenario, actor, plan
from imsim.testing import RecordingPort

SAID = [type for type in MessageType if type != MessageType.NOTIFICATION]


class Recording:
    """A stand-in for a Client that records each call in `asked`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.device = "d0"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: self.asked.append((name, arguments, options))


@pytest.fixture
def client() -> Recording:
    return Recording()


@pytest.fixture(scope="module")
def mixed() -> Plan:
    return plan(
        Scenario.load(
            "social", {"workload.types": dict.fromkeys(SAID, 1), "workload.rate": 3, "conversations.churn": 1}
        )
    )


def named(name: str) -> str:
    return f"run.{name}"


def first(mixed: Plan, kind: str) -> Action:
    return next(action for action in mixed.actions if action.kind == kind)


# --- names ----------------------------------------------------------------------------------------------------------


def test_id_client_contains_number_of_message() -> None:
    name = actor.IdClient(7, "run:")
    assert name == "run:7"
    assert {name: 1} == {"run:7": 1}
    assert [actor.intent_of(each) for each in (name, copy.deepcopy(name), "run:7", "7")] == [7, 7, None, None]


def test_id_of_a_recall_leads_to_its_message(mixed: Plan) -> None:
    number, recall = next((number, one) for number, one in enumerate(mixed.actions) if one.kind == "recall")
    other = next(number for number, one in enumerate(mixed.actions) if one.kind != "recall")
    assert actor.action_id(number, "run:") == f"run:{actor.action_id(number)}"
    assert actor.recalled_by(mixed, actor.action_id(number)) == recall.intent
    assert [actor.recalled_by(mixed, name) for name in (actor.action_id(other), "action x", "7")] == [None] * 3


# --- messages -------------------------------------------------------------------------------------------------------


def test_each_message_is_sent_as_planned(client: Recording, mixed: Plan) -> None:
    for intent in range(len(mixed)):
        actor.send(client, mixed, named, actor.IdClient(intent, "i"), float(intent))
    assert len(client.asked) == len(mixed)
    seen = set()
    for intent, (method, arguments, options) in enumerate(client.asked):
        conversation = mixed.conversations[mixed.conversation[intent]]
        type = mixed.types[mixed.type[intent]]
        to = named(conversation.to(int(mixed.sender[intent])))
        content, file, custom = actor.body(type, int(mixed.size[intent]))
        assert method == "send"
        assert arguments == (conversation.scene, to, content, f"i{intent}", float(intent))
        assert options == {"type": type, "file": file, "custom": custom}
        seen.add((conversation.scene, type))
    assert {scene for scene, _ in seen} == {Scene.P2P, Scene.GROUP, Scene.CHATROOM}
    assert {type for _, type in seen} == set(SAID)


@pytest.mark.parametrize("size", [1, 2, 3, 700, 16384])
@pytest.mark.parametrize("type", SAID)
def test_body_fits_its_type_and_size(type: MessageType, size: int) -> None:
    content, file, custom = actor.body(type, size)
    check_attachment(type, file)
    assert (file is None) == (not ATTACHMENTS[type])
    assert len(content.encode()) == (size if type == MessageType.TEXT else 0)
    if type == MessageType.CUSTOM:
        assert custom is not None
        assert len(custom.encode()) == size
        json.loads(custom)
    else:
        assert custom is None
    if file is not None and type != MessageType.GEO:
        assert file["size"] == size


def test_each_type_has_another_body() -> None:
    assert len({str(actor.body(type, 10)) for type in SAID}) == len(SAID)


# --- actions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["recall", "edit"])
def test_message_is_recalled_or_edited_by_its_seq(kind: str, client: Recording, mixed: Plan) -> None:
    action = first(mixed, kind)
    conversation = mixed.conversations[mixed.conversation[action.intent]]
    actor.act(client, mixed, action, {action.intent: 9}.get, named, "a1", 2.0)
    ((method, arguments, options),) = client.asked
    assert method == "change"
    assert arguments == (conversation.scene, named(conversation.to(action.user)), kind, "a1", 2.0)
    assert options["data"]["seq"] == 9
    if kind == "edit":
        content = options["data"]["content"]
        assert len(content) == mixed.size[action.intent]
        assert content != actor.body("text", len(content))[0]
    else:
        assert options == {"data": {"seq": 9}}


@pytest.mark.parametrize("kind", ["recall", "edit"])
def test_message_without_known_seq_is_neither_recalled_nor_edited(kind: str, client: Recording, mixed: Plan) -> None:
    actor.act(client, mixed, first(mixed, kind), {}.get, named, "a1", 2.0)
    assert client.asked == []


def test_guest_is_invited_and_leaves(client: Recording, mixed: Plan) -> None:
    invite, leave = first(mixed, "invite"), first(mixed, "leave")
    for action in (invite, leave):
        actor.act(client, mixed, action, {}.get, named, action.kind, 2.0)
    invited = (Scene.GROUP, f"run.g{invite.conversation}", "invite", "invite", 2.0)
    left = (Scene.GROUP, f"run.g{leave.conversation}", "leave", "leave", 2.0)
    assert client.asked == [
        ("change", invited, {"targets": [f"run.u{invite.other}"]}),
        ("change", left, {"targets": []}),
    ]


def test_friend_request_is_sent_to_other_user(client: Recording, mixed: Plan) -> None:
    action = first(mixed, "friend_request")
    actor.act(client, mixed, action, {}.get, named, "a1", 2.0)
    assert client.asked == [("change", (Scene.P2P, f"run.u{action.other}", "friend_request", "a1", 2.0), {})]


# --- answers --------------------------------------------------------------------------------------------------------


def shown(type: str, scene: Scene) -> events.Shown:
    message = Message("system:u1", 4, "system:u1:4", "x", scene, type, "u7", "u1", 0)
    return events.Shown(message, Flow.IN, Route.PUSH)


def test_only_first_device_accepts_friend_request() -> None:
    devices = [Client(RecordingPort(), "u1", device, "token", Policies(), lambda: 0.5) for device in ("d0", "d1")]
    asked = shown("friend_request", Scene.SYSTEM)
    assert [actor.wants_answer(client, asked) for client in devices] == [True, False]
    for other in (shown("friend_accepted", Scene.SYSTEM), shown("friend_request", Scene.P2P), events.Ready()):
        assert not actor.wants_answer(devices[0], other)


def test_answer_is_sent_to_user_who_asked(client: Recording) -> None:
    actor.answer(client, shown("friend_request", Scene.SYSTEM), 3.0)
    assert client.asked == [("change", (Scene.P2P, "u7", "friend_accept", "accept system:u1:4", 3.0), {})]
