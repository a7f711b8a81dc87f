"""Situations of conversation states: marks, settings, and their delivery to devices."""

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
         "a router repeated a change of a state that storage had not answered",
         lambda entry, past: entry.request.asked is None and entry.request.delivered_seq == 0),
    when("setting replaced", Wished[frames.SetConversation], "a setting was changed during an unanswered change",
         lambda entry, past: (entry.node, entry.request.conversation_id) in past.wishes),
    when("set while offline", ClientSent[frames.SetConversation], "a device sent a pending setting after a login",
         lambda entry, past: past.has_got(entry.node, frames.LoggedIn)),
    when("set elsewhere", StateChanged, "a device was notified of a setting that another device had changed",
         lambda entry, past: past.has_got(entry.node, frames.State | frames.SyncDone)),
    when("hidden", StateChanged, "a conversation left the list",
         lambda entry, past: entry.event.hidden_seq > past.hidden_to.get((entry.node, entry.event.conversation_id), 0)),
    when("hidden conversation shown again", Event[events.Shown], "a hidden conversation had a new message",
         lambda entry, past: past.hidden_to.get((entry.node, entry.event.message.conversation_id), 0) > 0),
    when("old state ignored", ClientReceived[frames.State], "a state arrived again, or after a newer one",
         lambda entry, past: entry.frame.state.version
         <= past.versions.get((entry.node, entry.frame.state.conversation_id), 0)),
    _request_failed("setting refused", frames.SetConversation, Code.NO_CONVERSATION,
                    "a setting was refused because the user does not have the conversation"),
    _request_failed("setting too large", frames.SetConversation, Code.TOO_LARGE, "a custom setting was too large"),
    when("typed across a block", RouterReceived[Up[frames.Typing]],
         "a user was typing to another user whom the first one has blocked",
         lambda entry, past: past.blocked.get((entry.frame.session.user, entry.frame.frame.conversation_id), False)),
    # --- marks ---
    when("mark moved elsewhere", Event[events.ReadMoved], "a device was notified of a read on another device",
         lambda entry, past: past.has_got(entry.node, frames.State)),
    when("read while offline", Read, "a device sent a pending read mark after a login",
         lambda entry, past: entry.node not in past.ready and past.has_got(entry.node, frames.SyncDone)),
    when("system messages read", Read, "a mark was moved in the system log",
         lambda entry, past: entry.frame.conversation_id.startswith("system:")),
    occurs("peer read", Event[events.PeerRead], "a device was notified how far the other user had read"),
    when("delivered mark sent", Event[events.PeerDelivered],
         "a device was notified that the other user had received a message before reading it", _is_unread),
    occurs("readers counted", Event[events.ReadCounted], "a device received the read count of a message"),
    _request_failed("nothing to count", frames.ReadCount, Code.NO_CONVERSATION,
                    "a read count was refused because the message does not exist"),
    _request_failed("no such history", frames.History, Code.NO_CONVERSATION,
                    "a range was refused because the conversation is not the user's"),
    # --- listings ---
    occurs("group listed", Event[events.Group], "a member received the state of a group"),
    when("group listed in pages", Event[events.Group], "a group had more members than a page",
         lambda entry, past: bool(entry.event.page.next)),
    when("muted member listed", Event[events.Group], "a listed member of a group was muted",
         lambda entry, past: any(member.muted for member in entry.event.page.members)),
    _request_failed("group not listed", frames.Group, Code.NOT_MEMBER,
                    "the state of a group was refused because the user is not a member"),
    when("friends listed", Event[events.Friends], "a user received the list of friends",
         lambda entry, past: bool(entry.event.page.friends)),
    when("blocked friend listed", Event[events.Friends], "a user has blocked a listed friend",
         lambda entry, past: any(friend.blocked for friend in entry.event.page.friends)),
    when("friend request listed", Event[events.Friends], "a user received the list of open friend requests",
         lambda entry, past: bool(entry.event.page.requests)),
    when("friends listed in pages", Event[events.Friends], "a user had more friends than a page",
         lambda entry, past: bool(entry.event.page.next)),
    when("recalled unread", Event[events.Recalled], "an unread message was recalled",
         lambda entry, past: entry.event.seq in past.unread[entry.node, entry.event.conversation_id]
         and entry.event.seq > past.read_to.get((entry.node, entry.event.conversation_id), 0)),
)  # fmt: skip
