"""Tests that no answer tells a user anything about conversations, or parts of them, that the user may not see.

Each test makes several worlds that differ only in what the user may not see. The same requests must get the same
answers in all of them: frames, codes, texts, order and number. The tests send frames directly, because a client would
not send most of these requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

import pytest
from contract.worlds import Device, LiveWorld, World

from imsim.core import frames
from imsim.core.model import Scene
from imsim.core.router.rules import RULED, amendments

SEQS = (-1, 0, 1, 2, 3, 7, 8, 50, 10**6, 10**30)
TEAM = "group:team"
TARGETS = ((), ("alice",), ("bob",), ("bob", "dave"), ("no name",))
_TIMES = re.compile(r"\b(time=|'expires': )\d+")

Setup = Callable[[World], None]


def answers(device: Device, request: Any) -> list[str]:
    """Send the frame as it is, and return every frame that the device receives until the server is idle.

    The client does not see the answers, so it does not react to them.
    """
    received: list[str] = []

    def intercept(frame: Any) -> bool:
        if type(frame) in get_args(frames.ToClient):
            received.append(_TIMES.sub(r"\g<1>0", str(frame)))
            return True
        return False

    device.lose(intercept)
    device.act(lambda now: device.machine._connection.put(request, now))
    device.world.run_until_idle()
    return received


def assert_same(make_world: Callable[[], World], requests: Iterable[Any], *setups: Setup, only: str = "") -> None:
    """Assert that the requests of alice get the same answers after each of these setups.

    `only` is the kind of answers that are compared; without it, all are.
    """
    requests, found = list(requests), []
    for setup in setups:
        world = make_world()
        if isinstance(world, LiveWorld):
            # The answers come from the same core as in the other worlds. A part of the requests shows that the shell
            # and SQLite change nothing; all of them take ten seconds of CPU.
            requests = requests[::4] if setup is setups[0] else requests
        setup(world)
        alice = world.device("alice").start()
        found.append([[one for one in answers(alice, request) if one.startswith(only)] for request in requests])
    each = zip(requests, *found, strict=True)
    leaks = [(request, *got) for request, *got in each if got.count(got[0]) < len(got)]
    assert not leaks, f"{len(leaks)} of {len(requests)} requests have different answers, such as {leaks[0]}"


# --- requests -------------------------------------------------------------------------------------------------------


def requests_about(id: str) -> Iterator[Any]:
    """Return every kind of request about a conversation, except sends."""
    for seq in SEQS:
        yield frames.Sync({id: seq})
        yield frames.Sync({"p2p:alice:bob": 0, id: seq}, number=3)
        yield frames.Read(id, seq)
        yield frames.SetConversation(id, hidden_seq=seq)
        yield frames.ReadCount(id, seq)
        yield frames.History(id, 1, seq)
        yield frames.History(id, seq, 10**6)
        yield frames.Delivered(id, seq)
        yield frames.StateAck(id, seq)
    yield frames.Group(id)
    yield frames.Group(id, "bob")
    yield frames.Sync(newest=1, number=4)
    yield frames.SetConversation(id, pinned=True)
    yield frames.SetConversation(id, muted=True, custom="mine")
    yield frames.SetConversation(id, blocked=True)
    yield frames.Typing(id)


def notice(event: str, *targets: str, operator: str = "alice", **data: Any) -> dict[str, Any]:
    file = {"event": event, "operator": operator, "targets": list(targets), "data": data}
    return {"type": "notification", "file": file}


def bodies() -> Iterator[dict[str, Any]]:
    """Return the fields of sends: of messages, and of every event with several targets and data, right and wrong."""
    yield {"content": "hello"}
    yield {"content": "hello", "shown": 5}
    yield {"content": "hello", "resend": True}
    yield {"content": "hello", "after": "unknown"}
    yield {"content": "x" * 20_000}
    yield {"type": "custom", "custom": "{}"}
    yield {"type": "notification"}
    yield notice("unknown")
    yield notice("leave", operator="bob")
    yield {**notice("leave"), "after": "unknown"}
    for event in sorted(RULED):
        if event in amendments.EVENTS:
            yield from (notice(event, seq=seq, content="new") for seq in SEQS[:-1])
            continue
        yield from (notice(event, *targets) for targets in TARGETS)
        yield notice(event, "bob", role="admin", title="mine", join="open")
        yield notice(event, title=5)


def sends(scene: Scene, to: str, *left_out: str, first: int = 1) -> Iterator[frames.Send]:
    """Return a send of each body, without these events."""
    for number, body in enumerate(bodies(), first):
        if (body.get("file") or {}).get("event") not in left_out:
            yield frames.Send(str(number), scene, to, **body)


def group_requests() -> Iterator[Any]:
    """Return every request about the group, except `create`."""
    yield from requests_about(TEAM)
    yield from sends(Scene.GROUP, "team", "create")


# --- what other users have done ---------------------------------------------------------------------------------------


def nothing(world: World) -> None:
    pass


def a_group(*contents: str, members: tuple[str, ...] = ("carol",), end: str = "", **settings: Any) -> Setup:
    """Return a setup in which bob has a group, writes to it, and maybe dismisses it."""

    def setup(world: World) -> None:
        bob = world.device("bob").start()
        bob.change("#team", "create", "100", *members, **settings)
        for number, content in enumerate(contents, 1):
            bob.send("#team", content, str(number))
        if end:
            bob.change("#team", end, "101")

    return setup


MANY = tuple("abcdefgh")


def a_talk(*contents: str) -> Setup:
    """Return a setup in which bob writes to carol, and carol reads it."""

    def setup(world: World) -> None:
        bob, carol = world.device("bob").start(), world.device("carol").start()
        for number, content in enumerate(contents, 1):
            bob.send("carol", content, str(number))
        carol.read("p2p:bob:carol")

    return setup


def news(count: int) -> Setup:
    """Return a setup in which bob gets system messages."""

    def setup(world: World) -> None:
        carol = world.device("carol").start()
        for number in range(1, count + 1):
            carol.notify("bob", str(number), custom="news")

    return setup


def a_stay(*contents: str, end: str = "", removal: str = "leave") -> Setup:
    """Return a setup in which alice was a member of bob's group before bob wrote to it."""

    def setup(world: World) -> None:
        bob, alice = world.device("bob").start(), world.device("alice").start()
        bob.change("#team", "create", "100", "alice", "carol")
        bob.send("#team", "hello", "101")
        if removal == "leave":
            alice.change("#team", "leave", "102")
        else:
            bob.change("#team", "kick", "102", "alice")
        bob.read(TEAM)  # a former member may see who reads the messages of the stay
        alice.stop()
        for number, content in enumerate(contents, 1):
            bob.send("#team", content, str(number))
        if end:
            bob.change("#team", end, "103")

    return setup


