"""Tests of one end of a WebSocket connection, on a transport that records the calls to it."""

from __future__ import annotations

import asyncio

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from imsim.live.websocket import MESSAGE_WORK, SHARE, WebSocket


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
