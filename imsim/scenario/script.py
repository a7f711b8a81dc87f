"""What the users of a plan do with their clients besides writing, the same in every world: a thin layer between the
plan's numbers and the core's Client."""

from __future__ import annotations

from collections.abc import Callable

from imsim.core import events
from imsim.core.client import Client
from imsim.core.model import MessageType, Scene
from imsim.scenario.workload import Action, Plan

#: Of a message by its number in the plan, the seq that it got; None as long as its sender does not know.
SeqOf = Callable[[int], int | None]
Named = Callable[[str], str]


def send(client: Client, plan: Plan, intent: int, named: Named, id_client: str, now: float) -> None:
    """Send message number `intent` of the plan. `named` gives the name that a user or group has in this world."""
    conversation = plan.conversations[plan.conversation[intent]]
    to = named(conversation.to(int(plan.sender[intent])))
    content, file, custom = body(plan.types[plan.type[intent]], int(plan.size[intent]))
    type = plan.types[plan.type[intent]]
    client.send(conversation.scene, to, content, id_client, now, type=type, file=file, custom=custom)


def act(client: Client, plan: Plan, action: Action, seq_of: SeqOf, named: Named, id_client: str, now: float) -> None:
    """Do it with the client of the action's device. What it needs to be stored first and is not, is left out."""
    if action.kind in ("recall", "edit"):
        seq = seq_of(action.intent)
        if seq is not None:
            conversation = plan.conversations[plan.conversation[action.intent]]
            data: dict[str, object] = {"seq": seq}
            if action.kind == "edit":
                data["content"] = "edited"
            client.change(
                conversation.scene, named(conversation.to(action.user)), action.kind, id_client, now, data=data
            )
    elif action.kind in ("invite", "leave"):
        conversation = plan.conversations[action.conversation]
        targets = [named(plan.users[action.other])] if action.kind == "invite" else []
        client.change(conversation.scene, named(conversation.name), action.kind, id_client, now, targets=targets)
    else:
        client.change(Scene.P2P, named(plan.users[action.other]), action.kind, id_client, now)


def calls_for_action(event: events.ClientEvent) -> bool:
    """Whether `react` would do something."""
    return type(event) is events.Shown and event.message.type == "friend_request"


def react(client: Client, event: events.ClientEvent, now: float) -> None:
    """Friend requests are accepted by whoever gets them."""
    if type(event) is events.Shown and calls_for_action(event):
        message = event.message
        client.change(Scene.P2P, message.sender, "friend_accept", f"accept {message.id}", now)


def enter_rooms(client: Client, plan: Plan, user: int, named: Named, now: float) -> None:
    """At the start: into the chatrooms of whose audience the user is."""
    for number in plan.rooms_of(user):
        client.enter(named(plan.conversations[number].name), now)


def body(type: str, size: int) -> tuple[str, dict[str, object] | None, str | None]:
    """(content, file, custom) of a message of this type: `size` bytes of text or payload, or telling of an attachment
    of so many."""
    attachment: dict[str, object] = {"url": "https://example.com/1", "size": size}
    if type == MessageType.TEXT:
        return _text(size), None, None
    if type == MessageType.CUSTOM:
        return "", None, _text(size)
    if type == MessageType.GEO:
        return "", {"title": "here", "longitude": 0.0, "latitude": 0.0}, None
    if type == MessageType.IMAGE:
        return "", {**attachment, "width": 640, "height": 480}, None
    if type == MessageType.FILE:
        return "", {**attachment, "format": "pdf"}, None
    return "", {**attachment, "duration": 1.0, "format": "mp4"}, None


_TEXTS: dict[int, str] = {}


def _text(size: int) -> str:
    text = _TEXTS.get(size)
    if text is None:
        text = _TEXTS[size] = "x" * size
    return text
