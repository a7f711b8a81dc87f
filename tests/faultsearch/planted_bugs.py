"""Bugs planted in the core, one function each. Each is a mistake that a hurried engineer might make.

There is at least one for each invariant of the design. The docstring of each describes the bug as behaviour of the
core. Most are planted at a seam (see `seams`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

from faultsearch import seams

from imsim.core import changes, frames, internal_frames, storage
from imsim.core.client import client, inbox
from imsim.core.gateway.gateway import Gateway
from imsim.core.limits import Bucket
from imsim.core.model import Code, Status
from imsim.core.router import online
from imsim.core.router.chatrooms import Chatrooms
from imsim.core.router.conversations import Conversations
from imsim.core.router.rules import sends
from imsim.core.router.rules.decision import RuleViolation
from imsim.core.router.users import Users
from imsim.core.storage import requests
from imsim.core.unread import Unread

Down, Up = internal_frames.Down, internal_frames.Up

# --- the log ---------------------------------------------------------------------------------------------------------


def ack_before_store(patch: Any) -> None:
    """A writer acknowledges a message as soon as it has it."""
    sessions: dict[tuple[str, str], Any] = {}

    def remember(up: Up) -> Up:
        if isinstance(up.frame, frames.Send):
            sessions[up.session.user, up.frame.id_client] = up.session
        return up

    make = Conversations.__init__

    def init(self: Conversations, port: Any, *rest: Any) -> None:
        def append(request: storage.Append, now: float) -> None:
            port.append(request, now)
            m = request.message
            session = sessions[m.sender, m.id_client]
            ack = frames.Stored(m.id_client, m.conversation_id, m.id, m.seq, m.time)
            port.to_gateway(session.gateway, Down((session,), ack))

        early = seams.Port(port)
        early.append = append
        make(self, early, *rest)

    seams.received(patch, Conversations, remember)
    patch.setattr(Conversations, "__init__", init)


def seq_reused_after_a_crash(patch: Any) -> None:
    """A reopened conversation starts one seq too early, and storage takes the message for one that it has."""

    def low(execute: Any, request: Any) -> Any:
        if isinstance(request, storage.Append):
            there = execute(storage.Get(request.message.conversation_id, request.message.seq))
            if there is not None and there.id_client != request.message.id_client:
                return storage.Appended()
        result = execute(request)
        if isinstance(request, storage.OpenConversation) and result is not None and result.max_seq:
            return replace(result, max_seq=result.max_seq - 1)
        return result

    seams.stored(patch, low)


def dedupe_in_memory_only(patch: Any) -> None:
    """Storage neither finds nor refuses a message that it has."""

    def forget(execute: Any, request: Any) -> Any:
        if isinstance(request, storage.Find):
            return None
        result = execute(request)
        if isinstance(result, storage.Duplicate):
            message = replace(request.message, id_client=f"{request.message.id_client}'")
            return execute(replace(request, message=message))
        return result

    seams.stored(patch, forget)


def sender_order_not_enforced(patch: Any) -> None:
    """The writer accepts a message whose predecessor is missing."""

    def careless(up: Up) -> Up:
        is_send = isinstance(up.frame, frames.Send)
        return replace(up, frame=replace(up.frame, after=None)) if is_send else up

    seams.received(patch, Conversations, careless)


def strangers_may_write(patch: Any) -> None:
    """The router ignores the policy that only friends may write to each other."""
    seams.policies(patch, Conversations, lambda policies: {"strangers": "allow"})


def received_ack_against_the_policy(patch: Any) -> None:
    """A sender is notified that its message was received before it is stored, even if the policy `ack` forbids it."""
    seams.policies(patch, Conversations, lambda policies: {"ack": "after_receive"})


def rates_ignored(patch: Any) -> None:
    """A bucket always has a token."""
    patch.setattr(Bucket, "take", lambda self, now: 0.0)


def recall_not_stored(patch: Any) -> None:
    """Storage keeps a recalled or edited message as it was."""

    def keep(execute: Any, request: Any) -> Any:
        if isinstance(request, storage.Append) and request.effects is not None:
            request = replace(request, effects=replace(request.effects, amended=None))
        return execute(request)

    seams.stored(patch, keep)


# --- delivery --------------------------------------------------------------------------------------------------------


def fan_out_to_strangers(patch: Any) -> None:
    """Two users receive every message, of any conversation."""

    def wide(forward: Any, frame: Any) -> None:
        if isinstance(frame, internal_frames.Deliver):
            frame = replace(frame, users=tuple(sorted({*frame.users, "alice", "bob"})))
        forward(frame)

    seams.port(patch, Conversations, "to_users", wide)


def missing_group_answers_otherwise(patch: Any) -> None:
    """A send to a group that does not exist is refused with a code of its own."""
    check = sends.check_member

    def tell(conversation_id: str, user: str, members: Any) -> None:
        if not members:
            raise RuleViolation(Code.NO_CONVERSATION, "there is no such group")
        check(conversation_id, user, members)

    patch.setattr(sends, "check_member", tell)


def position_shown_to_outsiders(patch: Any) -> None:
    """The answer to an application, or to a system message, has the position in a log that the sender cannot see."""
    patch.setattr(changes, "is_from_outside", lambda message, sender: False)


def last_member_forgotten(patch: Any) -> None:
    """A message is not delivered to the last of its recipients."""

    def short(forward: Any, frame: Any) -> None:
        forward(replace(frame, users=frame.users[:-1]) if isinstance(frame, internal_frames.Deliver) else frame)

    seams.port(patch, Conversations, "to_users", short)


def group_listed_for_strangers(patch: Any) -> None:
    """Storage returns the state of a group to every user."""

    def open_to_all(execute: Any, request: Any) -> Any:
        result = execute(request)
        if isinstance(request, storage.ReadGroup) and result is None:
            state = execute(storage.OpenConversation(request.conversation_id))
            if state is not None and state.members:
                return execute(replace(request, user=state.members[0]))
        return result

    seams.stored(patch, open_to_all)


def last_member_not_listed(patch: Any) -> None:
    """The state of a group does not have the last member of a page."""

    def short(execute: Any, request: Any) -> Any:
        result = execute(request)
        return replace(result, members=result.members[:-1]) if isinstance(result, storage.GroupRecord) else result

    seams.stored(patch, short)


def requests_listed_as_friends(patch: Any) -> None:
    """A user with an unanswered friend request is listed as a friend."""

    def hasty(execute: Any, request: Any) -> Any:
        result = execute(request)
        if isinstance(result, storage.FriendsRecord):
            return replace(result, users=tuple((*one, {**state, "friends": True}) for *one, state in result.users))
        return result

    seams.stored(patch, hasty)


def left_out_messages_not_counted(patch: Any) -> None:
    """A first sync does not report the unread messages among those that it leaves out."""

    def silent(execute: Any, request: Any) -> Any:
        result = execute(request)
        if isinstance(result, storage.MissedPage):
            result.skipped = [replace(one, unread=[]) for one in result.skipped]
        return result

    seams.stored(patch, silent)


def first_sync_leaves_out_too_much(patch: Any) -> None:
    """A first sync counts silent notifications as messages, and so leaves out visible ones."""
    patch.setattr(requests, "is_visible", lambda message: True)


def push_not_retried(patch: Any) -> None:
    """A gateway does not push an unacknowledged message again."""
    seams.policies(patch, Gateway, lambda policies: {"push_timeout": 1e9})


def slow_reader_stays_connected(patch: Any) -> None:
    """A gateway's queue of unacknowledged pushes has no bound."""
    seams.policies(patch, Gateway, lambda policies: {"send_queue": 1 << 30})