# --- strangers --------------------------------------------------------------------------------------------------------


def test_stranger_cannot_tell_whether_a_group_exists(make_world):
    dismissed = a_group(*MANY, end="dismiss")
    assert_same(make_world, group_requests(), nothing, a_group(), a_group(*MANY), dismissed)


def test_stranger_cannot_tell_whether_two_other_users_have_a_conversation(make_world):
    assert_same(make_world, requests_about("p2p:bob:carol"), nothing, a_talk("hello"), a_talk(*MANY))


def test_stranger_learns_nothing_about_the_system_log_of_another_user(make_world):
    requests = [*requests_about("system:bob"), *sends(Scene.SYSTEM, "bob")]
    assert_same(make_world, requests, nothing, news(1), news(8))


def test_stranger_outside_a_chatroom_cannot_tell_whether_it_exists(make_world):
    """To enter a chatroom is open to every user. A stranger who does not enter it learns nothing."""

    def a_room(world: World) -> None:
        bob = world.device("bob").start()
        bob.enter("lounge")
        bob.say("lounge", "hello", "1")

    requests = [*requests_about("chatroom:lounge"), *sends(Scene.CHATROOM, "lounge"), frames.Leave("lounge")]
    assert_same(make_world, requests, nothing, a_room)


@pytest.mark.parametrize("join", ["open", "approval"])
def test_stranger_learns_of_a_public_group_only_that_it_is_public(make_world, join):
    setups = (a_group(join=join), a_group(*MANY, join=join))
    requests = [*requests_about(TEAM), *sends(Scene.GROUP, "team", "create", "join", "apply")]
    assert_same(make_world, requests, nothing, *setups)
    wrong = "apply" if join == "open" else "join"
    assert_same(make_world, [frames.Send("1", Scene.GROUP, "team", **notice(wrong))], *setups)


def test_applicant_does_not_learn_how_much_is_written_in_the_group(make_world):
    apply = notice("apply")
    requests = [
        frames.Send("1", Scene.GROUP, "team", **apply),
        frames.Send("1", Scene.GROUP, "team", **apply, resend=True),
        frames.Send("2", Scene.GROUP, "team", **apply, after="1"),
        *requests_about(TEAM),
        *sends(Scene.GROUP, "team", "create", first=3),
    ]
    assert_same(make_world, requests, a_group(join="approval"), a_group(*MANY, join="approval"))


def test_invited_user_does_not_learn_how_much_is_written_in_the_group(make_world):
    setups = [a_group(*contents, members=("alice",), consent=True) for contents in ((), MANY)]
    assert_same(make_world, [*requests_about(TEAM), *sends(Scene.GROUP, "team", "create", "accept", "reject")], *setups)
    # The system message that resolves an invitation names its cause. The answer to the refusal does not.
    assert_same(make_world, [frames.Send("1", Scene.GROUP, "team", **notice("reject"))], *setups, only="Stored")


# --- former and later members -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("removal", ["leave", "kick"])
def test_former_member_does_not_learn_what_happens_in_the_group_afterwards(make_world, removal):
    setups = (a_stay(removal=removal), a_stay(*MANY, removal=removal), a_stay(end="dismiss", removal=removal))
    assert_same(make_world, group_requests(), *setups)


def test_later_member_learns_nothing_about_earlier_messages(make_world):
    def joined_after(*changes: dict[str, Any]) -> Setup:
        def setup(world: World) -> None:
            bob = world.device("bob").start()
            bob.change("#team", "create", "100", "carol")
            for number in (1, 2, 3):
                bob.send("#team", "hello", str(number))
            for number, change in enumerate(changes, 4):
                bob.change("#team", id_client=str(number), **change)
            bob.change("#team", "invite", "101", "alice")
            bob.change("#team", "role", "102", "alice", role="admin")

        return setup

    requests = [frames.ReadCount(TEAM, seq) for seq in range(1, 6)]
    requests += [
        frames.Send(f"{event}{seq}", Scene.GROUP, "team", **notice(event, seq=seq, content="new"))
        for event in amendments.EVENTS
        for seq in range(1, 6)
    ]
    plain = {"event": "unknown"}
    assert_same(
        make_world,
        requests,
        joined_after(plain),
        joined_after({"event": "recall", "seq": 2}),
        joined_after({"event": "edit", "seq": 3, "content": "new"}),
        joined_after({"event": "configure", "title": "Team"}),
    )
