"""Invariants of the local views: what each device has shown, and holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from imsim.core import events
from imsim.core.model import Flow, Message, is_chatroom
from imsim.faultsearch.evidence import Evidence
from imsim.faultsearch.model.rules import Wish, is_shown, wish_in
from imsim.faultsearch.model.view import View


def views_are_in_order(evidence: Evidence) -> Iterator[str]:
    """Each device shows each message once, in strictly increasing order of seq."""
    for instance in evidence.everyone:
        for conversation, messages in evidence.view(instance).shown.items():
            for one, other in pairwise(messages):
                if one.seq >= other.seq:
                    yield f"{other.id_client} was shown on {instance.name} after {one.id_client} in {conversation}"
            own = {ack.id_client for ack in evidence.acked(instance) if ack.conversation_id == conversation}
            # another device's message with this idClient may be shown before this one sends its own
            own -= evidence.shared
            for message in messages:
                if message.sender == instance.user and message.id_client in own:
                    yield f"{message.id_client} is both shown and acknowledged on {instance.name}"


def views_agree_with_the_log(evidence: Evidence) -> Iterator[str]:
    """A shown message is in the log, or was before it was amended; and is not one that devices must not show."""
    for instance in evidence.everyone:
        for event in instance.events:
            if type(event) is events.Shown and not is_chatroom(event.message.conversation_id):
                message = event.message
                if message not in evidence.model.forms[message.conversation_id, message.seq]:
                    yield f"{message.id_client} was shown on {instance.name} as {message.id}, which has other words"
                if not is_shown(message):
                    yield f"{message.id_client} was shown on {instance.name}, although it must not be"
                if (event.flow == Flow.OUT) != (message.sender == instance.user):
                    yield f"{message.id_client} was shown on {instance.name} with flow {event.flow}"


def every_device_holds_its_visible_set(evidence: Evidence) -> Iterator[str]:
    """delivered = stored x eligible devices: each device holds its whole visible set in its present form, as it was
    given.

    A user may see the messages from joining to leaving.
    """
    yield from (f"{text} before the second login" for text in evidence.world.missing_entries if text)
    for instance in evidence.live:
        view, given = evidence.view(instance), evidence.model.given[instance.name]
        seen = evidence.model.seen_by(instance.user)
        for conversation in sorted({*view.texts, *seen}):
            has, visible = view.texts[conversation], seen.get(conversation, [])
            torn = evidence.model.has_missed_amendments(instance.user, conversation)
            texts = {message.seq: message.content for message in visible if is_shown(message)}
            left_out = view.left_out[conversation]  # up to there, it has what was pushed before its first sync
            texts = {seq: text for seq, text in texts.items() if seq > left_out or seq in has}
            if sorted(has) != sorted(texts) and not torn:
                yield f"{instance.name} holds {sorted(has)} of {conversation}, not {sorted(texts)}"
            elif has != texts and not torn and not _is_shared(evidence, visible):
                yield f"{instance.name} has other words in {conversation}: {has}, not {texts}"
            if not given[conversation] >= set(has):
                yield f"{instance.name} holds messages of {conversation} that it was never given"


def _is_shared(evidence: Evidence, visible: list[Message]) -> bool:
    """Return whether two devices sent one of these: once it is amended, the content of either may have been stored."""
    return any(message.id_client in evidence.shared for message in visible)


def amendments_show(evidence: Evidence) -> Iterator[str]:
    """Each live device shows each recall, edit, answer and silent change of its user's logs once, in order, and no
    others."""
    for instance in evidence.live:
        view = evidence.view(instance)
        for id, visible in evidence.model.seen_by(instance.user).items():
            log, wishes = evidence.model.logs[id], [wish_in(entry) for entry in visible]
            # A user need not see the edits of a message that was recalled later, but may have seen them.
            edited = [(seq, content) for seq, content in view.edited[id] if not log[seq - 1].recalled]
            shown: dict[str, list[Any]] = {"recall": view.recalled[id], "edit": edited, "change": view.changed[id]}
            if id.startswith("system:"):
                shown["resolve"] = view.resolved
            for kind, has in shown.items():
                wanted = [(wish.seq, what) for wish in wishes if (what := _amends(wish, kind)) is not None]
                left_out = [what for seq, what in wanted if seq <= view.left_out[id]]
                needed = [what for seq, what in wanted if seq > view.left_out[id]]
                early = has[: len(has) - len(needed)]
                if has != [*early, *needed] or not _is_part_of(early, left_out):
                    yield f"{instance.name} shows for {kind} in {id}: {has}, not {needed} after some of {left_out}"


def _is_part_of(some: list[Any], every: list[Any]) -> bool:
    """Return whether `some` are elements of `every`, in the same order."""
    rest = iter(every)
    return all(one in rest for one in some)


def _amends(wish: Wish, kind: str) -> object:
    """Return what a device shows of an entry of the log; None if the entry is not of this kind."""
    if kind == "change":
        is_silent = wish.event in ("apply", "reject") or wish.event.startswith("friend_")
        return wish.seq if is_silent else None
    if wish.event != kind:
        return None
    if kind == "resolve":
        return wish.targets[0], wish.data["state"]
    return wish.data["seq"] if kind == "recall" else (wish.data["seq"], wish.data["content"])


def system_messages_come_once(evidence: Evidence) -> Iterator[str]:
    """Each device shows each system message of its user once, and their unread count is a recount."""
    for instance in evidence.live:
        log, view = f"system:{instance.user}", evidence.view(instance)
        visible = evidence.model.view(instance.user, log)
        shown = [m.id for m in view.shown[log]]
        wanted = [m.id for m in visible if is_shown(m) and (m.seq > view.left_out[log] or m.id in shown)]
        if not _is_shared(evidence, visible) and shown != wanted:
            own = {m.id for m in visible if m.sender == instance.user}  # a device need not show them
            if [id for id in shown if id not in own] != [id for id in wanted if id not in own]:
                yield f"{instance.name} was shown the system messages {shown}, not {wanted}"
        unread = evidence.model.unread(instance.user, log)
        if instance.machine.system_unread() != unread:
            yield f"{instance.name} counts {instance.machine.system_unread()} system messages unread, not {unread}"


def every_look_agrees_with_events(evidence: Evidence) -> Iterator[str]:
    """At each look of a user, the list agrees with the events so far.

    unread counts the messages that were shown beyond the read mark and not recalled. lastMsg is the highest of those
    shown. The application was notified of the settings: pinned, muted, blocked, custom.
    """
    for instance in evidence.world.instances():
        view, at = View(instance.user, instance.sent), 0
        settings: dict[str, tuple[bool, bool, str, bool]] = {}
        for until, shown in instance.looks:
            for event in instance.events[at:until]:
                view.take(event)
                if type(event) is events.StateChanged:
                    settings[event.conversation_id] = (event.pinned, event.muted, event.custom, event.blocked)
                elif type(event) is events.Reset:
                    settings.clear()
            at = until
            for one in shown:
                heard = settings.get(one.id, (False, False, "", False))
                if heard != (one.pinned, one.muted, one.custom, one.blocked):
                    yield f"{instance.name} reported {heard} of {one.id}, but shows {one}"
                unread = sum(seq > one.read_seq for seq in view.counted[one.id])
                if one.unread != unread:
                    yield f"{instance.name} counted {one.unread} unread in {one.id}, not {unread}"
                last = max(_left(evidence, view, one.id, one.last_msg.seq), default=0)
                if one.last_msg.seq != last and not last < one.last_msg.seq <= view.left_out[one.id]:
                    yield f"{instance.name} had {one.last_msg} last in {one.id}, not {last}"


def _left(evidence: Evidence, view: View, conversation: str, last: int) -> list[int]:
    """Return the seqs that may be the last message: those shown up to `last`, and later ones that are not recalled.

    A device that searched for its last message may know recalls that the view does not know.
    """
    recalled = {entry.seq for entry in evidence.model.logs[conversation] if entry.recalled}
    return [seq for seq in view.texts[conversation] if seq <= last or seq not in recalled]


def marks_only_grow(evidence: Evidence) -> Iterator[str]:
    """The marks of the user and of the other user never move back on any device."""
    for instance in evidence.world.instances():
        marks: dict[tuple[type, str], int] = {}
        for event in instance.events:
            if isinstance(event, events.ReadMoved | events.PeerRead | events.PeerDelivered):
                seq = event.read_seq if isinstance(event, events.ReadMoved) else event.seq
                key = (type(event), event.conversation_id)
                if seq <= marks.get(key, 0):
                    yield f"{instance.name} moved a mark back, from {marks[key]} to {event}"
                if isinstance(event, events.ReadMoved) and event.unread < 0:
                    yield f"{instance.name} counted {event.unread} unread in {event.conversation_id}"
                marks[key] = seq
