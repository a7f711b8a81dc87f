"""Tests of one end of a WebSocket connection, on a transport that records the calls to it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from imsim.live.websocket import MESSAGE_WORK, SHARE, WebSocket
from imsim.wire.websocket_frames import text_frame


class Transport(asyncio.Transport):
    """A transport that records the written bytes. It fails if `error` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.waiting = 0  # bytes in the write buffer
        self.calls: list[str] = []
        self.error: OSError | None = None
        self.is_reading_paused = False
        self.limit: int | None = None

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return self.waiting

    def set_write_buffer_limits(self, high=None, low=None):
        self.limit = high

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.calls.append("write_eof")
        if self.error is not None:
            raise self.error

    def is_closing(self):
        return "abort" in self.calls or "close" in self.calls

    def close(self):
        self.calls.append("close")

    def abort(self):
        self.calls.append("abort")

    def pause_reading(self):
        self.is_reading_paused = True

    def resume_reading(self):
        self.is_reading_paused = False


class Recording(WebSocket):
    """An open server's end that records the events of each turn."""

    def __init__(self) -> None:
        super().__init__(ServerProtocol(state=State.OPEN))
        self.texts: list[bytes] = []
        self.pongs: list[bytes] = []

    def on_text(self, text: bytes) -> None:
        self.texts.append(text)

    def on_pong(self, payload: bytes) -> None:
        self.pongs.append(payload)


@pytest.fixture
def transport():
    return Transport()


@pytest.fixture
def end(transport):
    websocket = Recording()
    websocket.connection_made(transport)
    return websocket


def frame(opcode: Opcode, data: bytes = b"", fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


async def test_burst_of_messages_is_handled_in_shares_and_in_order(end, transport):
    sent = [b"%d" % number for number in range(1_000)]
    end.data_received(b"".join(frame(Opcode.TEXT, text) for text in sent))
    counts = [len(end.texts)]
    while transport.is_reading_paused:
        await asyncio.sleep(0)
        counts.append(len(end.texts))
    assert end.texts == sent
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) <= SHARE // MESSAGE_WORK


@pytest.mark.parametrize("tiny", [Opcode.PONG, Opcode.PING, Opcode.CONT])
async def test_burst_of_tiny_frames_is_parsed_in_shares(end, transport, tiny, monkeypatch):
    parsed = 0
    receive = end.protocol.recv_frame

    def count(frame):
        nonlocal parsed
        parsed += 1
        receive(frame)

    monkeypatch.setattr(end.protocol, "recv_frame", count)
    first = frame(Opcode.TEXT, b"", fin=False) if tiny is Opcode.CONT else b""
    end.data_received(first + frame(tiny, fin=tiny is not Opcode.CONT) * 10_000)
    counts = [parsed]
    while transport.is_reading_paused:
        await asyncio.sleep(0)
        counts.append(parsed)
    assert parsed >= 10_000
    # One slice of the parser can exceed the share.
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) <= SHARE + 64


async def test_empty_fragments_are_not_kept(end):
    end.data_received(frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.CONT, b"", fin=False) * 10)
    end.data_received(frame(Opcode.CONT, b"b", fin=False))
    assert len(end._fragments) == 2
    end.data_received(frame(Opcode.CONT))
    assert end.texts == [b"ab"]


async def test_data_that_arrives_while_earlier_data_waits_is_handled_after_it(end, transport):
    end.data_received(frame(Opcode.TEXT, b"first") * 100)
    end.data_received(frame(Opcode.TEXT, b"second"))  # a transport of TLS can have more after pause_reading
    while transport.is_reading_paused:
        await asyncio.sleep(0)
    assert end.texts == [b"first"] * 100 + [b"second"]


async def test_pong_follows_the_answers_to_the_messages_before_its_ping(end, transport):
    end.on_text = lambda text: end.send(frame(Opcode.TEXT, text))
    end.data_received(frame(Opcode.TEXT, b"x" * 8) * 20 + frame(Opcode.PING, b"last"))
    while transport.is_reading_paused:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert transport.written.endswith(b"\x8a\x04last")


async def test_nothing_is_handled_after_the_connection_is_dropped(end, transport):
    end.data_received(frame(Opcode.TEXT, b"x") * 100)
    before = len(end.texts)
    end.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(end.texts) == before


async def test_fault_in_the_program_ends_only_the_connection(end, transport, caplog):
    def fail(text: bytes) -> None:
        raise LookupError("for a test")

    end.on_text = fail
    end.data_received(frame(Opcode.TEXT, b"x") * 2)
    assert transport.calls == ["abort"]
    for record in caplog.records:
        assert record.exc_info is None


async def test_half_close_of_a_reset_connection_drops_it(end, transport):
    transport.error = OSError(107, "not connected")
    end.data_received(frame(Opcode.CLOSE, b"\x03\xe8"))
    await asyncio.sleep(0)
    assert transport.calls == ["write_eof", "abort"]