def shown_twice(patch: Any) -> None:
    """A device shows a message again when it arrives again."""
    take = inbox.Inbox.take

    def naive(self: Any, *arguments: Any) -> Any:
        taken = take(self, *arguments)
        return inbox.Taken.SHOW if taken is inbox.Taken.REPEATED else taken

    patch.setattr(inbox.Inbox, "take", naive)


def shown_out_of_order(patch: Any) -> None:
    """A device shows each message at once, without waiting for gaps to close."""
    take = inbox.Inbox.take

    def hasty(self: Any, message: Any, *rest: Any) -> Any:
        self.next_seq = max(self.next_seq, message.seq)
        return take(self, message, *rest)

    patch.setattr(inbox.Inbox, "take", hasty)


def devices_disagree(patch: Any) -> None:
    """A gateway pushes a message without its custom field."""

    def bare(forward: Any, connection: int, frame: Any) -> None:
        if isinstance(frame, frames.Push):
            frame = replace(frame, message=replace(frame.message, custom=None))
        forward(connection, frame)

    seams.port(patch, Gateway, "send", bare)


def acknowledged_before_shown(patch: Any) -> None:
    """A device acknowledges the message after the last one that it has."""

    def ahead(forward: Any, frame: Any) -> None:
        forward(replace(frame, seq=frame.seq + 1) if isinstance(frame, frames.Delivered) else frame)

    seams.port(patch, client.Client, "send", ahead)


