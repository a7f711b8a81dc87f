"""The rules that decide: whether somebody may send something into a conversation, what it changes, and who is told.

The single writer asks them about each send. They read what it knows of the conversation, and change nothing. Where they
have to know what stands in storage they raise `LookUp`, and are asked once more when that is known.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from imsim.core import amendments, changes, frames, friends, groups, storage
from imsim.core.changes import Change, Decision, Refused
from imsim.core.model import Code, Message, MessageType, Scene, conversation_id
from imsim.core.policies import Policies

#: Events that the rules know. Others are notices that change nothing here, and may to a newer client.
RULED = frozenset((*groups.EVENTS, *friends.EVENTS, *amendments.EVENTS, "settle"))

#: What was looked up for one send: messages by (sender, idClient) or by seq; None: there is none.
Known = dict[tuple[str, str] | int, Message | None]


class LookUp(Exception):
    """It depends on what stands in storage."""

    def __init__(self, request: storage.Find | storage.Get) -> None:
        super().__init__(request)
        self.request = request


class Conversation(Protocol):
    """What the rules know of one. `state`: a group's, or two users'; see their rules."""

    id: str
    members: tuple[str, ...]
    member_set: Collection[str]
    state: dict[str, Any] | None


def find(known: Known, conversation_id: str, sender: str, id_client: str) -> Message | None:
    """Raises: LookUp."""
    if (sender, id_client) not in known:
        raise LookUp(storage.Find(conversation_id, sender, id_client))
    return known[sender, id_client]


def decide(
    conversation: Conversation, user: str, frame: frames.Send, change: Change | None, known: Known, policies: Policies
) -> Decision | None:
    """What follows from what `user` sends, None: no more than that it stands there. `change`: that it asks for.

    Raises: Refused, LookUp."""
    if change is None or change.event not in RULED:
        _check_may_send(conversation, user, frame, policies)
        return None
    if change.event in amendments.EVENTS:
        return _amend(conversation, frame, change, known, policies)
    scene, lifetime = conversation.id.partition(":")[0], int(policies.request_lifetime * 1000)
    if scene == Scene.GROUP:
        limits = groups.Limits(policies.group_size, lifetime)
        return groups.decide(conversation.state, conversation.members, change, limits)
    if scene == Scene.P2P:
        _check_member(conversation, user)
        return friends.decide(conversation.state, conversation.members, change, lifetime)
    raise Refused(Code.BAD_REQUEST, f"scene: nothing can be changed in a {scene} conversation")


def _check_member(conversation: Conversation, user: str) -> None:
    if user not in conversation.member_set:
        raise Refused(Code.NOT_MEMBER, f"you are no member of {conversation.id}")


def _check_may_send(conversation: Conversation, user: str, frame: frames.Send, policies: Policies) -> None:
    if frame.scene == Scene.SYSTEM:
        if frame.type != MessageType.CUSTOM:
            raise Refused(Code.BAD_REQUEST, "type: users send each other system messages of type custom only")
        return
    _check_member(conversation, user)
    if frame.scene == Scene.P2P:
        are_strangers = len(conversation.members) == 2 and not friends.are_friends(conversation.state)
        if policies.strangers == "refuse" and are_strangers:
            raise Refused(Code.NOT_FRIENDS, "you are no friends; send a friend_request")
    elif groups.is_silenced(conversation.state, user):
        raise Refused(Code.MUTED, "you are muted in this group, or everybody is")


def _amend(
    conversation: Conversation, frame: frames.Send, change: Change, known: Known, policies: Policies
) -> Decision:
    seq = amendments.target_seq(change)
    if change.event == "edit":
        _check_may_send(conversation, change.operator, frame, policies)
    _check_member(conversation, change.operator)
    if seq not in known:
        raise LookUp(storage.Get(conversation.id, seq))
    target, rank = known[seq], 0
    if target is None:
        raise Refused(Code.BAD_REQUEST, "file.data.seq: there is no such message")
    if frame.scene == Scene.GROUP:
        rank = groups.Group.of(conversation.state, conversation.members).rank(change.operator)
    return amend(change, target, rank, policies)


def amend(change: Change, target: Message, rank: int, policies: Policies) -> Decision:
    """What follows from recalling or editing `target`. `rank`: the operator's in a group. Raises: Refused."""
    recall_window, edit_window = int(policies.recall_window * 1000), int(policies.edit_window * 1000)
    return amendments.decide(change, target, rank=rank, recall_window=recall_window, edit_window=edit_window)


def effects(message: Message, decision: Decision) -> storage.Effects:
    """What storage is to do with the message that was decided about."""
    notes = tuple(_system_message(message, note) for note in decision.notes)
    return storage.Effects(decision.state, decision.joined, decision.left, decision.amended, notes)


def system_log(user: str) -> str:
    return conversation_id(Scene.SYSTEM, user, user)


def _system_message(message: Message, note: changes.Note) -> Message:
    """A note as it will stand in its user's system log. Its idClient is that of the change, for which a user gets one
    note; with more, for the settling of each other."""
    id, type = message.id, note.type
    file: dict[str, object] = {"conversationId": message.conversation_id, **note.data}
    if note.settles:
        id, type = f"{id}>{note.settles}", MessageType.NOTIFICATION
        file = {"event": "settle", "operator": message.sender, "targets": [note.settles], "data": dict(note.data)}
    log = system_log(note.user)
    return Message(log, 0, "", id, Scene.SYSTEM, type, message.sender, note.user, message.time, "", file)
