"""The checks of an adapter against its server. Each returns a remark for the table, and raises Failure."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise

from imsim.core.model import Scene
from imsim.load.adapters.interface import (
    Acked,
    Closed,
    Conversation,
    Delivered,
    Disconnect,
    Event,
    Failed,
    Feature,
    Joined,
    Message,
    NotJoined,
    Offline,
    Out,
    Read,
    Ready,
)
from imsim.load.aio import as_plain
from imsim.load.conformance.kit import Failure, Kit, Tap, explained

_IN_FLIGHT = 20  # messages of a user that wait for their answers at the same time
_LONGEST_ID = 60  # characters
_LARGE = 16_000  # characters

_TEXTS = {
    "one letter": "x",
    "a large text": "x" * _LARGE,
    "a large text of other scripts": "好🙂" * (_LARGE // 7),
    "other scripts": "h\u00e9llo \u4f60\u597d \u0645\u0631\u062d\u0628\u0627 \U0001f642 e\u0301",
    "markup and quotes": "<b>&amp;</b> ]]> \"double\" 'single' \\ {json: [1]} %s ${x}",
    "white space": "  two\nlines\tand a tab  ",
}


async def login(kit: Kit) -> str:
    async with kit.devices("alice", online=False) as (alice,):
        alice.start()
        await kit.ready(alice)
        await asyncio.sleep(kit.quiet)
        if (count := sum(isinstance(event, Ready) for event in alice.events)) != 1:
            kit.fail(f"one login gave {count} Ready", "return Ready once for each login")
    return ""


async def echo(kit: Kit) -> str:
    """Alice sends a message, Bob answers with the same text."""
    async with kit.devices("alice", "bob") as (alice, bob):
        there = alice.send(bob.conversation, "echo")
        kit.belongs(await kit.delivered(bob, there), bob.conversation, alice)
        back = bob.send(alice.conversation, "echo")
        kit.belongs(await kit.delivered(alice, back), alice.conversation, bob)
        advice = "the device that sends a message must not report its delivery"
        kit.not_received(alice, [there], "it is the sending device", advice)
        kit.not_received(bob, [back], "it is the sending device", advice)
    return "one message and its answer"


async def two_users(kit: Kit) -> str:
    async with kit.devices("alice", "bob") as (alice, bob):
        there, back = [], []
        for number in range(_IN_FLIGHT):
            there.append(alice.send(bob.conversation, f"there {number}"))
            back.append(bob.send(alice.conversation, f"back {number}"))
        for receiver, ids in ((bob, there), (alice, back)):
            for id in ids:
                await kit.delivered(receiver, id)
        await asyncio.sleep(kit.quiet)
        kit.received_once(bob, there)
        kit.received_once(alice, back)
    return f"{_IN_FLIGHT} messages in flight in each direction: ids, order, each once"


async def texts(kit: Kit) -> str:
    async with kit.devices("alice", "bob") as (alice, bob):
        for name, text in _TEXTS.items():
            id = alice.send(bob.conversation, text)
            with explained(name, "If the server refuses it, raise the server's limit"):
                await kit.delivered(bob, id)
        start = f"{kit.adapter.target.namespace}:"
        longest = start + "7" * (_LONGEST_ID - len(start))
        alice.send(bob.conversation, "the longest id", longest)
        await kit.delivered(bob, longest)
    return f"up to {_LARGE:,} characters; an id of {_LONGEST_ID}"


async def acks(kit: Kit) -> str:
    async with kit.devices("alice", "bob") as (alice, bob):
        ids = [alice.send(bob.conversation, f"message {number}") for number in range(_IN_FLIGHT)]
        for id in ids:
            if not await kit.acked(alice, id):
                kit.fail(
                    f"Failed({id!r}) for a message that the server should accept", "check the frame that `send` returns"
                )
        if unknown := {event.id for event in alice.events if isinstance(event, Acked)} - set(ids):
            kit.fail(f"Acked({min(unknown)!r}) for a message that was not sent", "return the id that `send` got")
        if any(isinstance(event, Acked) for event in bob.events):
            kit.fail("the recipient returned Acked", "return Acked only on the device that sent the message")
        alice.is_mute = True
        lost = alice.send(bob.conversation, "this message is lost")
        await asyncio.sleep(kit.quiet)
        if any(isinstance(event, Acked) and event.id == lost for event in alice.events):
            kit.fail(
                "Acked for a message that did not reach the server",
                "return Acked only when the server's answer has arrived",
            )
    return f"{_IN_FLIGHT} messages in flight"


async def groups(kit: Kit) -> str:
    return await _many(kit, Scene.GROUP)


async def chatrooms(kit: Kit) -> str:
    return await _many(kit, Scene.CHATROOM)


async def _many(kit: Kit, scene: Scene) -> str:
    async with kit.devices("alice", "bob", "carol", "dave") as (alice, bob, carol, dave):
        place = kit.conversation(scene, "crowd")
        members = [alice.user, bob.user, carol.user]
        for tap in (alice, bob, carol, bob):  # bob repeats it
            before = len(tap.events)
            tap.join(place, members, tap is alice)
            await _joined(kit, tap, place, before)
        ids = [alice.send(place, f"message {number}") for number in range(3)]
        for member in (bob, carol):
            for id in ids:
                kit.belongs(await kit.delivered(member, id), place, alice)
        answer = bob.send(place, "answer")
        for member in (alice, carol):
            kit.belongs(await kit.delivered(member, answer), place, bob)
        await asyncio.sleep(kit.quiet)
        kit.received_once(bob, ids)
        kit.received_once(carol, [*ids, answer])
        kit.received_once(alice, [answer])
        sender = "the device that sends a message must not report its delivery, also if the server reflects it"
        kit.not_received(alice, ids, "it is the sending device", sender)
        kit.not_received(bob, [answer], "it is the sending device", sender)
        kit.not_received(dave, [*ids, answer], "the user has not joined", "send it to the members only")
        before = len(bob.events)
        await _cut(kit, bob)
        await kit.ready(bob, before)
        if scene is Scene.CHATROOM:
            before = len(bob.events)
            bob.join(place, members, False)  # harmless, and the answer shows that the session is inside
            await _joined(kit, bob, place, before)
        await kit.delivered(bob, await kit.sent(alice, place))
    return "three members, one other user; a member reconnects"


async def _joined(kit: Kit, tap: Tap, place: Conversation, after: int) -> None:
    def answers(event: Event) -> bool:
        return isinstance(event, Joined | NotJoined) and event.conversation == place

    advice = "return Joined once messages to the conversation reach the device, and again when `join` is repeated"
    event = await kit.expect(tap, answers, f"no Joined({place.name!r})", advice, after)
    if isinstance(event, NotJoined):
        kit.fail(f"NotJoined({place.name!r}): {event.reason}", "check the frames that `join` returns")


async def own_devices(kit: Kit) -> str:
    async with kit.devices("alice/phone", "alice/laptop", "bob") as (phone, laptop, bob):
        id = phone.send(bob.conversation, "hello")
        await kit.delivered(bob, id)
        kit.belongs(await kit.delivered(laptop, id), bob.conversation, phone)
        back = bob.send(phone.conversation, "hello")
        for tap in (phone, laptop):
            await kit.delivered(tap, back)
        kit.not_received(phone, [id], "it is the sending device", "report deliveries on the other devices only")
    return "a phone and a laptop"


async def types(kit: Kit) -> str:
    async with kit.devices("alice", "bob") as (alice, bob):
        id = f"{kit.adapter.target.namespace}:1"
        message = Message(id, bob.conversation, "a card", "custom", custom='{"card":1}')
        alice.do(lambda now: alice.session.send(message, now))
        await kit.delivered(bob, id)
    return "a message of type custom"


async def receipts(kit: Kit) -> str:
    async with kit.devices("alice", "bob") as (alice, bob):
        id = await kit.sent(alice, bob.conversation)
        await kit.delivered(bob, id)
        if any(isinstance(event, Read) for event in bob.events):
            kit.fail("Read before the call of `read`", "return Read when the server knows of it, not earlier")
        bob.read(alice.conversation, id)
        advice = "return Read(id) on the device that read, once the server knows; or leave Feature.RECEIPTS out"
        await kit.expect(bob, lambda event: event == Read(id), f"no Read({id!r}) after `read`", advice)
    return ""


async def resume(kit: Kit) -> str:
    async with kit.devices("alice", "bob") as (alice, bob):
        before = await kit.sent(alice, bob.conversation)
        await kit.delivered(bob, before)
        bob.stop()
        await asyncio.sleep(kit.quiet)
        ids = [alice.send(bob.conversation, f"missed {number}") for number in range(3)]
        with suppress(Failure):  # a server whose acks are the recipients' receipts has sent none so far
            for id in ids:
                await kit.acked(alice, id)
        await asyncio.sleep(kit.quiet)
        kit.not_received(bob, ids, "it is offline", "return nothing after `stop`")
        start = len(bob.events)
        bob.start()
        await kit.ready(bob, start)
        for id in ids:
            await _resumed(kit, bob, id, "it was offline")
        kit.received_once(bob, ids)
        live = await kit.sent(alice, bob.conversation)
        await kit.delivered(bob, live)
        synced = sum(isinstance(event, Delivered) and event.id in ids and event.synced for event in bob.events)
    return f"{len(ids)} missed messages, {synced} marked as synced"


async def _resumed(kit: Kit, tap: Tap, id: str, when: str) -> None:
    advice = "Request what the device missed after each login; or leave Feature.RESUME out"
    with explained(f"a message sent while {when} did not arrive", advice):
        await kit.delivered(tap, id)


async def membership(kit: Kit) -> str:
    async with kit.devices("alice", "bob", online=False) as (alice, bob):
        alice.start()
        await kit.ready(alice)
        places = [bob.conversation]
        if kit.offers(Feature.GROUPS):
            places.append(kit.conversation(Scene.GROUP, "crowd"))
            alice.join(places[1], [alice.user, bob.user], True)
            await _joined(kit, alice, places[1], 0)
        ids = [await kit.sent(alice, place) for place in places]
        bob.start()
        await kit.ready(bob)
        advice = "Leave Feature.MEMBERSHIP out if the server keeps nothing for a device before its first login"
        for id in ids:
            with explained("a message sent before the first login of its recipient did not arrive", advice):
                await kit.delivered(bob, id)
    return "messages from before the first login"


async def reconnect(kit: Kit) -> str:
    async with kit.devices("alice", "bob") as (alice, bob):
        for _ in range(2):
            before = len(bob.events)
            await _cut(kit, bob)
            await kit.ready(bob, before)
        # The server refuses connections, and ends the next one before the login.
        before, bob.refusals, bob.cuts_when_connected = len(bob.events), 3, 1
        first = len(bob.attempts)
        await _cut(kit, bob)
        await kit.ready(bob, before, 2 * kit.patience)
        count = sum(isinstance(event, Offline) for event in bob.events[before:])
        if count < 5:
            kit.fail(
                f"5 times without connection gave {count} Offline",
                "return Offline for each Disconnected, after a failed attempt as well as after a lost connection",
            )
        pauses = [later - earlier for earlier, later in pairwise(bob.attempts[first:])]
        if min(pauses) < 0.001:
            kit.fail(
                "the session connects again at once after a failed attempt",
                "wait at least about policies.reconnect_min, with a random part from target.draw",
            )
        await kit.delivered(bob, await kit.sent(alice, bob.conversation))
        await kit.delivered(alice, await kit.sent(bob, alice.conversation))
    return "after cuts, refusals and a cut login"


async def _cut(kit: Kit, tap: Tap) -> None:
    """Cut the connection, and wait until the session has reported it."""
    before = len(tap.events)
    tap.cut()
    advice = "return Offline for Disconnected, and connect again after a pause"
    await kit.expect(tap, Offline, "no Offline after the connection was lost", advice, before)


async def silence(kit: Kit) -> str:
    """The server accepts the connection, and then sends nothing that reaches the session."""
    timeout = kit.adapter.target.policies.login_timeout
    async with kit.devices("alice", online=False) as (alice,):
        alice.is_deaf = True
        alice.start()

        def ends(event: Event) -> bool:
            return isinstance(event, Offline | Ready)

        advice = "set a deadline for the login (policies.login_timeout), then return Disconnect and Offline"
        missing = "no Offline although the server does not answer the login"
        event = await kit.expect(alice, ends, missing, advice, patience=timeout + kit.patience)
        if isinstance(event, Ready) and alice.received:
            kit.fail("Ready before the server answered", "return Ready when the server's answer has arrived")
        if isinstance(event, Ready):
            return "the server sends nothing at a login"
        alice.is_deaf = False
        await kit.ready(alice, alice.events.index(event))
    return "an unanswered login ends, and is repeated"


async def stop(kit: Kit) -> str:
    async with kit.devices("alice", "bob") as (alice, bob):
        bob.stop()
        bob.stop()
        events, attempts = len(bob.events), len(bob.attempts)
        await asyncio.sleep(2 * kit.quiet)
        kit.refuse_error(bob)
        if len(bob.attempts) > attempts or any(isinstance(event, Ready) for event in bob.events[events:]):
            kit.fail("the session connects again after `stop`", "stop is final until `start`: cancel the deadlines")
        bob.start()
        await kit.ready(bob, events)
        await kit.delivered(bob, await kit.sent(alice, bob.conversation))
        await kit.delivered(alice, await kit.sent(bob, alice.conversation))
        bob.stop()
        before = len(bob.events)
        bob.start()
        bob.stop()  # before the login is complete
        await asyncio.sleep(kit.quiet)
        kit.refuse_error(bob)
        if any(isinstance(event, Ready | Closed) for event in bob.events[before:]):
            kit.fail("the session logs in although `stop` followed `start`", "stop also gives up a login")
        later = bob.now() + 3600
        outs: list[Out] = []
        if (deadline := bob.session.next_deadline()) is not None:
            outs = bob.session.handle_timer(max(later, deadline))
        if any(not isinstance(out, Disconnect | Failed) for out in outs):
            kit.fail("a timer acts after `stop`", "cancel the deadlines in `stop`")
    return "stop, start, stop while connecting"


async def loss(kit: Kit) -> str:
    """Frames and connections are lost on either side; messages arrive as far as the features promise."""
    remarks = []
    async with kit.devices("alice", "bob") as (alice, bob):
        await kit.delivered(bob, await kit.sent(alice, bob.conversation))
        # Frames to the recipient are lost, then its connection.
        bob.is_deaf = True
        start = len(bob.events)
        ids = [alice.send(bob.conversation, f"in flight {number}") for number in range(2)]
        acked = await kit.acked_in_time(alice, ids)
        await asyncio.sleep(kit.quiet)
        bob.refusals = 2
        await _cut(kit, bob)
        bob.is_deaf = False
        offline = [alice.send(bob.conversation, f"offline {number}") for number in range(2)]
        acked += await kit.acked_in_time(alice, offline)
        ids += offline
        await kit.ready(bob, start)
        if kit.offers(Feature.RESUME):
            for id in acked if kit.offers(Feature.ACK) else ids:
                await _resumed(kit, bob, id, "its connection was lost")
        after = await kit.sent(alice, bob.conversation)
        await kit.delivered(bob, after)
        arrived = len(set(bob.delivered(ids)))
        hint = " (Feature.RESUME?)" if arrived == len(ids) and not kit.offers(Feature.RESUME) else ""
        remarks.append(f"{arrived} of {len(ids)} reach a recipient whose connection is lost{hint}")

        # The message is lost, then the connection of its sender.
        results = [await _sender_loses(kit, alice, bob, mute=True), await _sender_loses(kit, alice, bob, mute=False)]
        # The sender is offline when it sends.
        before = len(alice.events)
        await _cut(kit, alice)
        late = alice.send(bob.conversation, "sent while offline")
        await kit.ready(alice, before)
        if await kit.acked_in_time(alice, [late]):
            await kit.delivered(bob, late)
        results.append("sent" if late in bob.delivered() else "not sent")
        remarks.append("of a sender whose connection is lost: " + ", ".join(results))
        await kit.delivered(bob, await kit.sent(alice, bob.conversation))
    return "; ".join(remarks)


async def _sender_loses(kit: Kit, alice: Tap, bob: Tap, *, mute: bool) -> str:
    """Lose a message, or the answer to it, then the sender's connection. Return the outcome in words."""
    before = len(alice.events)
    alice.is_mute, alice.is_deaf = mute, not mute
    id = alice.send(bob.conversation, "the message is lost" if mute else "the answer is lost")
    if not mute:
        await kit.delivered(bob, id)
    else:
        await asyncio.sleep(kit.quiet)
    alice.is_mute = alice.is_deaf = False
    await _cut(kit, alice)
    await kit.ready(alice, before)
    advice = "Send the message again after the login, or return Failed(id) for it"
    with explained(f"{'a message' if mute else 'an answer'} was lost with the connection", advice):
        acked = await kit.acked_in_time(alice, [id])
    if acked:
        with explained("a message was lost although it is acknowledged"):
            await kit.delivered(bob, id)
    await asyncio.sleep(kit.quiet)
    reports, usual = bob.delivered().count(id), _frames_with(bob, bob.delivered()[0])
    if reports == 1 and usual and _frames_with(bob, id) >= 2 * usual:
        kit.fail(
            f"the server delivered {id!r} twice, and the session returned one Delivered",
            "report repetitions, too: the second one counts as a duplicate",
        )
    sent = f"{'message' if mute else 'answer'} {'repaired' if acked else 'lost'}"
    return f"{sent}, a duplicate" if reports > 1 else sent


