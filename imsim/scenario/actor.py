"""Execution of a plan with the core's clients, the same in simulated and live runs.

It is a thin layer between the numbers of a plan and the methods of the core's Client. The run decides when an action
happens, on which client and under which names. Users send messages on all of their devices; all other actions happen on
the first device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from imsim.core import events
from imsim.core.attachments import EXAMPLES
from imsim.core.client.client import Client
from imsim.core.model import MessageType, Scene
from imsim.scenario.workload import Action, Plan, device_name

#: Returns the seq of a message by its number in the plan; None until its sender knows it.
SeqOf = Callable[[int], int | None]

#: Returns the name that a user, a group or a chatroom of the plan has in this run.
Named = Callable[[str], str]

_FIRST_DEVICE = device_name(0)
_ACTION = "action "


class IdClient(str):
    """The idClient of a message of the plan. Its attribute `intent` is the message's number in the plan.

    In the simulation, this object travels with the message, from the client's send to the last row.
    """

    __slots__ = ("intent",)

    intent: int

    def __new__(cls, intent: int, prefix: str = "") -> IdClient:
        """Create the idClient of message number `intent`. `prefix`: the run's prefix of all names of the plan."""
        made = str.__new__(cls, f"{prefix}{intent}")
        made.intent = intent
        return made


def intent_of(id_client: str) -> int | None:
    """Return the number in the plan of the message with this idClient; None if it is not an IdClient."""
    return getattr(id_client, "intent", None)


def send(client: Client, plan: Plan, named: Named, id_client: IdClient, now: float) -> None:
    """Send the message of the plan to which this idClient belongs."""
    intent = id_client.intent
    conversation, sender = plan.conversations[plan.conversation[intent]], int(plan.sender[intent])
    type, size = plan.types[plan.type[intent]], int(plan.size[intent])
    content, file, custom = body(type, size)
    to = named(conversation.to(sender))
    client.send(conversation.scene, to, content, id_client, now, type=type, file=file, custom=custom)


def act(client: Client, plan: Plan, action: Action, seq_of: SeqOf, named: Named, id_client: str, now: float) -> None:
    """Execute an action. A recall or edit is left out if the sender does not know yet that the message is stored."""
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
    """Return the idClient of action number `number`."""
    return f"{prefix}{_ACTION}{number}"


def recalled_by(plan: Plan, id_client: str) -> int | None:
    """Return the number of the message that the action with this idClient recalls; None for any other idClient."""
    number = id_client.removeprefix(_ACTION)
    if number == id_client or not number.isdecimal():
        return None
    action = plan.actions[int(number)]
    return action.intent if action.kind == "recall" else None


def wants_answer(client: Client, event: events.ClientEvent) -> bool:
    """Return whether the user answers this event with `answer`: the first device accepts friend requests."""
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
    """Return (content, file, custom) of a message of this type and size.

    A text or a custom payload has `size` bytes. An attachment states `size` as the size of its file. (A geo message has
    no size.)
    """
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
    """Return a text of this size. Messages of one size share it, because a simulation keeps all messages in memory."""
    return letter * size
