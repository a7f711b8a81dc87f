"""Situations of messages: on their way to the log, and from there to the devices."""

from __future__ import annotations

from collections import Counter

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Code, Flow, Route, Scene, is_chatroom
from imsim.faultsearch.dispatch import Down, Up
from imsim.faultsearch.entries import Asked, ClientReceived, Event, GatewaySent, RouterReceived, RouterSent, Stored
from imsim.faultsearch.evidence import Repeatable, number_of
from imsim.faultsearch.situations.memory import Memory, amends, key_of
from imsim.faultsearch.situations.situation import End, has_code, occurs, when
from imsim.faultsearch.workload import ATTACHMENTS

SendArrived = RouterReceived[Up[frames.Send]]
Appended = Stored[storage.Append]
Refused = RouterSent[Down[frames.Rejected]]
Limited = GatewaySent[frames.Rejected]
Sent = Event[events.Sent]
Shown = Event[events.Shown]
History = Event[events.History]
Skipped = Event[events.Skipped]
# as received by a device, and as reported to its application
_REFUSED = ClientReceived[frames.Rejected] | Event[events.SendFailed]


def _must_wait(entry: Limited) -> bool:
    return entry.frame.code == Code.RATE_LIMITED


def _two_devices(entry: End, past: Memory) -> int:
    counts = Counter(id_client for acked in past.acked.values() for id_client in acked)
    return sum(count > 1 for count in counts.values())


def _is_behind_a_refusal(entry: Appended, past: Memory) -> bool:
    if not isinstance(entry.result, storage.Fenced) or entry.request.effects is None:
        return False
    epoch, seq = past.refused.get(entry.request.message.conversation_id, (-1, 0))
    return epoch == entry.request.epoch and seq < entry.request.message.seq


def _has_waited(entry: Refused, past: Memory) -> bool:
    """Whether the refusal had to wait for an acknowledgement: then both are sent at the same moment."""
    return past.let_out[:2] == (entry.node, entry.at)


def _is_early(entry: ClientReceived[frames.Push], past: Memory) -> bool:
    message = entry.frame.message
    return message.seq > 1 and message.seq - 1 not in past.given[entry.node, message.conversation_id]


def _is_kept(entry: Shown) -> bool:
    """Whether the message is in a log, not in a chatroom."""
    return not is_chatroom(entry.event.message.conversation_id)


def _was_left_out(entry: Event[events.Recalled | events.Edited], past: Memory) -> bool:
    return entry.event.seq <= past.left_out.get((entry.node, entry.event.conversation_id), 0)


def _is_overtaken(entry: ClientReceived[frames.Page | frames.SyncDone], past: Memory) -> bool:
    return any(1 in past.given[entry.node, one.conversation_id] for one in entry.frame.skipped)


def _is_again(entry: GatewaySent[Repeatable], past: Memory) -> bool:
    conversation, number = number_of(entry.frame)
    return past.numbers.get((entry.peer, entry.node, entry.frame.op, conversation)) == number


def _ends_by_bytes(entry: Stored[storage.Missed | storage.Range], past: Memory) -> bool:
    page = entry.result
    if not isinstance(page, storage.MissedPage | storage.RangePage):
        return False
    return page.more and len(page.messages) < entry.request.limit


def _skips_what_was_got(entry: Stored[storage.Missed], past: Memory) -> bool:
    page = entry.result
    return isinstance(page, storage.MissedPage) and page.inbox - entry.request.inbox > len(page.messages)