def sync_skips_one(patch: Any) -> None:
    """A sync leaves out the first missed message (an off-by-one error in the cursor)."""

    def skip(execute: Any, request: Any) -> Any:
        if isinstance(request, storage.Missed):
            cursors = {conversation: seq + 1 for conversation, seq in request.cursors.items() if seq}
            request = replace(request, cursors=cursors)
        return execute(request)

    seams.stored(patch, skip)


def pages_too_long(patch: Any) -> None:
    """A page of a sync exceeds the limit on messages."""

    def long(execute: Any, request: Any) -> Any:
        return execute(replace(request, limit=request.limit * 10) if isinstance(request, storage.Missed) else request)

    seams.stored(patch, long)


# --- marks, counts, status -------------------------------------------------------------------------------------------


def unread_decremented_twice(patch: Any) -> None:
    """A read takes as many messages beyond the mark off the unread count as it reads."""
    read = Unread.read

    def twice(self: Any, seq: int) -> Any:
        before = self.count
        moved = read(self, seq)
        self.end(seq + before - self.count)
        return moved

    patch.setattr(Unread, "read", twice)


def own_messages_counted(patch: Any) -> None:
    """A user's own messages count as unread."""
    count = online.User.count

    def all_of_them(self: Any, message: Any) -> Any:
        counted = count(self, message)
        self.state_of(message.conversation_id).unread.add(message.seq)
        return counted

    patch.setattr(online.User, "count", all_of_them)


def mark_sent_before_saved(patch: Any) -> None:
    """A read mark is sent to the user's devices before storage has it."""
    sessions: dict[str, dict[str, Any]] = defaultdict(dict)  # user -> device -> latest session
    versions: dict[tuple[str, str], Any] = {}

    def early(frame: Any) -> Any:
        if isinstance(frame, Up):
            sessions[frame.session.user][frame.session.device] = frame.session
        return frame

    make = Users.__init__

    def init(self: Users, port: Any, *rest: Any) -> None:
        def to_gateway(gateway: str, frame: Any) -> None:
            if isinstance(frame, Down) and isinstance(frame.frame, frames.State):
                versions[frame.sessions[0].user, frame.frame.state.conversation_id] = frame.frame.state
            port.to_gateway(gateway, frame)

        def store(request: Any) -> None:
            known = versions.get((getattr(request, "user", ""), getattr(request, "conversation_id", "")))
            if isinstance(request, storage.SaveState) and known is not None and request.read_seq > known.read_seq:
                ahead = replace(known, read_seq=request.read_seq, version=known.version + 1, unread=0)
                for session in sessions[request.user].values():
                    port.to_gateway(session.gateway, Down((session,), frames.State(ahead)))
            port.store(request)

        hasty = seams.Port(port)
        hasty.to_gateway, hasty.store = to_gateway, store
        make(self, hasty, *rest)

    seams.received(patch, Users, early)
    patch.setattr(Users, "__init__", init)


