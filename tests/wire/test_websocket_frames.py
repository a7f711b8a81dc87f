"""Tests of WebSocket frames, against the frames of websockets."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from imsim.wire import websocket_frames as ws

SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, 70_000)
LARGEST = 1 << 20


class Read:
    """The messages and the control frames that a reader has found."""

    def __init__(self, largest: int = LARGEST) -> None:
        self.found: list[bytes | tuple[int, bytes]] = []
        self.reader = ws.FrameReader(largest, self.found.append, self.control)

    def control(self, opcode: int, payload: bytes) -> bool:
        self.found.append((opcode, payload))
        return opcode != ws.CLOSE

    def __call__(self, *parts: bytes) -> list[bytes | tuple[int, bytes]]:
        for part in parts:
            self.reader.receive(part)
        return self.found


def frame(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin=fin).serialize(mask=False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_masked_frame_is_what_websockets_reads(size, opcode):
    server = ServerProtocol(state=State.OPEN, max_size=None)
    payload = bytes(n % 251 for n in range(size))
    server.receive_data(ws.masked(0x80 | opcode, payload))
    (event,) = server.events_received()
    assert (event.opcode, bytes(event.data), event.fin) == (opcode, payload, True)


def test_masks_differ():
    frames = {ws.text_frame(b"hello", mask=True) for _ in range(50)}
    assert len(frames) == 50


@pytest.mark.parametrize("size", SIZES)
def test_unmasked_frame_is_that_of_websockets(size):
    text = b"x" * size
    assert ws.text_frame(text, mask=False) == frame(Opcode.TEXT, text)
    assert ws.unmasked(ws.WHOLE_BINARY, text) == frame(Opcode.BINARY, text)


@pytest.mark.parametrize("size", SIZES)
def test_frame_size_counts_the_header(size):
    for wire in (ws.text_frame(b"x" * size, mask=True), ws.text_frame(b"x" * size, mask=False)):
        assert ws.frame_size(b"12" + wire + b"34", 2) == len(wire)
        assert ws.frame_size(wire[:1], 0) == 0


MESSAGES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([Opcode.TEXT, Opcode.BINARY]), st.binary(max_size=300), st.integers(1, 4)),
        st.tuples(st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125), st.just(1)),
    ),
    max_size=6,
)


@given(MESSAGES, st.lists(st.integers(1, 200)))
def test_reader_finds_the_same_in_any_segments(messages, segments):
    wire, expected = b"", []
    for opcode, payload, count in messages:
        if count == 1:
            wire += frame(opcode, payload)
        else:
            edges = [len(payload) * n // count for n in range(count + 1)]
            pieces = [payload[a:b] for a, b in itertools.pairwise(edges)]
            for nth, piece in enumerate(pieces):
                wire += frame(opcode if nth == 0 else Opcode.CONT, piece, fin=nth == count - 1)
                wire += frame(Opcode.PING, b"between") if nth < count - 1 else b""
                expected += [(ws.PING, b"between")] if nth < count - 1 else []
        expected.append(payload if opcode in (Opcode.TEXT, Opcode.BINARY) else (opcode, payload))
    edges = [0, *(edge for edge in itertools.accumulate(segments) if edge < len(wire)), len(wire)]
    assert Read()(*(wire[a:b] for a, b in itertools.pairwise(edges))) == expected


@pytest.mark.parametrize("size", SIZES)
def test_reader_takes_one_byte_at_a_time(size):
    wire = frame(Opcode.TEXT, b"x" * size) + frame(Opcode.TEXT, b"end")
    assert Read()(*(wire[n : n + 1] for n in range(len(wire)))) == [b"x" * size, b"end"]


def test_reader_takes_lengths_that_could_be_shorter():
    """The whole frame is as long as one of 127 bytes would be."""
    assert Read()(b"\x81\x7f" + (119).to_bytes(8, "big") + b"x" * 119) == [b"x" * 119]
    assert Read()(b"\x81\x7e\x00\x05hello") == [b"hello"]


def test_reader_stops_where_the_owner_wants():
    wire = frame(Opcode.TEXT, b"one") + frame(Opcode.CLOSE, b"\x03\xe8") + frame(Opcode.TEXT, b"two")
    assert Read()(wire) == [b"one", (ws.CLOSE, b"\x03\xe8")]


def test_owner_may_change_the_receiver_of_messages():
    read = Read()

    def first(message: bytes) -> None:
        read.reader.on_message = lambda message: None
        read.found.append(message)

    read.reader.on_message = first
    assert read(frame(Opcode.TEXT, b"one") * 3) == [b"one"]


VIOLATIONS = {
    "masked": ws.text_frame(b"hello", mask=True),
    "masked, 16 bits of length": ws.text_frame(b"x" * 200, mask=True),
    "masked, 64 bits of length": ws.text_frame(b"x" * 70_000, mask=True),
    "reserved bits": b"\xc1\x05hello",
    "unknown opcode": b"\x83\x00",
    "unknown control opcode": b"\x8b\x00",
    "continuation of nothing": frame(Opcode.CONT, b"x"),
    "message within a message": frame(Opcode.TEXT, b"x", fin=False) + frame(Opcode.TEXT, b"y"),
    "fragmented ping": b"\x09\x00",
    "long ping": b"\x89\x7e\x00\x7e" + bytes(126),
}


@pytest.mark.parametrize("wire", VIOLATIONS.values(), ids=VIOLATIONS)
def test_reader_refuses_what_websockets_refuses(wire):
    read = Read()
    with pytest.raises(ws.FrameError) as raised:
        read(wire)
    assert raised.value.code == ws.PROTOCOL_ERROR
    assert read.found == []
    client = ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN)
    client.receive_data(wire)
    assert client.close_sent.code == ws.PROTOCOL_ERROR


def test_reader_refuses_messages_that_are_too_large():
    for wire in (
        frame(Opcode.TEXT, b"x" * 201)[:4],  # as soon as the length is known
        frame(Opcode.TEXT, b"x" * 70_000)[:10],
        frame(Opcode.TEXT, b"x" * 150, fin=False) + frame(Opcode.CONT, b"x" * 51, fin=False),
    ):
        read = Read(largest=200)
        with pytest.raises(ws.FrameError, match="more than 200 bytes") as raised:
            read(wire)
        assert raised.value.code == ws.TOO_BIG
    assert Read(largest=200)(frame(Opcode.TEXT, b"x" * 200)) == [b"x" * 200]
    assert Read(largest=10)(frame(Opcode.PING, b"x" * 100)) == [(ws.PING, b"x" * 100)]
