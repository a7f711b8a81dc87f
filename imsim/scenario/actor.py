"""What the users of a plan do with their clients, the same in every world: a thin layer between the plan's numbers and
the core's Client. A world says when, on which client, and under which names.

Besides writing, a user does everything on the first device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from imsim.core import events
from imsim.core.attachments import EXAMPLES
from imsim.core.client.client import Client
from imsim.core.model import MessageType, Scene
from imsim.scenario.workload import Action, Plan, device_name

#: Of a message by its number in the plan, the seq that it got; None as long as its sender does not know.
SeqOf = Callable[[int], int | None]

#: Of a user, group or chatroom by its name in the plan, its name in this world.
Named = Callable[[str], str]

_FIRST_DEVICE = device_name(0)
_ACTION = "action "


class IdClient(str):
    """The idClient of a message of the plan, which carries the message's number there. In the simulation the object
    itself travels with the message, from the client's send to the last row."""

    __slots__ = ("intent",)

    intent: int

    def __new__(cls, intent: int, prefix: str = "") -> IdClient:
        """`prefix`: what a world puts before the names of the plan."""
        made = str.__new__(cls, f"{prefix}{intent}")
        made.intent = intent
        return made


def intent_of(id_client: str) -> int | None:
    """The number that this name carries: that of a message of the plan; None for any other name."""
    return getattr(id_client, "intent", None)


def send(client: Client, plan: Plan, named: Named, id_client: IdClient, now: float) -> None:
    """Send the message of the plan that is to have this name."""
    intent = id_client.intent
    conversation = plan.conversations[plan.conversation[intent]]
    to = named(conversation.to(int(plan.sender[intent])))
    type = plan.types[plan.type[intent]]
    content, file, custom = body(type, int(plan.size[intent]))
    client.send(conversation.scene, to, content, id_client, now, type=type, file=file, custom=custom)


def act(client: Client, plan: Plan, action: Action, seq_of: SeqOf, named: Named, id_client: str, now: float) -> None:
    """Carry out the action. A message that its sender does not know to be stored is neither recalled nor edited."""
    if action.kind in ("recall", "edit"):
        seq = seq_of(action.intent)
        if seq is None:
            return
        conversation = plan.conversations[plan.conversation[action.intent]]
        data: dict[str, object] = {"seq": seq}
        if action.kind == "edit":
            data["content"] = _text(int(plan.size[action.intent]), "e")
        client.change(conversation.scene, named(conversation.to(action.user)), action.kind, id_client, now, data=data)
    elif action.kind == "friend_request":
        client.change(Scene.P2P, named(plan.users[action.other]), action.kind, id_client, now)
    else:
        group = named(plan.conversations[action.conversation].name)
        targets = [named(plan.users[action.other])] if action.kind == "invite" else []
        client.change(Scene.GROUP, group, action.kind, id_client, now, targets=targets)


def action_id(number: int, prefix: str = "") -> str:
    """The idClient of action number `number`."""
    return f"{prefix}{_ACTION}{number}"


def recalled_by(plan: Plan, id_client: str) -> int | None:
    """The message of the plan that the action with this idClient takes back; None if it does not do that."""
    number = id_client.removeprefix(_ACTION)
    if number == id_client or not number.isdecimal():
        return None
    action = plan.actions[int(number)]
    return action.intent if action.kind == "recall" else None


def wants_answer(client: Client, event: events.ClientEvent) -> bool:
    """Whether the user answers what happened on this client: `answer` does it."""
    return (
        type(event) is events.Shown
        and event.message.type == "friend_request"
        and event.message.scene == Scene.SYSTEM
        and client.device == _FIRST_DEVICE
    )


def answer(client: Client, event: events.Shown, now: float) -> None:
    """Accept the friend request that the event shows."""
    client.change(Scene.P2P, event.message.sender, "friend_accept", f"accept {event.message.id}", now)


def body(type: str, size: int) -> tuple[str, dict[str, object] | None, str | None]:
    """(content, file, custom) of a message of this type: a text or a payload of `size` bytes, or an attachment that
    says that it points to as many. (A position on the map has no size.)"""
    if type == MessageType.TEXT:
        return _text(size, "x"), None, None
    if type == MessageType.CUSTOM:
        return "", None, f'"{_text(size - 2, "x")}"' if size > 1 else "0"
    file = dict(EXAMPLES[type])
    if "size" in file:
        file["size"] = size
    return "", file, None


@lru_cache(maxsize=1024)
def _text(size: int, letter: str) -> str:
    """One and the same for many messages: a simulation keeps all that it sent in memory."""
    return letter * size
