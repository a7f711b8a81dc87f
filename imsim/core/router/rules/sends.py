"""The rules that decide: whether somebody may send something into a conversation, what it changes, and who is notified.

The single writer asks them about each send. They read what it knows of the conversation, and change nothing. Where they
have to know what stands in storage they raise `NeedsLookup`, and are asked once more when that is known.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from imsim.core import changes, frames, storage
from imsim.core.model import Code, Message, MessageType, Scene, conversation_id
from imsim.core.policies import Policies
from imsim.core.router.rules import amendments, decision, friends, groups
from imsim.core.router.rules.decision import Change, Decision, RuleViolation

#: Events that the rules know. Others are notices that change nothing here, and may to a newer client.
RULED = frozenset((*groups.EVENTS, *friends.EVENTS, *amendments.EVENTS, "resolve"))

#: Whoever is blocked may not ask for these. To take back what one has said, or to end it, is nobody's to refuse.
_ADDRESSED = ("edit", "friend_request", "friend_accept")


class NeedsLookup(Exception):
    """It depends on what stands in storage."""

    def __init__(self, request: storage.Lookup) -> None:
        super().__init__(request)
        self.request = request


class LookupCache:
    """What was looked up in storage for one send; nothing was written since. A question without an answer raises
    NeedsLookup."""

    __slots__ = ("messages", "relations")

    def __init__(self) -> None:
        self.messages: dict[tuple[str, str] | int, Message | None] = {}  # by (sender, idClient) or by seq
        self.relations: storage.Relations | None = None

    def learn(self, request: storage.Lookup, result: storage.Result) -> None:
        if isinstance(request, storage.Between):
            assert isinstance(result, storage.Relations)
            self.relations = result
        else:
            assert result is None or isinstance(result, Message)
            key = request.seq if isinstance(request, storage.Get) else (request.sender, request.id_client)
            self.messages[key] = result

    def find(self, conversation_id: str, sender: str, id_client: str) -> Message | None:
        if (sender, id_client) not in self.messages:
            raise NeedsLookup(storage.Find(conversation_id, sender, id_client))
        return self.messages[sender, id_client]

    def get(self, conversation_id: str, seq: int) -> Message | None:
        if seq not in self.messages:
            raise NeedsLookup(storage.Get(conversation_id, seq))
        return self.messages[seq]

    def between(self, conversation_id: str, user: str, others: tuple[str, ...]) -> storage.Relations:
        if self.relations is None:
            raise NeedsLookup(storage.Between(conversation_id, user, others))
        return self.relations


class Conversation(Protocol):
    """What the rules know of one. `state`: a group's, or two users'; see their rules."""

    id: str
    members: tuple[str, ...]
    member_set: Collection[str]
    state: dict[str, Any] | None


def decide(
    conversation: Conversation,
    user: str,
    frame: frames.Send,
    change: Change | None,
    known: LookupCache,
    policies: Policies,
) -> Decision | None:
    """What follows from what `user` sends, None: no more than that it stands there. `change`: that it asks for.

    Raises: RuleViolation, NeedsLookup."""
    if change is None or change.event not in RULED:
        _check_may_send(conversation, user, frame, known, policies)
        return None
    if change.event in amendments.EVENTS:
        return _amend(conversation, frame, change, known, policies)
    scene, lifetime = conversation.id.partition(":")[0], int(policies.request_lifetime * 1000)
    if scene == Scene.GROUP:
        limits = groups.Limits(policies.group_size, lifetime)
        decision = groups.decide(conversation.state, conversation.members, change, limits)
        if change.event in ("create", "invite"):
            _check_may_bring(conversation, change, decision, known, policies)
        return decision
    if scene == Scene.P2P:
        _check_member(conversation, user)
        _check_may_address(conversation, change, known)
        return friends.decide(conversation.state, conversation.members, change, lifetime)
    raise RuleViolation(Code.BAD_REQUEST, f"scene: nothing can be changed in a {scene} conversation")


def _check_member(conversation: Conversation, user: str) -> None:
    if user not in conversation.member_set:
        raise RuleViolation(Code.NOT_MEMBER, f"you are no member of {conversation.id}")


def _check_may_bring(
    conversation: Conversation, change: Change, decision: Decision, known: LookupCache, policies: Policies
) -> None:
    """Into a group: nobody who has blocked the operator; and, where strangers are refused, nobody but friends without
    having been asked."""
    new = (user for user in dict.fromkeys(change.targets) if user not in conversation.member_set)
    others = tuple(user for user in new if user != change.operator)
    if not others:
        return
    relations = known.between(conversation.id, change.operator, others)
    if relations.blocking:
        raise RuleViolation(
            Code.BLOCKED, f"file.targets: your invitations are not taken by {_named(relations.blocking)}"
        )
    if not policies.strangers.may_write(are_friends=False):
        known_to_them = {change.operator, *relations.friends}
        added = tuple(user for user in decision.joined if user not in known_to_them)
        if added:
            raise RuleViolation(
                Code.NOT_FRIENDS, f"file.targets: no friends of yours, {_named(added)}; ask their consent"
            )


def _named(users: tuple[str, ...]) -> str:
    return ", ".join(users[:3]) + (" ..." if len(users) > 3 else "")


def _check_may_address(conversation: Conversation, change: Change, known: LookupCache) -> None:
    """Between two users: what one wants of the other, who may have blocked the one."""
    others = tuple(member for member in conversation.members if member != change.operator)
    if change.event in _ADDRESSED and others and known.between(conversation.id, change.operator, others).blocking:
        raise RuleViolation(Code.BLOCKED, "the other user does not take messages from you")


def _check_may_send(
    conversation: Conversation, user: str, frame: frames.Send, known: LookupCache, policies: Policies
) -> None:
    if frame.scene == Scene.SYSTEM:
        if frame.type != MessageType.CUSTOM:
            raise RuleViolation(Code.BAD_REQUEST, "type: users send each other system messages of type custom only")
        if frame.to == user or policies.strangers.may_write(are_friends=False):
            return
        if not known.between(conversation.id, user, (frame.to,)).friends:
            raise RuleViolation(Code.NOT_FRIENDS, "you are no friends; send a friend_request")
        return
    _check_member(conversation, user)
    if frame.scene == Scene.P2P:
        are_friends = len(conversation.members) != 2 or changes.are_friends(conversation.state)  # with oneself always
        if not policies.strangers.may_write(are_friends=are_friends):
            raise RuleViolation(Code.NOT_FRIENDS, "you are no friends; send a friend_request")
    elif groups.is_silenced(conversation.state, user):
        raise RuleViolation(Code.MUTED, "you are muted in this group, or everybody is")


def _amend(
    conversation: Conversation, frame: frames.Send, change: Change, known: LookupCache, policies: Policies
) -> Decision:
    seq = amendments.target_seq(change)
    if change.event == "edit":
        _check_may_send(conversation, change.operator, frame, known, policies)
    _check_member(conversation, change.operator)
    if frame.scene == Scene.P2P:
        _check_may_address(conversation, change, known)
    target, rank = known.get(conversation.id, seq), 0
    if target is None:
        raise RuleViolation(Code.BAD_REQUEST, "file.data.seq: there is no such message")
    if frame.scene == Scene.GROUP:
        rank = groups.Group.of(conversation.state, conversation.members).rank(change.operator)
    return amend(change, target, rank, policies)


def amend(change: Change, target: Message, rank: int, policies: Policies) -> Decision:
    """What follows from recalling or editing `target`. `rank`: the operator's in a group. Raises: RuleViolation."""
    if changes.event_of(target) in RULED:
        raise RuleViolation(Code.BAD_REQUEST, "file.data.seq: a change cannot be taken back")
    recall_window, edit_window = int(policies.recall_window * 1000), int(policies.edit_window * 1000)
    return amendments.decide(change, target, rank=rank, recall_window=recall_window, edit_window=edit_window)


def effects(message: Message, decision: Decision) -> storage.Effects:
    """What storage is to do with the message that was decided about."""
    notes = tuple(_system_message(message, note) for note in decision.notes)
    return storage.Effects(decision.state, decision.joined, decision.left, decision.amended, notes)


def system_log(user: str) -> str:
    return conversation_id(Scene.SYSTEM, user, user)


def _system_message(message: Message, note: decision.Note) -> Message:
    """A note as it will stand in its user's system log. Its idClient is that of the change, for which a user gets one
    note; with more, for the settling of each other."""
    id, type = message.id, note.type
    file: dict[str, object] = {"conversationId": message.conversation_id, **note.data}
    if note.resolves:
        id, type = f"{id}>{note.resolves}", MessageType.NOTIFICATION
        file = {"event": "resolve", "operator": message.sender, "targets": [note.resolves], "data": dict(note.data)}
    log = system_log(note.user)
    return Message(log, 0, "", id, Scene.SYSTEM, type, message.sender, note.user, message.time, "", file)
