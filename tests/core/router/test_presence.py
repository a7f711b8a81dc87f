"""Presence and typing: updates between friends, their rate limit, and blocks."""

from __future__ import annotations

from core.builders import AB, Registry, entry, message, session

from imsim.core import frames, internal_frames, storage
from imsim.core.internal_frames import PresenceUpdate
from imsim.core.model import Code
from imsim.core.policies import Policies


def friends_of(registry, **policies):
    return Registry(registry.storage, Policies(presence="friends", **policies))


def befriended(registry):
    """Make alice and bob friends in storage."""
    state = registry.storage.execute(storage.OpenConversation(AB))
    effects = storage.Effects(state={"friends": True, "request": None})
    registry.storage.execute(storage.Append(state.epoch, message(2), 0, effects))


def received(registry, update):
    registry.take()
    registry.receive(update)
    return [(to.user, to.device, frame) for to, frame in registry.take()]


def test_friendship_follows_the_log(registry):
    friendly = friends_of(registry)
    bob = friendly.login("bob")
    friendly.deliver(entry(2, "friend_accept"))
    friendly.deliver(entry(2, "friend_accept"))
    friendly.receive(internal_frames.Detach(bob))
    sent = [("alice", PresenceUpdate("alice", frames.Presence("bob", online))) for online in (True, False)]
    assert friendly.sent_to_users == sent
    friendly.sent_to_users.clear()
    bob = friendly.login("bob")
    friendly.deliver(entry(3, "friend_accept"))
    friendly.deliver(entry(4, "friend_delete"))
    friendly.sent_to_users.clear()
    friendly.receive(internal_frames.Detach(bob))
    assert friendly.sent_to_users == []


def test_presence_update_reaches_its_sessions(registry):
    befriended(registry)
    one = registry.login("bob")
    registry.login("bob", "d1", connection=2)
    news, typing = frames.Presence("alice", True), frames.IsTyping(AB)
    assert received(registry, PresenceUpdate("bob", typing)) == [
        ("bob", "d0", typing),
        ("bob", "d1", typing),
    ]
    assert received(registry, PresenceUpdate("bob", news, only=one)) == [("bob", "d0", news)]
    assert received(registry, PresenceUpdate("carol", news)) == []
    assert registry.sent_to_users == []
    alice = session("alice", epoch=9)
    assert len(received(registry, PresenceUpdate("bob", news, asked_by=alice))) == 2
    assert registry.sent_to_users == [("alice", PresenceUpdate("alice", frames.Presence("bob", True), only=alice))]


def test_former_friend_gets_no_presence_even_if_their_router_is_late(registry):
    befriended(registry)
    registry.login("bob")
    registry.deliver(entry(3, "friend_delete"))
    for asking in ("alice", "carol"):
        assert received(registry, PresenceUpdate("bob", None, asked_by=session(asking, epoch=9))) == []
    assert registry.sent_to_users == []


def test_refused_login_causes_no_presence(registry):
    befriended(registry)
    friendly = friends_of(registry)
    friendly.revoke("bob", 5.0)
    friendly.attach("bob", issued_at=1.0)
    friendly.answer_all()
    assert [frame.code for frame in friendly.take(internal_frames.Attached)] == [Code.TOKEN_REVOKED]
    assert friendly.sent_to_users == []
    assert friendly.machine._users == {}


def test_presence_beyond_the_budget_waits_and_only_the_latest_is_sent(registry):
    befriended(registry)
    friendly = friends_of(registry, presence_rate=0.5, presence_burst=1)

    def presence_sent():
        news, friendly.sent_to_users = friendly.sent_to_users, []
        return [(to, update.frame.online) for to, update in news if update.frame is not None]

    friendly.receive(internal_frames.Detach(friendly.login("bob")))
    friendly.receive(internal_frames.Detach(friendly.login("bob")))
    assert presence_sent() == [("alice", True)]
    assert friendly.machine._users == {}  # an offline user takes no memory while an update waits
    friendly.advance(1.9)
    assert presence_sent() == []
    friendly.advance(0.2)
    assert presence_sent() == [("alice", False)]
    bob = friendly.login("bob")
    friendly.ask(bob, frames.SetConversation(AB, blocked=True, number=1))
    friendly.answer_all()
    friendly.advance(3)
    assert presence_sent() == [("alice", False)]
    friendly.ask(bob, frames.SetConversation(AB, blocked=False, number=2))
    friendly.answer_all()
    friendly.deliver(entry(3, "friend_delete"))
    friendly.advance(3)
    assert presence_sent() == []
    assert friendly.machine.timers.next_deadline() is None
