"""The class `imsim.Client`."""

from __future__ import annotations

import difflib
import os
import random
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from ssl import SSLContext
from typing import Any, NamedTuple, TypeVar, overload

from imsim.core import changes, events, frames
from imsim.core.exceptions import UsageError
from imsim.core.model import check_name
from imsim.core.policies import Policies
from imsim.live.client import views
from imsim.live.client.access import TokenSource
from imsim.live.client.application import EVENTS
from imsim.live.client.device import Device
from imsim.live.client.feed import Consumer
from imsim.live.client.handles import Chatroom, Friends, Group
from imsim.live.client.sending import Sender, To, checked, custom_text
from imsim.live.client.session import Session
from imsim.live.client.state_file import StateFile
from imsim.live.client.views import Conversation, Conversations, Message, Public

_MOST = 2**53 - 1  # a seq beyond every message
_Function = TypeVar("_Function", bound=Callable[[Any], object])


class ReadCount(NamedTuple):
    """How many members have read a message, and how many members there are. Neither counts the sender."""

    read: int
    members: int


class Client(Sender):
    """A device of a user, connected to a server. Use it in an `async with` block, or call `start` and `close`.

    The client logs in, connects again after a loss, gets new tokens, and repeats what was not acknowledged. It shows
    each message once and in order. Nothing counts as read before the application calls `mark_read`.

    Recipients and conversations (`to`, `conversation`) are the name of a user (`"bob"`), the id of a conversation
    (`"group:team"`, `"chatroom:lounge"`), or an object: a Conversation, a Message of it, a Group or a Chatroom.

    Every method can raise ClientEnded: once the server has ended the client, or the application has closed it, each
    call fails at once. Methods that change something raise SendError; methods that ask for something raise ClientError.
    All of them are RunError, and have `code` and `retry`. UsageError means that an argument is wrong.

    Args:
        url: the address of the server, such as `ws://127.0.0.1:8765`.
        user: the name of the user.
        token: a token for the login.
        key: the server's key, with which the client gets tokens by itself.
        token_source: an async function that returns a token. Exactly one of token, key and token_source is given.
        device: the name of this device. A second client with the same user and device ends the first one.
        kind: the kind of the device, such as `mobile`; it matters if the server allows one device of each kind.
        state: a file that keeps the positions of this device, so that a restarted program does not receive its history
            again. It is created if it does not exist.
        first_sync: without saved state, fetch only this many of the newest messages of each conversation. None fetches
            everything. `history` has the others.
        queue: the number of events that wait for the application, at most. The oldest are dropped beyond that.
        policies: the client's own times, such as `send_timeout`; by default those of a default server.
        ssl: the TLS settings for `wss://`; by default those of the system.

    Example:
        >>> import asyncio
        >>> async def main(url):
        ...     async with imsim.Client(url, "alice", key="imsim") as me:
        ...         sent = await me.send_text("bob", "are you there?")
        ...         return sent.seq, sent.status, me.conversations
        >>> with imsim.serve("office") as server:
        ...     asyncio.run(main(server.url))
        (1, 'success', [<Conversation p2p:alice:bob, 0 unread>])
    """

    #: The clock and the random numbers of the device. Tests replace them.
    _clock = staticmethod(time.monotonic)
    _wall = staticmethod(time.time)
    _draw = staticmethod(random.random)

    def __init__(
        self,
        url: str,
        user: str,
        *,
        token: str | None = None,
        key: str | None = None,
        token_source: TokenSource | None = None,
        device: str = "python",
        kind: str = "",
        state: str | os.PathLike[str] | None = None,
        first_sync: int | None = None,
        queue: int = 10_000,
        policies: Policies | None = None,
        ssl: SSLContext | None = None,
    ) -> None:
        if first_sync is not None:
            _check_count("first_sync", first_sync, 1)
        _check_count("queue", queue, 1)
        if policies is not None and not isinstance(policies, Policies):
            raise UsageError(f"policies: must be an imsim.core.policies.Policies (got {type(policies).__name__})")
        policies = replace(policies or Policies(), first_sync=first_sync or 0)
        made = Device(
            url,
            user,
            device,
            kind=kind,
            token=token,
            key=key,
            token_source=token_source,
            policies=policies,
            clock=self._clock,
            wall=self._wall,
            draw=self._draw,
            ssl=ssl,
            on_event=lambda event: self._session.on_event(event),
            shows_at_once=False,
            first_sync_once=True,
        )
        file = StateFile(state, user) if state is not None else None
        self._session = Session(made, policies, file, queue)
        self._machine = made.machine

    # --- the connection ---------------------------------------------------------------------------------------------

    async def start(self) -> Client:
        """Connect, log in and fetch the missed messages, and return this client. `async with` calls it.

        Raises:
            ClientEnded: the server refuses the login, or the client has ended before.
            ClientError: the first attempt fails; the server does not answer, for example.
            UsageError: the client was started before, or the file `state` cannot be used.
        """
        await self._session.start()
        return self

    async def close(self) -> None:
        """End the client: calls that wait fail at once, and the state is saved. Repeating the call is harmless.

        `async with` calls it. The server may have stored a message whose send still waits.
        """
        await self._session.close()

    async def wait_closed(self) -> None:
        """Wait until the client is closed, for a program that works with handlers only.

        Raises:
            ClientEnded: the server has ended the session.
        """
        await self._session.wait_closed()

    async def __aenter__(self) -> Client:
        return await self.start()

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        await self._session.close(failed=error is not None)

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._session.device.url

    @property
    def user(self) -> str:
        """The name of the user."""
        return self._session.user

    @property
    def device(self) -> str:
        """The name of this device."""
        return self._session.device.device

    @property
    def state(self) -> str:
        """The state: `new`, `connecting`, `logging_in`, `syncing`, `online`, `offline` (waiting), `ended`, `closed`."""
        return self._session.state

    @property
    def limits(self) -> frames.Limits:
        """The limits of the server, such as `content_bytes`; before the first login, those of a default server."""
        return self._machine.limits

    @property
    def windows(self) -> frames.Windows:
        """The time windows of the server in seconds, such as `recall`; before the first login, the defaults."""
        return self._machine.windows

    @property
    def dropped(self) -> int:
        """The number of events that were dropped because the application did not take them: see `queue`."""
        return self._session.application.feed.dropped

    # --- receiving --------------------------------------------------------------------------------------------------

    def messages(self, *, own: bool = False, notifications: bool = False) -> Messages:
        """Return an asynchronous iterator over the messages that arrive: `async for message in me.messages()`.

        Each iterator has all messages from its creation on. If no other one is open, it begins with the messages of
        other users that arrived since the last one, or since the start. It ends when the application closes the client.
        If the server ends the client, the iterator raises ClientEnded after the last message. Tasks can share an
        iterator; each message goes to one of them.

        Args:
            own: also the messages that other devices of this user send, from now on.
            notifications: also the notices in conversations, such as a new member of a group, from now on.
        """
        names = {"message", *(["sent"] if own else ()), *(["notification"] if notifications else ())}
        return Messages(self._session, frozenset(names))

    @overload
    def on(self, event: str) -> Callable[[_Function], _Function]: ...
    @overload
    def on(self, event: str, function: _Function) -> _Function: ...
    def on(self, event: str, function: Callable[[Any], object] | None = None) -> Any:
        """Call a function for each event of a kind: `me.on("message", print)`. It can be a decorator.

        The table in docs/client.md lists the events and their values. An async function is called for one event at a
        time, in order; other functions are called at once and must not block. An exception in a function is logged.
        Register functions before the start to receive all events. The first function for `message` also gets the
        messages that arrived since the start.

        Args:
            event: the name of the event, such as `message`, `read`, `recalled`, `system` or `ended`.
            function: a function of the event's value, async or not. None returns a decorator.
        """
        self._check_event(event)
        if function is None:
            return lambda function: self.on(event, function)
        if not callable(function):
            raise UsageError(f"function: must be a function of one value (got {type(function).__name__})")
        self._session.application.on(event, function)
        return function

    def off(self, event: str, function: Callable[[Any], object]) -> None:
        """Do not call a function any longer.

        Args:
            event: the name of the event.
            function: the function that `on` received.
        """
        self._check_event(event)
        self._session.application.off(event, function)

    @staticmethod
    def _check_event(event: str) -> None:
        if event not in EVENTS:
            near = difflib.get_close_matches(str(event), EVENTS, 3, 0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(f"event: {hint}must be one of {', '.join(EVENTS)} (got {event!r})")

    # --- conversations ----------------------------------------------------------------------------------------------

    @property
    def conversations(self) -> Conversations:
        """The conversation list: pinned conversations first, and the latest first among each."""
        return Conversations(views.listed(line, self.user) for line in self._machine.conversations())

    def conversation(self, conversation: To) -> Conversation | None:
        """Return a conversation of the list, or None if it is not there.

        Args:
            conversation: which one.
        """
        line = self._machine.conversation(self._conversation_id(conversation))
        return views.listed(line, self.user) if line is not None else None

    def total_unread(self, *, include_muted: bool = True) -> int:
        """Return the number of unread messages in the conversation list.

        Args:
            include_muted: whether muted conversations count.
        """
        return self._machine.total_unread(include_muted)

    @property
    def system_unread(self) -> int:
        """The number of unread system messages. `mark_read("system:<user>")` clears it."""
        return self._machine.system_unread()

    async def mark_read(self, conversation: To, up_to: int | Message | None = None) -> None:
        """Mark messages as read, on all devices of the user. The server has stored the mark when this returns.

        Args:
            conversation: which one. `mark_read(message)` marks everything up to this message.
            up_to: the last message that was read, or its seq. None marks everything that this device has received,
                or up to `conversation` if that is a message.
        """
        if up_to is None and isinstance(conversation, Message):
            up_to = conversation
        seq = up_to.seq if isinstance(up_to, Message) else up_to
        if seq is not None:
            _check_count("up_to", seq, 0)
        id, machine = self._conversation_id(conversation), self._machine
        await self._session.ask(frames.Read.op, id, lambda now: machine.read(id, now, seq), f"read mark of {id}")

    async def history(self, conversation: To, limit: int = 50, *, before: int | Message | None = None) -> list[Message]:
        """Return messages of a conversation from the server, the newest first.

        Args:
            conversation: which one.
            limit: how many, at most.
            before: only messages before this one, or before this seq.

        Raises:
            ClientError: the user has no such conversation.
        """
        _check_count("limit", limit, 0)
        last = _MOST if before is None else (before.seq if isinstance(before, Message) else before) - 1
        id, found = self._conversation_id(conversation), list[Message]()
        self._session.check()
        while last >= 1 and len(found) < limit:
            page = await self._history_page(id, last)
            visible = [message for message in page.messages if message.recalled or changes.is_visible(message)]
            found += [views.received(message, self.user) for message in reversed(visible)]
            last = page.messages[0].seq - 1 if page.more and page.messages else 0
        return found[:limit]

    async def _history_page(self, id: str, last: int) -> events.History:
        page: events.History = await self._session.ask(
            frames.History.op,
            frames.History(id, 1, last).ref,
            lambda now: self._machine.history(id, 1, last, now),
            f"history of {id}",
        )
        return page

    async def read_count(self, message: Message) -> ReadCount:
        """Return how many members have read a message, and how many members there are, both without its sender.

        Args:
            message: a message of a p2p or group conversation.
        """
        id, seq = checked(message).conversation_id, message.seq
        ref = frames.ReadCount(id, seq).ref
        counted: events.ReadCounted = await self._session.ask(
            frames.ReadCount.op, ref, lambda now: self._machine.read_count(id, seq, now), f"read count of {ref}"
        )
        return ReadCount(counted.read, counted.members)

    async def set_conversation(
        self,
        conversation: To,
        *,
        pinned: bool | None = None,
        muted: bool | None = None,
        custom: object = None,
    ) -> None:
        """Change the given settings of a conversation, on all devices of the user.

        Args:
            conversation: which one.
            pinned: whether to list it first.
            muted: whether not to alert the user, and to leave it out of `total_unread(include_muted=False)`.
            custom: data of your own about the conversation: a text, or a value that becomes JSON.
        """
        id = self._conversation_id(conversation)
        await self._session.set_conversation(id, pinned=pinned, muted=muted, custom=custom_text(custom))

    async def hide(self, conversation: To) -> None:
        """Remove a conversation from the list until its next message, and mark it as read.

        Args:
            conversation: which one.
        """
        id = self._conversation_id(conversation)
        self._session.check()
        if self._machine.conversation(id) is None:
            return
        ref = frames.SetConversation(id).ref
        await self._session.ask(
            frames.SetConversation.op, ref, lambda now: self._machine.hide(id, now), f"settings of {id}"
        )

    # --- groups, chatrooms, friends, devices ------------------------------------------------------------------------

    def group(self, name: str) -> Group:
        """Return a group, whether it exists or not. It has the methods for members and settings.

        Args:
            name: the name of the group.
        """
        return Group(self._session, name)

    async def create_group(
        self,
        name: str,
        members: Iterable[str] = (),
        *,
        title: str = "",
        join: str = "invite",
        consent: bool = False,
    ) -> Group:
        """Create a group with this user as owner, and return it.

        Args:
            name: the name, which no other group has.
            members: the users to add.
            title: the display name.
            join: how other users become members: `open`, `approval` or `invite`.
            consent: whether the members must accept first.

        Raises:
            SendError: the server refuses; the code is `conflict` if the group exists already.
        """
        if isinstance(members, str):
            raise UsageError(f"members: must be a list of users (got the text {members!r})")
        group = self.group(name)
        await group.create(*members, title=title, join=join, consent=consent)
        return group

    def chatroom(self, name: str) -> Chatroom:
        """Return a chatroom, with the methods to enter and to leave it.

        Args:
            name: the name of the room.
        """
        return Chatroom(self._session, name)

    @property
    def friends(self) -> Friends:
        """The friends of the user, with the methods for requests and blocks."""
        return Friends(self._session)

    async def end_session(self, device: str) -> None:
        """Log out another device of this user.

        Args:
            device: the name of the device.
        """
        check_name("device", device)
        await self._session.ask(
            frames.EndSession.op,
            device,
            lambda now: self._machine.end_session(device, now),
            f"end of the session of {device}",
        )

    def __repr__(self) -> str:
        return f"<imsim client {self.user}/{self.device} at {self.url}, {self.state}>"


class Messages(Public):
    """An asynchronous iterator over the messages that a client receives: see `Client.messages`."""

    def __init__(self, session: Session, names: frozenset[str]) -> None:
        self._session = session
        self._consumer = session.application.open_loop(names)
        # A loop that ends by `break` drops its iterator.
        weakref.finalize(self, _closed, session, self._consumer).atexit = False

    @property
    def dropped(self) -> int:
        """The number of messages that were dropped, because this loop did not take them in time."""
        return self._consumer.dropped

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> Message:
        self._session.check_started()
        entry = await self._consumer.take()
        if entry is not None:
            message = entry.item
            assert isinstance(message, Message)
            return message
        error = self._session.end()
        if error is not None:
            raise error
        raise StopAsyncIteration


def _closed(session: Session, consumer: Consumer) -> None:
    session.application.close_loop(consumer)


def _check_count(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name}: must be a whole number, {least} or more (got {value!r})")