def read_mark_moves_back(patch: Any) -> None:
    """Storage sets the read mark to that of each change, even if the change has none."""
    applied = storage.SaveState.applied_to

    def lower(self: Any, state: Any, max_seq: int) -> Any:
        return replace(applied(self, state, max_seq), read_seq=min(self.read_seq, max_seq))

    patch.setattr(storage.SaveState, "applied_to", lower)


def read_beyond_the_end(patch: Any) -> None:
    """A mark may exceed the end of the log."""
    applied = storage.SaveState.applied_to

    def beyond(self: Any, state: Any, max_seq: int) -> Any:
        changed = applied(self, state, max_seq)
        return replace(changed, read_seq=max_seq + 1) if changed.read_seq == max_seq > 0 else changed

    patch.setattr(storage.SaveState, "applied_to", beyond)


def setting_dropped(patch: Any) -> None:
    """Storage forgets whether a conversation is muted."""

    def drop(execute: Any, request: Any) -> Any:
        return execute(replace(request, muted=None) if isinstance(request, storage.SaveState) else request)

    seams.stored(patch, drop)


def other_devices_not_notified(patch: Any) -> None:
    """A changed state is sent only to the user's device that made the last request."""
    asker: dict[str, Any] = {}

    def remember(frame: Any) -> Any:
        if isinstance(frame, Up):
            asker[frame.session.user] = frame.session
        return frame

    def one(forward: Any, gateway: str, frame: Any) -> None:
        if isinstance(frame, Down) and isinstance(frame.frame, frames.State):
            frame = replace(frame, sessions=tuple(one for one in frame.sessions if one == asker.get(one.user)))
        if not isinstance(frame, Down) or frame.sessions:
            forward(gateway, frame)

    seams.received(patch, Users, remember)
    seams.port(patch, Users, "to_gateway", one)


def late_message_becomes_the_last(patch: Any) -> None:
    """lastMsg is the message that arrived last, not the one with the highest seq."""
    receive = client.Client.receive

    def overwrite(self: Any, frame: Any, now: float) -> None:
        if isinstance(frame, frames.Stored) and self.status(frame.id_client) is Status.SENDING:
            self._receiver.conversations[frame.conversation_id].last_msg = None
        receive(self, frame, now)

    patch.setattr(client.Client, "receive", overwrite)


def busy_and_stored(patch: Any) -> None:
    """A router refuses a message as busy, and stores it all the same."""
    is_busy = Conversations._is_busy

    def refuse_only(self: Conversations, up: Up, now: float) -> bool:
        is_busy(self, up, now)
        return False

    patch.setattr(Conversations, "_is_busy", refuse_only)


def repetition_refused(patch: Any) -> None:
    """A repeated send of a stored message is refused, so the message shows as failed."""
    repeated: set[str] = set()

    def remember(up: Up) -> Up:
        if isinstance(up.frame, frames.Send) and up.frame.resend:
            repeated.add(up.frame.id_client)
        return up

    def refuse(forward: Any, gateway: str, frame: Any) -> None:
        if isinstance(frame, Down) and isinstance(frame.frame, frames.Stored) and frame.frame.id_client in repeated:
            refusal = frames.Rejected(frames.Send.op, frame.frame.id_client, Code.CONFLICT, "it is there")
            frame = replace(frame, frame=refusal)
        forward(gateway, frame)

    seams.received(patch, Conversations, remember)
    seams.port(patch, Conversations, "to_gateway", refuse)


def resend_dropped(patch: Any) -> None:
    """A gateway drops a repeated send, as if it had passed it on before."""

    def swallow(frame: Any) -> Any:
        return None if isinstance(frame, frames.Send) and frame.resend else frame

    seams.received(patch, Gateway, swallow)


# --- sessions --------------------------------------------------------------------------------------------------------


