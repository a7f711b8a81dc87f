"""The rules of a send: whether the user may send it, what it changes, and which users are notified.

The conversation's writer calls `decide` for each send. The rules read the writer's view of the conversation and change
nothing. If they need a value from storage, they raise `NeedsLookup`. The writer looks it up and calls them again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from imsim.core import changes, frames, storage
from imsim.core.empty import NO_DICT
from imsim.core.model import Code, Message, MessageType, Scene, conversation_id
from imsim.core.policies import Policies
from imsim.core.router.rules import amendments, decision, friends, groups
from imsim.core.router.rules.decision import Change, Decision, RuleViolation, check_member

#: The text of every rejection with the code `blocked` of a message to one user.
BLOCKED_TEXT = "to: the other user does not accept messages from you"

_NOT_FRIENDS = "to: this user accepts messages only from friends; send friend_request first"

#: Events with rules. Other events are notices: they change nothing on the server, but may mean something to a client.
RULED = frozenset((*groups.EVENTS, *friends.EVENTS, *amendments.EVENTS, "resolve"))

#: Events that a blocked user may not send. A user may always recall a message, reject a request or end a friendship.
_ADDRESSED = ("edit", "friend_request", "friend_accept")


class NeedsLookup(Exception):
    """The decision depends on a value in storage. `request` reads the value."""

    def __init__(self, request: storage.Lookup) -> None:
        super().__init__(request)
        self.request = request


class LookupCache:
    """The values that the writer looked up in storage for one send. Nothing was written since.

    A method raises NeedsLookup if its value was not looked up yet.
    """

    __slots__ = ("messages", "relations")

    def __init__(self) -> None:
        self.messages: dict[tuple[str, str] | int, Message | None] = NO_DICT  # by (sender, idClient) or by seq
        self.relations: storage.Relations | None = None

    def learn(self, request: storage.Lookup, result: storage.Result) -> None:
        if isinstance(request, storage.Between):
            assert isinstance(result, storage.Relations)
            self.relations = result
        else:
            assert result is None or isinstance(result, Message)
            key = request.seq if isinstance(request, storage.Get) else (request.sender, request.id_client)
            self.messages = {**self.messages, key: result}

    def find(self, conversation_id: str, sender: str, id_client: str) -> Message | None:
        if (sender, id_client) not in self.messages:
            raise NeedsLookup(storage.Find(conversation_id, sender, id_client))
        return self.messages[sender, id_client]

    def get(self, conversation_id: str, seq: int, user: str) -> Message | None:
        if seq not in self.messages:
            raise NeedsLookup(storage.Get(conversation_id, seq, user))
        return self.messages[seq]

    def between(self, conversation_id: str, user: str, others: tuple[str, ...]) -> storage.Relations:
        if self.relations is None:
            raise NeedsLookup(storage.Between(conversation_id, user, others))
        return self.relations


class Conversation(Protocol):
    """The part of a conversation that the rules read. `state` is described in `groups.Group` and in `friends`."""

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
    """Decide about a send of `user`. `change` is the change that the send requests, if any.

    Returns None if the send is allowed and only adds a message to the log. Raises: RuleViolation, NeedsLookup.
    """
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
            _check_may_add(conversation, change, decision, known, policies)
        return decision
    if scene == Scene.P2P:
        _check_member(conversation, user)
        _check_may_address(conversation, change, known)
        return friends.decide(conversation.state, conversation.members, change, lifetime)
    raise RuleViolation(Code.BAD_REQUEST, f"file.event: {change.event} does not apply to a {scene} conversation")


def _check_member(conversation: Conversation, user: str) -> None:
    check_member(conversation.id, user, conversation.member_set)


def _check_may_add(
    conversation: Conversation, change: Change, decision: Decision, known: LookupCache, policies: Policies
) -> None:
    """Check that the operator may invite or add the targets to the group.

    No target may have blocked the operator. If `policies.strangers` refuses strangers, only friends of the operator can
    become members without their own consent.
    """
    new = (user for user in dict.fromkeys(change.targets) if user not in conversation.member_set)
    others = tuple(user for user in new if user != change.operator)
    if not others:
        return
    relations = known.between(conversation.id, change.operator, others)
    if relations.blocking:
        raise RuleViolation(
            Code.BLOCKED, f"file.targets: these users do not accept invitations from you: {_named(relations.blocking)}"
        )
    if not policies.strangers.may_write(are_friends=False):
        known_to_them = {change.operator, *relations.friends}
        added = tuple(user for user in decision.joined if user not in known_to_them)
        if added:
            raise RuleViolation(
                Code.NOT_FRIENDS,
                f"file.targets: without the group setting consent, you can add only friends (got {_named(added)})",
            )


def _named(users: tuple[str, ...]) -> str:
    """Return the names of the first three users, for an error text."""
    return ", ".join(users[:3]) + (" ..." if len(users) > 3 else "")


def _check_may_address(conversation: Conversation, change: Change, known: LookupCache) -> None:
    """Check that the other user of a p2p conversation has not blocked the operator."""
    others = tuple(member for member in conversation.members if member != change.operator)
    if change.event in _ADDRESSED and others and known.between(conversation.id, change.operator, others).blocking:
        raise RuleViolation(Code.BLOCKED, BLOCKED_TEXT)


def _check_may_send(
    conversation: Conversation, user: str, frame: frames.Send, known: LookupCache, policies: Policies
) -> None:
    if frame.scene == Scene.SYSTEM:
        if frame.type != MessageType.CUSTOM:
            raise RuleViolation(Code.BAD_REQUEST, "type: a user can send only type custom in the scene system")
        if frame.to == user or policies.strangers.may_write(are_friends=False):
            return
        if not known.between(conversation.id, user, (frame.to,)).friends:
            raise RuleViolation(Code.NOT_FRIENDS, _NOT_FRIENDS)
        return
    _check_member(conversation, user)
    if frame.scene == Scene.P2P:
        # Notes to oneself are always allowed.
        are_friends = len(conversation.members) != 2 or changes.are_friends(conversation.state)
        if not policies.strangers.may_write(are_friends=are_friends):
            raise RuleViolation(Code.NOT_FRIENDS, _NOT_FRIENDS)
    elif groups.is_silenced(conversation.state, user):
        raise RuleViolation(Code.MUTED, "to: you are muted in this group, or all its members are")


def _amend(
    conversation: Conversation, frame: frames.Send, change: Change, known: LookupCache, policies: Policies
) -> Decision:
    _check_member(conversation, change.operator)
    seq = amendments.target_seq(change)
    if change.event == "edit":
        _check_may_send(conversation, change.operator, frame, known, policies)
    if frame.scene == Scene.P2P:
        _check_may_address(conversation, change, known)
    target, rank = known.get(conversation.id, seq, change.operator), 0
    if target is None:
        raise RuleViolation(Code.BAD_REQUEST, "file.data.seq: there is no message with this seq")
    if frame.scene == Scene.GROUP:
        rank = groups.Group.of(conversation.state, conversation.members).rank(change.operator)
    return amend(change, target, rank, policies)


def amend(change: Change, target: Message, rank: int, policies: Policies) -> Decision:
    """Decide about a recall or an edit of `target`. `rank` is the operator's rank in a group. Raises: RuleViolation."""
    if changes.event_of(target) in RULED:
        raise RuleViolation(
            Code.BAD_REQUEST, "file.data.seq: a notification that changes the conversation cannot be recalled or edited"
        )
    recall_window, edit_window = int(policies.recall_window * 1000), int(policies.edit_window * 1000)
    return amendments.decide(change, target, rank=rank, recall_window=recall_window, edit_window=edit_window)


def effects(message: Message, decision: Decision) -> storage.Effects:
    """Return the effects of the decision, which storage carries out together with the append of the message."""
    notes = tuple(_system_message(message, note) for note in decision.notes)
    return storage.Effects(decision.state, decision.joined, decision.left, decision.amended, notes)


def system_log(user: str) -> str:
    """Return the id of the user's system conversation."""
    return conversation_id(Scene.SYSTEM, user, user)


def _system_message(message: Message, note: decision.Note) -> Message:
    """Return the note as a message for its user's system log.

    Its idClient is the id of the change, because a change makes at most one new note for a user. A note that resolves
    an earlier one adds the id of that note.
    """
    id, type = message.id, note.type
    file: dict[str, object] = {"conversationId": message.conversation_id, **note.data}
    if note.resolves:
        id, type = f"{id}>{note.resolves}", MessageType.NOTIFICATION
        file = {"event": "resolve", "operator": message.sender, "targets": [note.resolves], "data": dict(note.data)}
    log = system_log(note.user)
    return Message(log, 0, "", id, Scene.SYSTEM, type, message.sender, note.user, message.time, "", file)
