"""Tests of the answer to a usual handshake: the library would give the same one, and be in the same state."""

from __future__ import annotations

import asyncio
import logging
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live.test_websocket import Transport
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from imsim.live.handshake import answer_to_usual
from imsim.live.log import LOGGER
from imsim.live.websocket import WebSocket

NOW = 1_700_000_000.9
KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
USUAL = {
    "Host": "chat.example",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


@pytest.fixture(autouse=True, scope="module")
def same_second():
    """Give the library the same time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("email.utils.formatdate", lambda usegmt: formatdate(NOW, usegmt=usegmt))
        yield


def head(fields: dict[str, str] | list[tuple[str, str]], first: str = "GET / HTTP/1.1", between: str = ": ") -> bytes:
    pairs = fields.items() if isinstance(fields, dict) else fields
    return "\r\n".join([first, *(name + between + value for name, value in pairs), "", ""]).encode("latin-1")


def of_library(request: bytes) -> bytes | None:
    """Return the library's answer, or None if it does not accept the request at once."""
    protocol = ServerProtocol(logger=LOGGER)
    protocol.receive_data(request)
    events = protocol.events_received()
    if len(events) != 1 or not isinstance(events[0], Request) or events[0].path != "/":
        return None
    protocol.send_response(protocol.accept(events[0]))
    return b"".join(protocol.data_to_send()) if protocol.state is State.OPEN else None


BROWSER = {
    **USUAL,
    "Connection": "keep-alive, Upgrade",
    "Origin": "https://chat.example",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64)",
    "Cookie": "a=b; c=d:e",
    "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
}


@pytest.mark.parametrize("fields", [USUAL, BROWSER], ids=["program", "browser"])
@pytest.mark.parametrize("between", [": ", ":", ":   "])
@pytest.mark.parametrize("change", [str, str.lower], ids=["as-written", "lower-case"])
def test_usual_handshake_has_the_answer_of_the_library(fields, between, change):
    request = head({change(name): value for name, value in fields.items()}, between=between)
    answer = answer_to_usual(request, NOW)
    assert answer is not None
    assert answer == of_library(request)


names = st.sampled_from(
    [*USUAL, *BROWSER, "connection", "HOST", "X", "Content-Length", "Transfer-Encoding", "a b", "é"]
)
names |= st.sampled_from(["Sec-WebSocket-Protocol", "Authorization", ""])
values = st.sampled_from(
    [*USUAL.values(), *BROWSER.values(), "", " ", "0", "12", "\t13", "upgrade ", "h2c", "\x01", "é"]
)
values |= st.sampled_from(["WebSocket", "websocket, h2c", "Upgrade, keep-alive", "keep-alive,Upgrade", "close"])
values |= st.sampled_from(
    [KEY[:-1], KEY + "=", "=" + KEY[1:], KEY[:-3] + "=B=", KEY[:21] + "h==", KEY.replace("M", "-")]
)
values |= st.text(st.characters(max_codepoint=255), max_size=30)


@settings(max_examples=1_500, deadline=None)
@given(
    base=st.sampled_from([USUAL, BROWSER]),
    changed=st.dictionaries(names, values, max_size=1),
    added=st.lists(st.tuples(names, values), max_size=1),
    dropped=st.sampled_from([set()] * 15 + [{name} for name in USUAL]),
    first=st.sampled_from(
        ["GET / HTTP/1.1"] * 20 + ["GET /?a HTTP/1.1", "GET / HTTP/1.0", "POST / HTTP/1.1", "GET  /"]
    ),
    between=st.sampled_from([": "] * 6 + [":", ":\t", " : ", ""]),
    junk=st.none()
    | st.none()
    | st.none()
    | st.tuples(st.integers(0, 300), st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff"])),
)
def test_answer_is_that_of_the_library_or_none(base, changed, added, dropped, first, between, junk):
    fields = [(name, value) for name, value in {**base, **changed}.items() if name not in dropped]
    request = head(fields + added, first, between)
    if junk is not None:
        place, inserted = junk
        request = request[:place] + inserted + request[place:]
    request = request[: request.find(b"\r\n\r\n") + 4]  # the server passes nothing behind the first empty line
    answer = answer_to_usual(request, NOW)
    assert answer is None or answer == of_library(request)


@pytest.mark.parametrize("count", [1, 50, 60, 200])
def test_many_fields(count):
    request = head({**USUAL, **{f"x{number}": "1" for number in range(count)}})
    assert answer_to_usual(request, NOW) in (None, of_library(request))


def test_long_request_is_left_to_the_library():
    assert answer_to_usual(head({**USUAL, "Cookie": "x" * 5_000}), NOW) is None


def test_date_changes_with_the_second():
    before, after = (answer_to_usual(head(USUAL), now) for now in (NOW, NOW + 1))
    assert b"Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n" in before
    assert b"Date: Tue, 14 Nov 2023 22:13:21 GMT\r\n" in after


class End(WebSocket):
    """A server's end that accepts a handshake."""

    def on_request(self, request: Request) -> None:
        self.respond(self.protocol.accept(request))


async def opened(at_once: bool, frames: bytes) -> tuple[object, ...]:
    """Open an end, pass the frames to the library only, and return its state."""
    end, transport = End(ServerProtocol(max_size=100, logger=LOGGER)), Transport()
    end.connection_made(transport)
    if at_once:
        assert end.open_at_once(head(USUAL))
    else:
        end.data_received(head(USUAL))
    await asyncio.sleep(0)
    protocol = end.protocol
    protocol.receive_data(frames)
    kept = {name: vars(protocol)[name] for name in vars(protocol) if name not in _OF_ONE_PROTOCOL}
    kept["parser_exc"] = str(protocol.parser_exc)
    date = transport.written.partition(b"Date: ")[2][:29]
    return transport.written.replace(date, b""), end._left, kept, protocol.events_received(), protocol.data_to_send()


_OF_ONE_PROTOCOL = {"id", "reader", "parser", "parser_exc", "events", "writes"}
TEXT = b"\x81\x82\0\0\0\0hi"


@pytest.mark.parametrize(
    "frames",
    [b"", TEXT * 3, TEXT[:4], b"\x89\x81\0\0\0\0p", b"\x88\x82\0\0\0\0\x03\xe8", b"\x83\x80\0\0\0\0", b"GET /"],
)
async def test_library_is_in_the_state_after_its_own_handshake(frames):
    assert await opened(True, frames) == await opened(False, frames)


async def test_rest_of_a_begun_request_is_left_to_the_library():
    end = WebSocket(ServerProtocol(logger=LOGGER))
    end.connection_made(Transport())
    end.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x" * 10)
    end._left = -2
    assert not end.open_at_once(head(USUAL))


async def test_library_logs_its_own_handshakes(caplog):
    end = WebSocket(ServerProtocol(logger=LOGGER))
    end.connection_made(Transport())
    with caplog.at_level(logging.INFO, LOGGER.name):
        assert not end.open_at_once(head(USUAL))
    assert end.open_at_once(head(USUAL))