def kicked_session_stays_open(patch: Any) -> None:
    """A gateway keeps the connection of a device that has logged in elsewhere."""

    def deaf(frame: Any) -> Any:
        return None if isinstance(frame, internal_frames.Kick) else frame

    seams.received(patch, Gateway, deaf, "receive_from_router")


def stale_epoch_accepted(patch: Any) -> None:
    """The end of an old session ends the later one of the same device."""
    latest: dict[tuple[str, str], Any] = {}

    def remember(forward: Any, gateway: str, frame: Any) -> None:
        if isinstance(frame, internal_frames.Attached) and frame.session is not None:
            latest[frame.session.user, frame.session.device] = frame.session
        forward(gateway, frame)

    def detach(frame: Any) -> Any:
        if isinstance(frame, internal_frames.Detach):
            session = frame.session
            return replace(frame, session=latest.get((session.user, session.device), session))
        return frame

    seams.port(patch, Users, "to_gateway", remember)
    seams.received(patch, Users, detach)


def connection_end_not_reported(patch: Any) -> None:
    """A gateway does not report that the connection of a session has ended."""

    def silent(forward: Any, router: str, frame: Any) -> None:
        if not isinstance(frame, internal_frames.Detach):
            forward(router, frame)

    seams.port(patch, Gateway, "to_router", silent)


def client_sends_no_heartbeats(patch: Any) -> None:
    """A client sends no heartbeats."""

    def mute(forward: Any, frame: Any) -> None:
        if not isinstance(frame, frames.Ping):
            forward(frame)

    seams.port(patch, client.Client, "send", mute)


def kicked_client_logs_in_again(patch: Any) -> None:
    """A client treats a kick as if the server were unavailable, and logs in again."""

    def busy(frame: Any) -> Any:
        is_kick = isinstance(frame, frames.Refused) and frame.code in (Code.REPLACED, Code.KICKED)
        return replace(frame, code=Code.UNAVAILABLE) if is_kick else frame

    seams.received(patch, client.Client, busy)


def login_without_deadline(patch: Any) -> None:
    """A client that opens a connection has no deadline for it."""
    patch.setattr(client.Client, "next_deadline", lambda self: None if self.state == "connecting" else _next(self))


_next = client.Client.next_deadline


def presence_without_a_policy(patch: Any) -> None:
    """Friends receive presence although the policy is off."""
    seams.policies(patch, Users, lambda policies: {"presence": "friends"})


# --- chatrooms -------------------------------------------------------------------------------------------------------


def room_keeps_devices_that_left(patch: Any) -> None:
    """A chatroom keeps a device that has left it."""

    def deaf(frame: Any) -> Any:
        return None if isinstance(frame, Up) and isinstance(frame.frame, frames.Leave) else frame

    seams.received(patch, Chatrooms, deaf)


BUGS = [
    ack_before_store, seq_reused_after_a_crash, dedupe_in_memory_only, sender_order_not_enforced, strangers_may_write,
    received_ack_against_the_policy, rates_ignored, recall_not_stored, fan_out_to_strangers,
    missing_group_answers_otherwise, position_shown_to_outsiders, last_member_forgotten,
    push_not_retried, slow_reader_stays_connected, shown_twice, shown_out_of_order, devices_disagree,
    acknowledged_before_shown, sync_skips_one, pages_too_long, unread_decremented_twice, own_messages_counted,
    mark_sent_before_saved,
    read_mark_moves_back, read_beyond_the_end, setting_dropped, other_devices_not_notified,
    late_message_becomes_the_last, busy_and_stored, repetition_refused, resend_dropped, kicked_session_stays_open,
    stale_epoch_accepted, connection_end_not_reported, client_sends_no_heartbeats, kicked_client_logs_in_again,
    login_without_deadline, presence_without_a_policy, room_keeps_devices_that_left, group_listed_for_strangers,
    last_member_not_listed, requests_listed_as_friends, left_out_messages_not_counted, first_sync_leaves_out_too_much,
]  # fmt: skip