SITUATIONS = (
    # --- answers ---
    when("ack lost", Event[events.Acked], "a message was acknowledged after its send had been reported as failed",
         lambda entry, past: (entry.node, entry.event.id_client) in past.failed),
    occurs("early ack", Event[events.Received], "ack = after_receive acknowledged a message before it was stored"),
    has_code("send gave up", Code.TIMEOUT, Event[events.SendFailed], "a send used all its attempts"),
    has_code("storage failed", Code.UNAVAILABLE, ClientReceived[frames.Rejected], "a request failed, as storage did"),
    has_code("server busy", Code.BUSY, _REFUSED, "a send was refused because storage was too slow"),
    has_code("gap refused", Code.GAP, _REFUSED, "a message was refused because its predecessor had not arrived"),
    when("missing group", Stored[storage.OpenConversation], "a send arrived for a group that does not exist",
         lambda entry, past: entry.result is None),
    has_code("not a member", Code.NOT_MEMBER, _REFUSED, "a send was refused because its sender is not a member"),
    has_code("too large", Code.TOO_LARGE, _REFUSED, "a send beyond the size limit was refused"),
    has_code("conflict", Code.CONFLICT, _REFUSED, "an idClient was used for another message"),
    has_code("muted", Code.MUTED, _REFUSED, "a send was refused because its sender is muted"),
    has_code("not allowed", Code.FORBIDDEN, _REFUSED, "a change was refused because of its sender's role"),
    has_code("blocked", Code.BLOCKED, _REFUSED, "a send was refused because its sender is blocked"),
    has_code("strangers refused", Code.NOT_FRIENDS, _REFUSED, "a send was refused because the users are not friends"),
    has_code("answered too late", Code.EXPIRED, _REFUSED, "an answer, recall or edit was refused because it was late"),
    when("user had to wait", Limited, "a user reached the rate limit",
         lambda entry, past: _must_wait(entry) and not past.has_got(entry.node, internal_frames.Down)),
    when("group had to wait", Limited, "a group reached its rate limit",
         lambda entry, past: _must_wait(entry) and past.has_got(entry.node, internal_frames.Down)),
    when("sent again by hand", Sent, "the application sent a failed message again",
         lambda entry, past: entry.event.attempt == 1 and (entry.node, entry.event.id_client) in past.failed),
    when("sent again though stored", Sent, "the application sent a successful message again",
         lambda entry, past: entry.event.attempt == 1 and entry.event.id_client in past.acked[entry.node]),
    when("same id client from two devices", End, "two devices got an acknowledgement of one idClient", _two_devices),
    # --- at the writer ---
    when("coalesced retry", SendArrived, "a send arrived again while the first one waited for storage",
         lambda entry, past: (entry.frame.conversation_id, *key_of(entry.frame)) in past.appending),
    when("resend answered from storage", Stored[storage.Find], "a resent message was found where it had been stored",
         lambda entry, past: entry.result is not None),
    when("duplicate refused by storage", Appended, "storage knew a message that its writer had forgotten",
         lambda entry, past: isinstance(entry.result, storage.Duplicate)),
    when("fenced writer", Appended, "storage refused a writer that another one had replaced",
         lambda entry, past: isinstance(entry.result, storage.Fenced)),
    when("amendments raced", SendArrived, "a second amendment of a message arrived while the first one was pending",
         lambda entry, past: past.amending.get(amends(entry.frame), key_of(entry.frame)[1]) != key_of(entry.frame)[1]),
    when("change behind a refusal", Appended, "a change was in flight behind a message that storage refused",
         _is_behind_a_refusal),
    when("older time at a higher seq", Appended, "a message was stored with an earlier time than the one before it",
         lambda entry, past: isinstance(entry.result, storage.Appended)
         and entry.request.message.time < past.times.get(entry.request.message.conversation_id, 0)),
    when("mark moved by sending", Appended, "a send reported how far its device had shown messages",
         lambda entry, past: entry.request.shown > 0),
    when("memory lost", Stored[storage.OpenConversation], "a router opened a conversation again",
         lambda entry, past: entry.request.conversation_id in past.opened),
    when("reopened by itself", Asked[storage.OpenConversation],
         "a writer opened a conversation again after a timeout of storage",
         lambda entry, past: past.heard.get(entry.node) != entry.at and entry.request.conversation_id in past.opened),
    when("refusal waited for a change", Refused, "a refusal waited for the pending change that it depends on",
         lambda entry, past: entry.frame.frame.code in (Code.NOT_MEMBER, Code.FORBIDDEN, Code.MUTED)
         and _has_waited(entry, past) and past.heard.get(entry.node) != entry.at),
    when("conflict deferred", Refused, "an idClient was used for another message while the first waited for storage",
         lambda entry, past: _has_waited(entry, past)
         and (entry.frame.frame.code, entry.frame.frame.ref) == (Code.CONFLICT, past.let_out[2])),
    # --- shown messages ---
    when("attachment", Shown, "a message with an attachment, of a known or unknown type, was shown",
         lambda entry, past: _is_kept(entry) and entry.event.message.type in ATTACHMENTS),
    when("custom", Shown, "a message with a custom field was shown",
         lambda entry, past: entry.event.message.custom is not None
         and _is_kept(entry) and entry.event.message.scene != Scene.SYSTEM),
    when("not countable", Shown, "a notification was shown",
         lambda entry, past: _is_kept(entry) and not entry.event.message.countable),
    when("own message from another device", Shown, "a message was shown with flow = out",
         lambda entry, past: _is_kept(entry) and entry.event.flow == Flow.OUT),
    when("shown by sync", Shown, "a device received a message by a sync",
         lambda entry, past: _is_kept(entry) and entry.event.route == Route.SYNC),
    when("system message while away", Shown, "a sync showed a system message",
         lambda entry, past: entry.event.message.scene == Scene.SYSTEM and entry.event.route == Route.SYNC),
    when("push during sync", Shown, "a push arrived before the sync was done",
         lambda entry, past: entry.event.route == Route.PUSH and entry.node not in past.ready and _is_kept(entry)),
    when("message held back shown", Shown, "a push filled a gap, and the messages held back behind it were shown",
         lambda entry, past: past.has_got(entry.node, frames.Push) and _is_kept(entry)
         and past.latest[entry.node].message is not entry.event.message),
    when("gap pulled", Shown, "a device showed messages that it had fetched to fill a gap",
         lambda entry, past: _is_kept(entry) and past.has_got(entry.node, frames.HistoryPage)),
    occurs("duplicate push", Event[events.Repeated], "a device received a message again"),
    # --- pushes and notices ---
    when("gap waited for", ClientReceived[frames.Push], "a message arrived before its predecessor", _is_early),
    occurs("notified", ClientReceived[frames.Notify], "a device was notified of a new message"),
    occurs("resync", ClientReceived[frames.Resync], "a device was notified that it must sync again"),
    when("notified again", GatewaySent[frames.Notify], "a notice was repeated because it had not been acknowledged",
         _is_again),
    when("resync repeated", GatewaySent[frames.Resync], "a resync was repeated because the device had not synced",
         _is_again),
    when("state repeated", GatewaySent[frames.State],
         "a state was repeated because its device had not acknowledged it", _is_again),
    when("found by a new writer", RouterSent[Down[frames.Resync]],
         "a new writer found messages of which users had not been notified",
         lambda entry, past: past.has_got(entry.node, internal_frames.Opened)),
    # --- syncs and ranges ---
    occurs("page with more", ClientReceived[frames.Page], "a sync took several pages"),
    when("fetched recalled", ClientReceived[frames.Page | frames.SyncDone],
         "a device received a message that had been recalled before",
         lambda entry, past: any(message.recalled for message in entry.frame.messages)),
    when("page ended by bytes", Stored[storage.Missed | storage.Range],
         "a page of a sync or range ended early because of its byte limit", _ends_by_bytes),
    when("sync past what was pushed", Stored[storage.Missed],
         "a sync skipped messages in an inbox that the device had already received", _skips_what_was_got),
    occurs("messages left out", Skipped, "a first sync left older messages of a conversation to history"),
    when("unread messages left out", Skipped, "unread messages were among those that a first sync left out",
         lambda entry, past: bool(entry.event.unread)),
    when("left-out message amended", Event[events.Recalled | events.Edited],
         "a message was recalled or edited that the first sync of a device had left out", _was_left_out),
    when("left-out messages fetched", History, "a device fetched messages that its first sync had left out",
         lambda entry, past: any(
             m.seq <= past.left_out.get((entry.node, m.conversation_id), 0) for m in entry.event.messages
         )),
    when("first sync overtaken", ClientReceived[frames.Page | frames.SyncDone],
         "a page began with the newest messages of a conversation that the device already had", _is_overtaken),
    when("history fetched", History, "a range of messages was fetched again",
         lambda entry, past: bool(entry.event.messages)),
    when("history with more", History, "a range did not fit into one page", lambda entry, past: entry.event.more),
    when("system messages fetched", History, "a range of the system log was fetched again",
         lambda entry, past: bool(entry.event.messages) and entry.event.conversation_id.startswith("system:")),
)  # fmt: skip
