"""The screens: what each device has shown, and holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from imsim.core import events
from imsim.core.model import Flow, Message, is_chatroom
from imsim.faultsearch.evidence import Evidence
from imsim.faultsearch.model.rules import event_of, is_shown
from imsim.faultsearch.model.view import Screen


def screens_are_in_order(evidence: Evidence) -> Iterator[str]:
    """Each device shows each message once, by strictly increasing seq."""
    for instance in (*evidence.world.instances(), *evidence.world.probes):
        for conversation, messages in evidence.screen(instance).shown.items():
            for one, other in pairwise(messages):
                if one.seq >= other.seq:
                    yield f"{other.id_client} shown on {instance.name} after {one.id_client} in {conversation}"
            own = {ack.id_client for ack in evidence.acked(instance) if ack.conversation_id == conversation}
            own -= evidence.shared  # there the other device's may be shown before this one sends its own
            for message in messages:
                if message.sender == instance.user and message.id_client in own:
                    yield f"{message.id_client} is both shown and acknowledged on {instance.name}"


def screens_agree_with_the_log(evidence: Evidence) -> Iterator[str]:
    """What is shown stands there, or did before it was amended; and is nothing that only machines should see."""
    for instance in (*evidence.world.instances(), *evidence.world.probes):
        for event in instance.events:
            if type(event) is events.Shown and not is_chatroom(event.message.conversation_id):
                message = event.message
                if message not in evidence.ledger.forms[message.conversation_id, message.seq]:
                    yield f"{message.id_client} shown on {instance.name} as {message.id} is not what stands there"
                if not is_shown(message):
                    yield f"{message.id_client} shown on {instance.name} is not to be seen"
                if (event.flow == Flow.OUT) != (message.sender == instance.user):
                    yield f"{message.id_client} shown on {instance.name} as flow {event.flow}"


def everybody_holds_what_is_theirs(evidence: Evidence) -> Iterator[str]:
    """Delivered = stored x eligible devices: each holds its whole visible set, with all that was amended, and was given
    it. What its user may see is what was said from joining to leaving."""
    for lack in evidence.world.deaf:
        if lack:
            yield f"{lack} before it has logged in once more"
    for instance in evidence.live:
        screen, given = evidence.screen(instance), evidence.ledger.given[instance.name]
        visible = evidence.ledger.seen_by(instance.user)
        for conversation in sorted({*screen.texts, *visible}):
            has, view = screen.texts[conversation], visible.get(conversation, [])
            torn = evidence.ledger.is_torn(instance.user, conversation)
            texts = {message.seq: message.content for message in view if is_shown(message)}
            if sorted(has) != sorted(texts) and not torn:
                yield f"{instance.name} holds {sorted(has)} of {conversation}, not {sorted(texts)}"
            elif has != texts and not torn and not _is_shared(evidence, view):
                yield f"{instance.name} has other words in {conversation}: {has}, not {texts}"
            if not given[conversation] >= set(has):
                yield f"{instance.name} holds of {conversation} what it was never given"


def _is_shared(evidence: Evidence, view: list[Message]) -> bool:
    """Whether one of it was sent by two devices: once it is amended, nobody can tell in whose words it was."""
    shared = evidence.shared
    return any(message.id_client in shared for message in view)


def amendments_show(evidence: Evidence) -> Iterator[str]:
    """On every device that is there in the end: each recall, edit and silent change once, in the log's order; and no
    device, at any time, what is none of its user's."""
    for instance in evidence.live:
        screen = evidence.screen(instance)
        for conversation, view in evidence.ledger.seen_by(instance.user).items():
            log = evidence.ledger.logs[conversation]
            yield from (f"{instance.name} shows {wrong} in {conversation}" for wrong in _amended(screen, view, log))
            settled = [_settles(entry) for entry in view if event_of(entry) == "resolve"]
            if conversation.startswith("system:") and screen.settled != settled:
                yield f"{instance.name} has settled {screen.settled}, not {settled}"


