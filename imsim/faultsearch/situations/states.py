"""Situations of conversation states: marks, settings, and how devices hear of them."""

from __future__ import annotations

from imsim.core import events, frames, storage
from imsim.core.model import Code
from imsim.faultsearch.dispatch import Up
from imsim.faultsearch.entries import Asked, ClientReceived, ClientSent, Event, RouterReceived, Wished
from imsim.faultsearch.situations.memory import Memory
from imsim.faultsearch.situations.situation import Situation, occurs, when

StateChanged = Event[events.StateChanged]
Read = ClientSent[frames.Read]


def _request_failed(name: str, request: type[frames.Asked], code: Code, description: str) -> Situation:
    return when(
        name, Event[events.RequestFailed], description,
        lambda entry, past: (entry.event.request, entry.event.code) == (request.op, code),
    )  # fmt: skip


def _is_unread(entry: Event[events.PeerDelivered], past: Memory) -> bool:
    latest = past.latest.get(entry.node)
    return isinstance(latest, frames.State) and entry.event.seq > latest.state.peer_read_seq


SITUATIONS = (
    # --- settings ---
    when("settings raced", Asked[storage.SaveState], "two changes of one state waited for storage",
         lambda entry, past: entry.request.read_seq == 0
         and past.pending[entry.request.user, entry.request.conversation_id] > 0),
    when("state saved again", Asked[storage.SaveState],
         "a change of a state that storage had not answered was asked for again",
         lambda entry, past: entry.request.asked is None and entry.request.delivered_seq == 0),
    when("wish replaced", Wished[frames.SetConversation], "a change was asked for while an older one was unanswered",
         lambda entry, past: (entry.node, entry.request.conversation_id) in past.wishes),
    when("set while offline", ClientSent[frames.SetConversation], "a change was asked for again after a login",
         lambda entry, past: past.has_got(entry.node, frames.LoggedIn)),
    when("set elsewhere", StateChanged, "a device heard of a change that another had made",
         lambda entry, past: past.has_got(entry.node, frames.State | frames.SyncDone)),
    when("hidden", StateChanged, "a conversation left the list",
         lambda entry, past: entry.event.hidden_seq > past.hidden_to.get((entry.node, entry.event.conversation_id), 0)),
    when("came back", Event[events.Shown], "a hidden conversation had a new message",
         lambda entry, past: past.hidden_to.get((entry.node, entry.event.message.conversation_id), 0) > 0),
    when("old state ignored", ClientReceived[frames.State], "a state came a second time, or after a newer one",
         lambda entry, past: entry.frame.state.version
         <= past.versions.get((entry.node, entry.frame.state.conversation_id), 0)),
    _request_failed("setting refused", frames.SetConversation, Code.NO_CONVERSATION,
                    "a change was asked for of a conversation that the user does not have"),
    _request_failed("setting too large", frames.SetConversation, Code.TOO_LARGE, "a custom beyond the limit"),
    when("typed across a block", RouterReceived[Up[frames.Typing]],
         "a user was typing to a user whom the same user has blocked",
         lambda entry, past: past.blocked.get((entry.frame.session.user, entry.frame.frame.conversation_id), False)),
    # --- marks ---
    when("mark moved elsewhere", Event[events.ReadMoved], "a device heard of a read on another",
         lambda entry, past: past.has_got(entry.node, frames.State)),
    when("read while offline", Read, "a mark was caught up after a login",
         lambda entry, past: entry.node not in past.ready and past.has_got(entry.node, frames.SyncDone)),
    when("system messages read", Read, "a mark was moved in the system log",
         lambda entry, past: entry.frame.conversation_id.startswith("system:")),
    occurs("peer read", Event[events.PeerRead], "a device heard how far the other user had read"),
    when("delivered mark sent", Event[events.PeerDelivered],
         "a device heard that the other user had got what it had not read", _is_unread),
    occurs("readers counted", Event[events.ReadCounted], "how many have read a message"),
    _request_failed("nothing to count", frames.ReadCount, Code.NO_CONVERSATION,
                    "the readers of a message that does not exist"),
    _request_failed("no such history", frames.History, Code.NO_CONVERSATION,
                    "a range of a conversation that is not the user's"),
    when("recalled unread", Event[events.Recalled], "a message was recalled that counted as unread",
         lambda entry, past: entry.event.seq in past.unread[entry.node, entry.event.conversation_id]
         and entry.event.seq > past.read_to.get((entry.node, entry.event.conversation_id), 0)),
)  # fmt: skip
