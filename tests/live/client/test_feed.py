"""The feed: what the application has taken, what it still gets, and what is dropped."""

from __future__ import annotations

import asyncio

from imsim.live.client.feed import Consumer, Entry, Feed

MESSAGES = frozenset({"message"})


def entry(seq: int, name: str = "message", conversation: str = "c") -> Entry:
    return Entry(name, f"{name} {seq}", conversation, seq)


async def items(consumer: Consumer, count: int) -> list:
    return [(await consumer.take()).item for _ in range(count)]


async def test_consumers_take_the_entries_with_their_names_in_order():
    feed = Feed(10)
    one, two = feed.consume(MESSAGES), feed.consume(frozenset({"message", "read"}))
    for seq in (1, 2):
        feed.put(entry(seq))
    feed.put(Entry("read", "read"))
    feed.put(Entry("typing", "nobody takes it"))
    assert await items(one, 2) == ["message 1", "message 2"]
    assert await items(two, 3) == ["message 1", "message 2", "read"]
    assert feed.end == 3


async def test_entries_leave_once_all_consumers_have_handled_them():
    feed = Feed(10)
    one, two = feed.consume(MESSAGES), feed.consume(MESSAGES)
    for seq in (1, 2, 3):
        feed.put(entry(seq))
    await items(one, 3)
    assert feed.first_needed == 0
    await items(two, 2)
    assert (feed.first_needed, feed.cursors()) == (1, {"c": 1})  # `two` handles the second one
    two.finish()
    feed.trim()
    assert (feed.first_needed, feed.cursors()) == (2, {"c": 2})
    one.finish()
    feed.release(two)
    assert (feed.first_needed, feed.cursors()) == (3, {})


async def test_cursors_name_the_first_message_of_each_conversation_that_is_not_handled():
    feed = Feed(10)
    consumer = feed.consume(MESSAGES)
    for seq, conversation in ((5, "a"), (1, "b"), (6, "a"), (2, "b")):
        feed.put(entry(seq, conversation=conversation))
    feed.put(Entry("message", "in a chatroom"))
    assert feed.cursors() == {"a": 4, "b": 0}
    await items(consumer, 3)
    assert feed.cursors() == {"a": 5, "b": 1}
    feed.forget_seqs()
    assert feed.cursors() == {}


async def test_oldest_entries_are_dropped_beyond_the_limit_and_stay_not_handled():
    feed = Feed(3)
    slow, fast = feed.consume(MESSAGES), feed.consume(MESSAGES)
    assert [feed.put(entry(seq)) for seq in (1, 2, 3)] == [False] * 3
    assert await items(fast, 3) == ["message 1", "message 2", "message 3"]
    assert await items(slow, 1) == ["message 1"]
    assert feed.put(entry(4))
    assert feed.put(entry(5))
    assert (feed.dropped, slow.dropped, fast.dropped) == (2, 1, 0)  # `slow` handles the first one
    assert await items(slow, 3) == ["message 3", "message 4", "message 5"]
    assert await items(fast, 2) == ["message 4", "message 5"]
    assert feed.cursors() == {"c": 0}


async def test_consumer_waits_for_an_entry_and_ends_with_the_feed():
    feed = Feed(3)
    consumer = feed.consume(MESSAGES)
    taking = asyncio.ensure_future(consumer.take())
    await asyncio.sleep(0)
    feed.put(Entry("message", "here"))
    assert (await taking).item == "here"
    feed.put(Entry("message", "the last one"))
    feed.finish(at_once=False)
    assert (await consumer.take()).item == "the last one"
    assert await consumer.take() is None
    feed.put(Entry("message", "too late"))
    feed.finish(at_once=True)
    assert await consumer.take() is None


async def test_tasks_that_share_a_consumer_take_each_entry_once():
    feed = Feed(10)
    consumer = feed.consume(MESSAGES)
    taking = [asyncio.ensure_future(consumer.take()) for _ in range(3)]
    await asyncio.sleep(0)
    for seq in (1, 2):
        feed.put(entry(seq))
    done, waiting = await asyncio.wait(taking, timeout=0)
    while len(done) < 2:
        done, waiting = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
    assert sorted(task.result().seq for task in done) == [1, 2]
    feed.put(entry(3))
    assert (await waiting.pop()).seq == 3


async def test_released_consumer_stops_waiting():
    feed = Feed(3)
    consumer = feed.consume(MESSAGES)
    taking = asyncio.ensure_future(consumer.take())
    await asyncio.sleep(0)
    feed.release(consumer)
    assert await taking is None


async def test_released_consumer_ends_although_the_feed_has_forgotten_its_entries():
    feed = Feed(10)
    consumer = feed.consume(MESSAGES)
    taking = asyncio.create_task(consumer.take())
    await asyncio.sleep(0)
    for seq in (1, 2):
        feed.put(entry(seq))
    feed.release(consumer)
    other = feed.consume(frozenset({"read"}))
    feed.put(Entry("read", "read"))
    assert await taking is None
    assert feed.first_needed == other.position