def _frames_with(tap: Tap, id: str) -> int:
    return sum(id.encode() in frame for frame in tap.received)


async def duplicates(kit: Kit) -> str:
    """Each frame of the server arrives twice, at copies of the sessions of the sender and the recipient."""
    async with kit.devices("alice", "bob") as (alice, bob):
        await kit.delivered(bob, await kit.sent(alice, bob.conversation))
        are_split = all([alice.split(), bob.split()])
        alice.repeats = bob.repeats = True
        ids = [alice.send(bob.conversation, f"twice {number}") for number in range(3)]
        for id in ids:
            await kit.delivered(bob, id)
            await kit.acked(alice, id)
        alice.repeats = bob.repeats = False
        await kit.delivered(bob, await kit.sent(alice, bob.conversation))
        await kit.delivered(alice, await kit.sent(bob, alice.conversation))
        reports = bob.delivered(ids)
        if are_split:
            reports = _reports_of_shadows(kit, alice, bob, ids)
    return f"{len(reports) - len(ids)} of {len(ids)} repetitions reported as a second Delivered, the others ignored"


def _reports_of_shadows(kit: Kit, alice: Tap, bob: Tap, ids: list[str]) -> list[str]:
    """Check what the copies have returned for the repeated frames. Return the ids that the recipient's reported."""
    advice = "ignore the second one, or report a second Delivered: a repetition must not change the session"
    for tap in (alice, bob):
        events = [plain for out in tap.shadow_outs for plain in as_plain(out)]
        if closed := next((event for event in events if isinstance(event, Closed | Offline)), None):
            kit.fail(f"a frame that arrived twice has ended the session: {closed.reason}", advice)
        wanted, kind = (ids, Delivered) if tap is bob else (ids if kit.offers(Feature.ACK) else [], Acked)
        reports = [event.id for event in events if isinstance(event, kind) and event.id in ids]
        if missing := [id for id in wanted if id not in reports]:
            kit.fail(f"no {kind.__name__}({missing[0]!r}) where each frame arrives twice", advice)
    return reports
