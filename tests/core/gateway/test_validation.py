"""The checks of requests: sizes, names, values that JSON cannot represent, and attachments."""

from __future__ import annotations

import pytest
from core.builders import Access, refused, send, summary

from imsim.core import frames
from imsim.core.model import Code


def nested(levels: int) -> dict[str, object]:
    inner: list[object] = []
    for _ in range(levels - 2):
        inner = [inner]
    return {"a": inner}


@pytest.mark.parametrize("field", ["content", "custom"])
def test_the_limit_of_a_text_is_in_bytes(field):
    access = Access(content_bytes=8)
    access.live()
    for text in ("12345678", "äöüß", "😀😀", "", "123456789", "äöüßx", "😀😀x"):
        access.receive(send("1", **{"to": "alice", "content": "", field: text}))
    methods = [method for method, _ in access.port.calls]
    assert methods == ["to_router"] * 4 + ["send"] * 3
    rejected = [frame for _, frame in access.sent()]
    assert {(frame.request, frame.ref, frame.code) for frame in rejected} == {("send", "1", Code.TOO_LARGE)}
    assert [frame.text for frame in rejected] == [
        f"{field}: expected at most 8 bytes of UTF-8, got {size}" for size in (9, 9, 9)
    ]


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (nested(32), None),
        (nested(33), "file: nested too deeply; use at most 32 levels of lists and objects"),
        (nested(5_000), "file: nested too deeply; use at most 32 levels of lists and objects"),
        ({"a": [1e999]}, "file: contains infinity or NaN, which JSON does not have"),
        ({"a": -1e999}, "file: contains infinity or NaN, which JSON does not have"),
        ({"a": float("nan")}, "file: contains infinity or NaN, which JSON does not have"),
        ({"a": {1, 2}}, "file: contains a set, which JSON does not have"),
        ({5: "a"}, None),  # json.dumps turns the key into a text, like the libraries of other clients
    ],
    ids=["fits", "deep", "deeper than Python", "infinite", "minus infinite", "no number", "a set", "a number as key"],
)
def test_an_attachment_that_json_cannot_represent_is_rejected(access, file, says):
    access.live()
    access.receive(send("1", to="alice", type="other", file=file))
    if says is None:
        assert access.sent() == []
    else:
        assert [(frame.ref, frame.code, frame.text) for _, frame in access.sent()] == [("1", Code.BAD_REQUEST, says)]


def test_the_limit_of_an_attachment_applies_to_its_json():
    access = Access(content_bytes=15)
    access.live()
    for file in ({"url": "1234"}, {"url": "ää"}, {}, None, {"url": "12345"}, {"url": "ääx"}, {"n": {"m": 1234}}):
        access.receive(send("1", to="alice", type="other", file=file))
    methods = [method for method, _ in access.port.calls]
    assert methods == ["to_router"] * 4 + ["send"] * 3
    assert [frame.text for _, frame in access.sent()] == [
        f"file: expected at most 15 bytes of UTF-8, got {size}" for size in (16, 16, 18)
    ]


@pytest.mark.parametrize(
    ("frame", "ref", "code"),
    [
        (send("1", to="no name"), "1", Code.BAD_REQUEST),
        (send("1", to=""), "1", Code.BAD_REQUEST),
        (send("", to="alice"), "", Code.BAD_REQUEST),
        (send("x" * 129, to="alice"), "x" * 129, Code.BAD_REQUEST),
        (send("1", to="alice", type="image"), "1", Code.BAD_REQUEST),
        (send("1", to="alice", file={"url": "x"}), "1", Code.BAD_REQUEST),
        (frames.Enter("no name"), "no name", Code.BAD_REQUEST),
        (frames.Leave("x" * 300), "x" * 256, Code.BAD_REQUEST),
    ],
)
def test_an_invalid_request_is_rejected_and_the_connection_stays_open(frame, ref, code):
    access = Access()
    access.live()
    access.receive(frame)
    ((_, rejected),) = access.sent()
    assert (rejected.request, rejected.ref, rejected.code) == (frame.op, ref, code)
    access.receive(frames.Ping())
    assert access.sent() == [(1, frames.Pong())]


@pytest.mark.parametrize("name", ["", "a b", "d:0", "x" * 65])
@pytest.mark.parametrize("field", ["device", "kind", "instance"])
def test_a_bad_name_is_refused_before_authentication(access, field, name):
    access.connect()
    access.receive(frames.Login(**{"token": "token", "device": "d0", field: name}))
    calls = access.port.take()
    if name or field == "device":
        assert summary(calls) == refused(Code.BAD_REQUEST)
        assert calls[0][1][1].text.startswith(f"{field}: ")
    else:
        assert calls == [("authenticate", (1, "token"))]  # kind and instance are optional


@pytest.mark.parametrize(
    "id",
    [
        "group:team",
        "system:bob",
        "p2p:bob:bob",
        "p2p:alice:carol",
        "p2p:zoe:bob",
        "p2p::bob",
        "p2p:bob:no name",
        "",
        "p2p:bob",
    ],
)
def test_only_the_other_user_of_a_conversation_can_be_blocked(access, id):
    access.live()
    for blocked in (True, False):
        access.receive(frames.SetConversation(id, blocked=blocked, number=4))
        ((_, rejected),) = access.sent()
        assert (rejected.request, rejected.ref, rejected.code, rejected.number) == (
            *("set_conversation", id, Code.BAD_REQUEST, 4),
        )
    access.receive(frames.SetConversation(id, pinned=True))
    assert len(access.ups()) == 1
