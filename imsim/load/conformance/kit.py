"""The devices of a check, the faults of the network that a check makes, and the failure of a check."""

from __future__ import annotations

import asyncio
import copy
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import NoReturn

from imsim.core.exceptions import RunError
from imsim.core.model import Scene
from imsim.core.policies import Policies
from imsim.load.adapters.interface import (
    Acked,
    Adapter,
    Closed,
    Connect,
    Connected,
    Conversation,
    Delivered,
    Disconnected,
    Event,
    Failed,
    Feature,
    Item,
    Message,
    Out,
    Ready,
    Received,
    Session,
)
from imsim.load.aio import Connection, Device, is_acked, is_delivered

_MOST_RECORDED = 300  # frames of the server that the check of garbage changes


class Failure(Exception):
    """A check failed. The text says what is wrong and what to do."""


class Tap(Device):
    """A device whose network the kit controls.

    Attributes:
        is_deaf: whether the frames of the server are lost.
        is_mute: whether the frames of the session are lost.
        repeats: whether each frame of the server arrives twice, at the shadow if there is one.
        shadow: a copy of the session, see `split`. `shadow_outs` is all that it has returned.
        refusals: the count of attempts to connect that fail at once, from now on.
        cuts_when_connected: the count of connections that are cut as soon as they are open, from now on.
        attempts: the times of the attempts to connect.
        received: the frames of the server that arrived.
    """

    def __init__(self, adapter: Adapter, number: int, user: str, device: str) -> None:
        super().__init__(adapter, number, user, device)
        self.is_deaf = False
        self.is_mute = False
        self.repeats = False
        self.shadow: Session | None = None
        self.shadow_outs: list[Out] = []
        self.refusals = 0
        self.cuts_when_connected = 0
        self.attempts: list[float] = []
        self.received: list[bytes] = []

    def split(self) -> bool:
        """Copy the session. From now on the copy, too, gets the frames of the server and the messages to send.

        Nothing that the copy returns reaches the server, so it can be treated in ways that the server would notice.
        Return whether the session can be copied.
        """
        self.shadow = copied(self.session)
        return self.shadow is not None

    def send(self, conversation: Conversation, text: str, id: str = "") -> str:
        """Send a text message, and return its id."""
        id = super().send(conversation, text, id)
        self._shade(lambda shadow, now: shadow.send(Message(id, conversation, text), now))
        return id

    def _shade(self, step: Callable[[Session, float], list[Out]]) -> None:
        shadow, now = self.shadow, self.now()
        if shadow is not None:
            self._guard(lambda: self.shadow_outs.extend(step(shadow, now)))

    def delivered(self, among: Iterable[str] | None = None) -> list[str]:
        """Return the ids of all messages that the device has received, or of those among some, with repetitions."""
        chosen = None if among is None else set(among)
        ids = [event.id for event in self.events if isinstance(event, Delivered)]
        return [id for id in ids if chosen is None or id in chosen]

    def _send(self, frame: bytes) -> None:
        if not self.is_mute:
            super()._send(frame)

    def _connect(self, connect: Connect) -> None:
        self.attempts.append(self.now())
        if self.refusals:
            self.refusals -= 1
            asyncio.get_running_loop().call_soon(self.give, Disconnected("the kit refused the connection"))
        else:
            super()._connect(connect)

    def _input(self, connection: Connection, item: Item) -> None:
        if isinstance(item, bytes):
            self.received.append(item)
            if self.is_deaf:
                return
            for _ in range(1 + self.repeats):
                self._shade(lambda shadow, now: shadow.received(item, now))
            if self.repeats and self.shadow is None:
                super()._input(connection, item)
        super()._input(connection, item)
        if isinstance(item, Connected) and self.cuts_when_connected:
            self.cuts_when_connected -= 1
            self.cut()