def _amended(screen: Screen, view: list[Message], log: list[Message]) -> Iterator[str]:
    """What a message was edited to before it was recalled is nobody's to see, and may have been seen."""
    conversation = view[0].conversation_id
    recalled, edited, changed = [], [], []
    for entry in view:
        event, data = event_of(entry), _data(entry)
        if event == "recall":
            recalled.append(data["seq"])
        elif event == "edit":
            edited.append((data["seq"], data["content"]))
        elif event in ("apply", "reject") or event.startswith("friend_"):
            changed.append(entry.seq)
    if screen.recalled[conversation] != recalled:
        yield f"recalled {screen.recalled[conversation]}, not {recalled},"
    shown = [(seq, content) for seq, content in screen.edited[conversation] if not log[seq - 1].recalled]
    if shown != edited:
        yield f"edited {shown}, not {edited},"
    if screen.changed[conversation] != changed:
        yield f"changes {screen.changed[conversation]}, not {changed},"


def _data(entry: Message) -> dict[str, object]:
    data = (entry.file or {}).get("data")
    return data if isinstance(data, dict) else {}


def _settles(entry: Message) -> tuple[str, str]:
    targets = (entry.file or {}).get("targets")
    assert isinstance(targets, list)
    return targets[0], str(_data(entry)["state"])


def system_messages_come_once(evidence: Evidence) -> Iterator[str]:
    """Each on every device of its user, once; a request has one answer; and their unread count is a recount."""
    for instance in evidence.live:
        log = f"system:{instance.user}"
        view = evidence.ledger.view(instance.user, log)
        shown = [m.id for m in evidence.screen(instance).shown[log]]
        wanted = [m.id for m in view if is_shown(m)]
        if not _is_shared(evidence, view) and shown != wanted:
            own = {m.id for m in view if m.sender == instance.user}  # which are no news
            if [id for id in shown if id not in own] != [id for id in wanted if id not in own]:
                yield f"{instance.name} was shown {shown} by the service, not {wanted}"
        answers = Counter(id for id, _ in evidence.screen(instance).settled)
        yield from (f"{instance.name} was told {n} answers to {id}" for id, n in answers.items() if n > 1)
        unread = evidence.ledger.unread(instance.user, log)
        if instance.machine.system_unread() != unread:
            yield f"{instance.name} counts {instance.machine.system_unread()} system messages unread, not {unread}"


def every_look_is_right(evidence: Evidence) -> Iterator[str]:
    """Whenever a user looks: unread is what the screen has shown beyond the read mark and was not taken back, lastMsg
    the highest of it; and of what was pinned, muted, blocked or noted the application was told."""
    for instance in evidence.world.instances():
        screen, at, settings = Screen(), 0, dict[str, tuple[bool, bool, str, bool]]()
        for until, views in instance.looks:
            for event in instance.events[at:until]:
                screen.take(instance, event)
                if type(event) is events.StateChanged:
                    settings[event.conversation_id] = (event.pinned, event.muted, event.custom, event.blocked)
                elif type(event) is events.Reset:
                    settings.clear()
            at = until
            for view in views:
                told = settings.get(view.id, (False, False, "", False))
                if told != (view.pinned, view.muted, view.custom, view.blocked):
                    yield f"{instance.name} was told {told} of {view.id}, and shows {view}"
                unread = sum(seq > view.read_seq for seq in screen.counted[view.id])
                if view.unread != unread:
                    yield f"{instance.name} counted {view.unread} unread in {view.id}, not {unread}"
                last = max(_left(evidence, screen, view.id, view.last_msg.seq), default=0)
                if view.last_msg.seq != last:
                    yield f"{instance.name} had {view.last_msg} last in {view.id}, not {last}"


def _left(evidence: Evidence, screen: Screen, conversation: str, last: int) -> list[int]:
    """Those that may be the last: one that was looked for in the past may know more than the screen."""
    log = evidence.ledger.logs[conversation]
    # (One beyond the log is for another invariant to complain of.)
    recalled = {entry.seq for entry in log if entry.recalled}
    return [seq for seq in screen.texts[conversation] if seq <= last or seq not in recalled]
