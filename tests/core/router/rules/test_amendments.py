"""The rules of recalls and edits. Devices that receive them late, or miss some, agree with storage in the end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core.builders import AB, Phone, Writer, entry, message, session
from hypothesis import given, settings
from hypothesis import strategies as st

from imsim.core import changes, events, frames, storage
from imsim.core.changes import is_visible
from imsim.core.model import Code, MessageType, Scene
from imsim.core.policies import Policies
from imsim.core.router import rules
from imsim.core.router.rules import amendments
from imsim.core.router.rules.decision import Change, RuleViolation

OK = "ok"


def decide(event, operator, target, rank=0, age=0, **data):
    """Return the amended target, or the code of the violation."""
    change = Change(AB, 9, target.time + age, event, operator, (), {"seq": target.seq, **data})
    try:
        decision = rules.amend(change, target, rank, Policies(recall_window=0.01, edit_window=0.02))
    except RuleViolation as refused:
        return refused.code
    assert (decision.state, decision.joined, decision.left, decision.notes) == (None, (), (), ())
    return decision.amended


TEXT = message(3, custom="{}")


@pytest.mark.parametrize("seq", [None, 0, -1, 9, 10, "3", 3.0, True, [3]])
def test_an_invalid_target_is_refused(seq):
    with pytest.raises(RuleViolation) as refused:
        amendments.target_seq(Change(AB, 9, 0, "recall", "alice", (), {"seq": seq}))
    assert refused.value.code == Code.BAD_REQUEST


def test_target_is_any_earlier_entry_of_the_log():
    for seq in (1, 8):
        assert amendments.target_seq(Change(AB, 9, 0, "recall", "alice", (), {"seq": seq})) == seq
    with pytest.raises(RuleViolation):
        amendments.target_seq(Change(AB, 9, 0, "recall", "alice", (), {}))


@pytest.mark.parametrize(
    ("who", "rank", "age", "code"),
    [
        ("alice", 0, 0, OK),
        ("alice", 0, 10, OK),
        ("alice", 0, 11, Code.EXPIRED),
        ("bob", 0, 0, Code.FORBIDDEN),
        ("bob", 1, 10**9, OK),
        ("alice", 2, 10**9, OK),
    ],
)
def test_recall_is_allowed_to_the_sender_within_the_window_or_an_admin(who, rank, age, code):
    gone = replace(TEXT, content="", custom=None, recalled=True, amended=9)
    assert decide("recall", who, TEXT, rank, age) == (gone if code == OK else code)


@pytest.mark.parametrize(
    ("who", "rank", "age", "code"),
    [
        ("alice", 0, 20, OK),
        ("alice", 0, 21, Code.EXPIRED),
        ("alice", 2, 21, Code.EXPIRED),
        ("bob", 0, 0, Code.FORBIDDEN),
        ("bob", 2, 0, Code.FORBIDDEN),
    ],
)
def test_edit_is_allowed_to_the_sender_within_the_window(who, rank, age, code):
    expected = replace(TEXT, content="new", amended=9) if code == OK else code
    assert decide("edit", who, TEXT, rank, age, content="new") == expected


def test_recall_removes_the_attachment():
    picture = message(1, type="image", file={"url": "x"}, content="", custom="{}")
    gone = decide("recall", "alice", picture)
    assert (gone.file, gone.custom, gone.content, gone.type, gone.sender) == (None, None, "", "image", "alice")


@pytest.mark.parametrize("data", [{}, {"content": ""}, {"content": 7}, {"content": None}])
def test_edit_without_new_text_is_refused(data):
    assert decide("edit", "alice", TEXT, **data) == Code.BAD_REQUEST
    assert decide("edit", "alice", replace(TEXT, type="image"), content="x") == Code.BAD_REQUEST


def test_a_recalled_message_or_a_change_cannot_be_amended():
    for event in changes.AMENDMENTS:
        assert decide(event, "alice", replace(TEXT, recalled=True), 2, content="x") == Code.CONFLICT
        assert decide(event, "alice", entry(3, "kick"), 2, content="x") == Code.BAD_REQUEST
    assert decide("recall", "alice", entry(3, "unheard_of")).recalled
    assert decide("recall", "alice", message(3, type=MessageType.NOTIFICATION)).recalled


# --- two devices ----------------------------------------------------------------------------------------------------


class Device:
    """An application that keeps the shown messages: seq -> content."""

    def __init__(self, page):
        self.phone = Phone(page=page, gap_wait=1.0).online()
        self.done = 0

    @property
    def texts(self):
        found = {}
        for method, (event, *_) in [call for call in self.phone.log if call[0] == "emit"]:
            assert method == "emit"
            if isinstance(event, events.Shown):
                found[event.message.seq] = event.message.content
            elif isinstance(event, events.Recalled):
                found.pop(event.seq, None)
            elif isinstance(event, events.Edited) and event.seq in found:
                found[event.seq] = event.content
        return found


steps = st.lists(
    st.one_of(
        st.just(("say",)),
        st.tuples(st.just("recall"), st.integers(1, 8)),
        st.tuples(st.just("edit"), st.integers(1, 8), st.sampled_from("xyz")),
    ),
    min_size=3,
    max_size=20,
)


@settings(deadline=None, max_examples=150)
@given(steps, st.data(), st.integers(1, 4))
def test_devices_that_receive_amendments_late_or_miss_them_agree_with_storage(actions, data, page):
    """Both are bob's. Pushes get lost. A pull is answered with what storage held at some time after the request."""
    writer = Writer()
    devices = [Device(page), Device(page)]
    waiting = [[], []]  # by device: (request, an answer that it may get)

    def range_of(asked):
        return writer.storage.execute(storage.Range("bob", AB, asked.first, asked.last, page))

    def collect():
        for device, pages in zip(devices, waiting, strict=True):
            for asked in device.phone.sent(frames.History):
                pages.append((asked, range_of(asked)))

    for number, action in enumerate(actions):
        if action[0] == "say":
            one = frames.Send(str(number), Scene.P2P, "bob", f"text {number}")
        else:
            event, seq, *content = action
            fields = {"seq": seq, "content": content[0]} if content else {"seq": seq}
            file = {"event": event, "operator": "alice", "targets": [], "data": fields}
            one = frames.Send(str(number), Scene.P2P, "bob", "", MessageType.NOTIFICATION, file)
        writer.to(AB, one, session("alice"))
        writer.answer_all()
        for deliver in writer.delivered:
            for device in devices:
                if data.draw(st.booleans()):
                    device.phone.get(frames.Push(deliver.message))
        writer.delivered.clear()
        collect()
        for device, pages in zip(devices, waiting, strict=True):
            if pages and data.draw(st.booleans()):
                asked, found = pages.pop(data.draw(st.integers(0, len(pages) - 1)))
                device.phone.get(
                    frames.HistoryPage(AB, asked.first, asked.last, found.messages, found.more, asked.number)
                )
            if data.draw(st.booleans()):
                device.phone.advance(1.0)
        collect()
    log = writer.storage.execute(storage.Range("bob", AB, 1, 1_000, 1_000)).messages
    expected = {one.seq: one.content for one in log if is_visible(one)}
    for device, pages in zip(devices, waiting, strict=True):
        for asked, found in pages:  # late
            device.phone.get(frames.HistoryPage(AB, asked.first, asked.last, found.messages, found.more, asked.number))
        if log:
            device.phone.get(frames.Notify(AB, len(log)))
        for _ in range(100):
            asked_now = device.phone.sent(frames.History)
            if not asked_now:
                device.phone.advance(5.1)
                asked_now = device.phone.sent(frames.History)
            for asked in asked_now:
                found = range_of(asked)
                device.phone.get(
                    frames.HistoryPage(AB, asked.first, asked.last, found.messages, found.more, asked.number)
                )
        assert device.texts == expected
        lines = {line.id: line for line in device.phone.machine.conversations()}
        if expected:
            assert (lines[AB].last_msg.seq, lines[AB].last_msg.content) == max(expected.items())
            assert lines[AB].unread == len(expected)
        else:
            assert lines == {}