class Kit:
    """The adapter under test, and how long a check waits for the server.

    Attributes:
        patience: seconds within which the server must answer.
        quiet: seconds in which nothing must happen, where nothing is expected.
        frames: frames of the server that the devices have received.
        events: the classes of the events that the sessions have returned.
    """

    def __init__(self, adapter: Adapter, patience: float) -> None:
        self.adapter = adapter
        self.patience = patience
        self.quiet = min(0.3, patience / 2)
        self.frames: list[bytes] = []
        self.events: set[type[Event]] = set()
        self._open: list[Tap] = []
        self._place = 0
        self._numbers, self._places = count(1), count(1)

    def for_check(self) -> Kit:
        """Return the kit of one check. It shares what the devices receive with the others, and has its own devices."""
        one = copy.copy(self)
        one._open = []
        return one

    def offers(self, feature: Feature) -> bool:
        return feature in self.adapter.features

    def device(self, user: str, device: str = "phone") -> Tap:
        """Return a device that is offline."""
        try:
            return Tap(self.adapter, next(self._numbers), self.named(user), device)
        except Exception as error:
            self.fail(raised(error), "the adapter's method `session` must not raise")

    def named(self, name: str) -> str:
        """Return the name of a user, group or chatroom with the run's namespace. It is different for each check."""
        return f"{self.adapter.target.namespace}.{name}-{self._place}"

    def conversation(self, scene: Scene, name: str) -> Conversation:
        return Conversation(scene, self.named(name))

    @asynccontextmanager
    async def devices(self, *users: str, online: bool = True) -> AsyncIterator[list[Tap]]:
        """Open devices with new users: `alice`, or `alice/laptop` for another device of a user.

        online: whether they log in at once.
        """
        self._place = next(self._places)
        taps = []
        for one in users:
            user, _, device = one.partition("/")
            taps.append(self.device(user, device or "phone"))
        self._open = taps
        try:
            if online:
                for tap in taps:
                    tap.start()
                for tap in taps:
                    await self.ready(tap)
            yield taps
            for tap in taps:
                self.refuse_error(tap)
        finally:
            await asyncio.gather(*(tap.close() for tap in taps))
            for tap in taps:
                self.frames += tap.received[: max(0, _MOST_RECORDED - len(self.frames))]
                self.events.update(map(type, tap.events))

    # --- expectations -----------------------------------------------------------------------------------------------

    async def expect(
        self,
        tap: Tap,
        condition: type[Event] | Callable[[Event], bool],
        missing: str,
        advice: str,
        after: int = 0,
        patience: float | None = None,
    ) -> Event:
        """Return the first event that meets the condition.

        Raises: Failure, with `missing` and `advice`, if there is none in time, or if the session has ended.
        """
        patience = patience or self.patience

        def ends(event: Event) -> bool:
            return isinstance(event, Closed) or (
                isinstance(event, condition) if isinstance(condition, type) else condition(event)
            )

        try:
            event = await tap.wait(ends, patience, after)
        except RunError:
            for one in (tap, *self._open):  # a message that does not arrive may be the fault of its sender
                self.refuse_error(one)
            last = f"its last event is {tap.events[-1]}" if tap.events else "it has returned no event"
            self.fail(f"{missing} within {patience:g} s ({_name(tap)}: {last})", advice)
        if isinstance(event, Closed) and condition is not Closed:
            self.fail(f"{missing}: the session of {_name(tap)} has closed: {event.reason}", advice)
        return event

    async def ready(self, tap: Tap, after: int = 0, patience: float | None = None) -> None:
        advice = "check the url, the key and the options; return Ready once the server has accepted the login"
        await self.expect(tap, Ready, "no Ready after the login", advice, after, patience)

    async def delivered(self, tap: Tap, id: str, after: int = 0) -> Delivered:
        """Wait until the device has received the message."""
        advice = "return Delivered with the id that `send` got, for each message that arrives"
        try:
            event = await self.expect(tap, is_delivered(id), f"no Delivered({id!r})", advice, after)
        except Failure:
            others = [one for one in tap.delivered() if one != id][-3:]
            ended = any(one.error for one in self._open) or any(isinstance(event, Closed) for event in tap.events)
            if others and not ended:
                carried = any(id.encode() in frame for frame in tap.received)
                where = "a frame of the server contains the id" if carried else "no frame of the server contains it"
                self.fail(f"no Delivered({id!r}) at {_name(tap)}; it returned the ids {others}; {where}", advice)
            raise
        assert isinstance(event, Delivered)
        return event

    async def acked(self, tap: Tap, id: str, patience: float | None = None) -> bool:
        """Wait for the answer to a message, if the adapter offers it. Return whether the message was acknowledged."""
        if not self.offers(Feature.ACK):
            return False
        advice = "return Acked(id) when the server has the message, or leave Feature.ACK out"
        event = await self.expect(
            tap,
            lambda event: is_acked(id)(event) or (isinstance(event, Failed) and event.id == id),
            f"neither Acked({id!r}) nor Failed",
            advice,
            patience=patience,
        )
        return isinstance(event, Acked)

    async def acked_in_time(self, tap: Tap, ids: list[str]) -> list[str]:
        """Wait for the answers to messages after a loss. Return the ids of those that were acknowledged.

        A session may repeat a message several times. Where the recipients' receipts are the acks, a message may have
        no other answer than Received.
        """
        end = tap.now() + self.patience + _giving_up(self.adapter.target.policies)
        acknowledged = []
        for id in ids:
            try:
                if await self.acked(tap, id, max(0.01, end - tap.now())):
                    acknowledged.append(id)
            except Failure:
                if not any(isinstance(event, Received) and event.id == id for event in tap.events):
                    raise
        return acknowledged

    async def sent(self, tap: Tap, to: Conversation, text: str = "hello") -> str:
        """Send a message and wait until the server has it, as far as it tells. Return the id."""
        id = tap.send(to, text)
        self.refuse_error(tap)
        if self.offers(Feature.ACK) and not await self.acked(tap, id):
            failed = next(one for one in tap.events if isinstance(one, Failed) and one.id == id)
            self.fail(
                f"the server refused a message: {failed.code}: {failed.text}", "check the frame that `send` returns"
            )
        return id

    def received_once(self, tap: Tap, ids: list[str], *, ordered: bool = True) -> None:
        """Check that a device has received these messages, each once, in the order of their sending."""
        got = tap.delivered(ids)
        if missing := [id for id in ids if id not in got]:
            self.fail(f"{_name(tap)} has not received {missing}", "return Delivered for each message that arrives")
        if len(got) > len(ids):
            twice = sorted({id for id in got if got.count(id) > 1})
            self.fail(
                f"{_name(tap)} received {twice} more than once, although no frame was repeated",
                "return one Delivered for each arrival; check whether the device is subscribed twice",
            )
        if ordered and got != ids:
            self.fail(
                f"{_name(tap)} received {got}, sent in the order {ids}",
                "keep the order of `send` calls and of frames, also among messages that wait for a connection",
            )

    def not_received(self, tap: Tap, ids: list[str], why: str, advice: str) -> None:
        if got := tap.delivered(ids):
            self.fail(f"{_name(tap)} received {got[0]!r}, but {why}", advice)

    def belongs(self, event: Delivered, conversation: Conversation, sender: Tap) -> None:
        """Check the conversation and the sender of a message, unless the server does not say them."""
        found = event.conversation
        names = {conversation.name, sender.user} if conversation.scene is Scene.P2P else {conversation.name}
        if found is not None and (found.scene != conversation.scene or found.name not in names):
            self.fail(
                f"a message to {_text(conversation)} was delivered in {_text(found)}",
                "return the conversation as the sender addressed it, or None if the server does not say",
            )
        if event.sender not in (None, sender.user):
            self.fail(
                f"a message of {sender.user} was delivered as one of {event.sender}",
                "return the name of the user who sent it, or None if the server does not say",
            )

    def refuse_error(self, tap: Tap) -> None:
        """Raise Failure if the session has raised an exception."""
        if tap.error is not None:
            self.fail(raised(tap.error), "a session must not raise: return Closed with the reason")

    def fail(self, wrong: str, advice: str) -> NoReturn:
        raise Failure(f"{wrong}. {advice[0].upper()}{advice[1:]}")


@contextmanager
def explained(wrong: str, advice: str = "") -> Iterator[None]:
    """Put a text in front of the failure of a block, and advice after it."""
    try:
        yield
    except Failure as failure:
        raise Failure(f"{wrong}: {failure}. {advice}" if advice else f"{wrong}: {failure}") from failure


def raised(error: Exception) -> str:
    """Return a text with the exception that a session raised, and its place."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" (in {frames[-1].name}, {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())[:200]
    return f"the session raised {type(error).__name__}: {text}{place}"


def copied(session: Session) -> Session | None:
    """Return a copy of the session; None if it cannot be copied."""
    try:
        return copy.deepcopy(session)
    except Exception:  # any kind, from any object inside the session
        return None


def _giving_up(policies: Policies) -> float:
    """Return the seconds after which a session has given up a message without an answer."""
    return sum(policies.timeout_of(attempt) for attempt in range(1, policies.send_attempts + 1))


def _name(tap: Tap) -> str:
    return f"{tap.user}/{tap.device}"


def _text(conversation: Conversation) -> str:
    return f"{conversation.scene} {conversation.name}"