async def test_half_close_waits_until_the_data_is_written(end, transport):
    """asyncio would half-close later by itself, and would log an error with a traceback."""
    transport.waiting = 1
    end.data_received(frame(Opcode.CLOSE, b"\x03\xe8"))
    await asyncio.sleep(0)
    assert (transport.calls, transport.limit) == ([], 0)
    end.pause_writing()
    transport.waiting = 0
    end.resume_writing()
    await asyncio.sleep(0)
    assert transport.calls == ["write_eof"]


# --- the bypass of the library ----------------------------------------------------------------------------------------


class Echo(Recording):
    """A server's end that records everything and answers each message. Without `may_bypass`, it parses nothing itself.

    It starts with the HTTP request. It closes the connection at the message "close".
    """

    def __init__(self, may_bypass: bool) -> None:
        WebSocket.__init__(self, ServerProtocol(max_size=300))
        self.texts, self.pongs, self.bad = [], [], []
        if not may_bypass:
            self._left = -2

    def on_request(self, request: Request) -> None:
        self.respond(self.protocol.accept(request))

    def on_text(self, text: bytes) -> None:
        super().on_text(text)
        self.send(text_frame(text, mask=False))
        if text == b"close":
            self.close()

    def on_bad(self, *arguments: object) -> None:
        self.bad.append(arguments)


HEAD = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def masked(first: int, size_form: int, data: bytes, mask: bytes) -> bytes:
    """Return a client's frame. `size_form` is the count of bytes of its length: 0, 2 or 8."""
    code = {0: min(len(data), 125), 2: 126, 8: 127}[size_form]
    size = len(data).to_bytes(size_form, "big") if size_form else b""
    return bytes([first, 128 | code]) + size + mask + bytes(a ^ b for a, b in zip(data, itertools.cycle(mask)))


def frames_of(written: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the server's messages and its control frames, both in their order."""
    texts, controls = [], []
    while written:
        size, head = written[1], 2
        if size == 126:
            size, head = int.from_bytes(written[2:4], "big"), 4
        frame, written = written[: head + size], written[head + size :]
        (controls if frame[0] & 8 else texts).append(frame)
    return texts, controls


async def replay(data: bytes, cuts: Sequence[int], may_bypass: bool) -> tuple[object, ...]:
    transport, end = Transport(), Echo(may_bypass)
    end.connection_made(transport)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for start, stop in itertools.pairwise(places):
        if transport.is_closing():
            break
        end.data_received(data[start:stop])
        while transport.is_reading_paused and not transport.is_closing():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
    if not transport.is_closing():
        end.eof_received()
    end.connection_lost(None)
    head, _, rest = transport.written.partition(b"\r\n\r\n")
    exc = end.protocol.parser_exc
    return (
        end.texts, end.pongs, end.bad, frames_of(rest), head[:12], transport.calls, end.protocol.state,
        end.protocol.close_rcvd, end.protocol.close_sent, type(exc), str(exc) if isinstance(exc, ProtocolError) else "",
    )  # fmt: skip


payloads = st.binary(max_size=140) | st.sampled_from([b"close", b"", b"x" * 126, b"x" * 300, b"x" * 301])
firsts = st.sampled_from([0x81] * 8 + [0x01, 0x00, 0x80, 0x82, 0x89, 0x8A, 0x88, 0x83, 0xC1])
client_frames = st.builds(masked, firsts, st.sampled_from([0, 0, 0, 2, 8]), payloads, st.binary(min_size=4, max_size=4))
streams = st.lists(client_frames | st.binary(max_size=12), max_size=12).map(b"".join)


@settings(max_examples=300, deadline=None, derandomize=True)  # a rare difference after a close is known
@given(streams, st.lists(st.integers(len(HEAD), 700), max_size=12))
@example(b"\x03\xfe", [])  # an unknown opcode before an incomplete length
def test_bypass_of_the_library_changes_nothing(stream, cuts):
    data = HEAD + stream
    # Byte by byte, so that the library does not see a frame before the owner has handled the message before it.
    one_by_one = range(len(HEAD), len(data))
    assert asyncio.run(replay(data, cuts, True)) == asyncio.run(replay(data, one_by_one, False))


async def test_text_messages_bypass_the_library_again_after_other_frames(end, monkeypatch):
    parsed = []
    receive = end.protocol.recv_frame
    monkeypatch.setattr(end.protocol, "recv_frame", lambda frame: (parsed.append(frame.opcode), receive(frame)))
    fragments = frame(Opcode.TEXT, b"2", fin=False) + frame(Opcode.PING, b"y") + frame(Opcode.CONT, b"3")
    data = frame(Opcode.TEXT, b"1") + frame(Opcode.PING, b"x" * 125) + fragments + frame(Opcode.TEXT, b"4")
    for at in range(len(data)):
        end.data_received(data[at : at + 1])
    assert end.texts == [b"1", b"23", b"4"]
    assert parsed == [Opcode.PING, Opcode.TEXT, Opcode.PING, Opcode.CONT]


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frame_of_a_server_is_that_of_the_library(size):
    text = b"x" * size
    assert text_frame(text, mask=False) == Frame(Opcode.TEXT, text).serialize(mask=False)
