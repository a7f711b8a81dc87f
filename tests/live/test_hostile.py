"""The server answers anything that a client sends, or closes the connection cleanly, and writes no traceback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import logging
import re
import struct

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.live import MemoryStore, Server
from imsim.live.auth import Answer, HttpEndpoints, Revocation, Tokens
from imsim.live.log import LOGGER

KEY = "k"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
LOGIN = json.dumps({"op": "login", "token": Tokens(KEY, 1e6).issue("alice", 1e9)[0], "device": "d"}).encode()


class Lines(logging.Handler):
    """All log records of the program, without any rate limit."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def exchange(sent: list[bytes], how: str) -> bytes:
    """Send these pieces to a new server and return everything that it sends. `how` is the end of the client.

    Fails if the server does not close the connection, logs an error, or does not serve another client afterwards.
    """
    faults: list = []
    lines = Lines()

    async def run() -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        policies, clock, wall = Policies(login_timeout=5.0), (lambda: 0.0), (lambda: 1e9)
        server = Server(policies, MemoryStore(), key=KEY, clock=clock, wall=wall, page="open")
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            for piece in sent:
                writer.write(piece)
                await asyncio.sleep(0)
            if how == "half-close":
                writer.write_eof()
            elif how == "close":
                writer.close()
            else:
                writer.transport.abort()
            answer = await reader.read()
        except ConnectionError:
            answer = b""
        writer.close()
        while server._transports:
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await server.stop()
        return answer

    LOGGER.filters, filters = [], LOGGER.filters
    logging.getLogger().addHandler(lines)
    try:
        answer = asyncio.run(asyncio.wait_for(run(), 10))
    finally:
        LOGGER.filters = filters
        logging.getLogger().removeHandler(lines)
    assert faults == []
    assert [record.getMessage() for record in lines.records if record.levelno >= logging.WARNING] == []
    return answer


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[start:stop] for start, stop in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 10_000), max_size=3)
ENDS = st.sampled_from(["half-close", "close", "abort"])

# --- HTTP -------------------------------------------------------------------------------------------------------------

TARGETS = st.one_of(
    st.sampled_from(["/", "//[", "//[x", "//]", "*", "http://[", "http://x:y/", "//", "/token", "/token?user=alice",
                     "/token?user=%ff%00", "/revoke?user=alice", "/healthz", "/healthz?", "?", "/" + "a" * 9000,
                     "/web/token?user=alice", "/web/token?user=%ff%00", "/web/page.js", "/?user=alice",
                     "/token?" + "&" * 500, "http://[::1]/healthz", "//\uff03@x", "/;#?", "x:/", "//[::1%25]"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=20),
)  # fmt: skip
HEADERS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "Host: x",
                f"Authorization: Bearer {KEY}",
                "Authorization: Bearer \xff",
                "Authorization:",
                "Content-Length: 5",
                "Content-Length: 0",
                "Content-Length: -1",
                "Content-Length: " + "9" * 5000,
                "Transfer-Encoding: chunked",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Connection: ,,;",
                "Upgrade: \x80",
                "Sec-WebSocket-Key: x",
                "Sec-WebSocket-Key: \xe9",
                "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Version: 9" * 99,
                "Sec-WebSocket-Extensions: permessage-deflate; x=\x01",
                "Sec-WebSocket-Protocol: ,",
                "Host: 127.0.0.1",
                "Host: [::1",
                "Origin: null",
                "Origin: http://[",
                "Origin: http://127.0.0.1",
                "Sec-Fetch-Site: same-origin",
                "no colon",
                " folded: x",
                "X: " + "x" * 9000,
            ]
        ),
        st.text(st.characters(max_codepoint=255), max_size=20),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["GET", "GET", "POST", "HEAD", "get", "", "\xff", "G" * 9000]),
    target=TARGETS,
    version=st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2", "", "HTTP/1.1 x"]),
    headers=HEADERS,
    rest=st.sampled_from([b"", b"hello", b"\r\n\r\n", b"\x00" * 70_000, HANDSHAKE, b"\x88\x80\0\0\0\0"]),
    at=CUTS,
    how=ENDS,
)
def test_any_http_request_is_answered_or_closed(method, target, version, headers, rest, at, how):
    head = "\r\n".join([f"{method} {target} {version}", *headers]).encode("latin-1", "replace")
    answer = exchange(cut(head + b"\r\n\r\n" + rest, at), how)
    assert answer == b"" or re.match(rb"HTTP/1\.1 [1-5]\d\d ", answer)


@pytest.mark.parametrize("target", ["//[", "http://["])
def test_request_for_an_invalid_url_is_answered_400(target):
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert exchange([request], "half-close").startswith(b"HTTP/1.1 400 ")


def test_data_after_a_request_does_not_suppress_its_answer():
    answer = exchange([b"GET /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n"], "half-close")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("rest", [b"\x88\x80\0\0\0\0", b"\0" * 100, HANDSHAKE])
def test_data_after_a_revocation_does_not_suppress_its_answer(rest):
    async def run() -> bytes:
        server = Server(Policies(), MemoryStore(), key=KEY)
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"POST /revoke?user=alice HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode() + rest)
        answer = await reader.read()
        writer.close()
        await server.stop()
        return answer

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"revoked": "alice"}')


def test_request_with_a_large_head_is_answered_431():
    request = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8000) for n in range(20))
    assert exchange([request], "half-close").startswith(b"HTTP/1.1 431 ")


@settings(max_examples=300, deadline=None)
@given(target=TARGETS, method=st.sampled_from(["GET", "POST"]), authorization=st.sampled_from([f"Bearer {KEY}", ""]))
def test_any_target_has_an_answer(target, method, authorization):
    answer = HttpEndpoints(KEY, Tokens(KEY, 10.0)).answer(method, target, authorization, {}, 0.0)
    assert answer is None or isinstance(answer, Revocation) or (isinstance(answer, Answer) and answer.status >= 200)


# --- WebSocket --------------------------------------------------------------------------------------------------------


@st.composite
def frames(draw) -> bytes:
    """A WebSocket frame, perhaps an invalid one."""
    first = draw(st.sampled_from([0x81, 0x01, 0x80, 0x00, 0x88, 0x89, 0x8A, 0x82, 0x02, 0x08, 0xC1, 0x83, 0x8F]))
    data = draw(
        st.one_of(
            st.sampled_from(
                [b"", b'{"op":"ping"}', LOGIN, b"\xff\xfe", b"\x03\xe8", b"\x00\x00", b"\x03\xe8\xff", b"{"]
            ),
            st.binary(max_size=130),
        )
    )
    claimed = draw(st.sampled_from([len(data)] * 8 + [0, 2**16, 2**40, 2**64 - 1]))
    size = draw(st.sampled_from([7, 16, 64]))
    is_masked = draw(st.sampled_from([0x80] * 8 + [0]))
    if claimed < 126 and size == 7:
        head = struct.pack("!BB", first, is_masked | claimed)
    elif claimed < 2**16 and size != 64:
        head = struct.pack("!BBH", first, is_masked | 126, claimed)
    else:
        head = struct.pack("!BBQ", first, is_masked | 127, claimed)
    return head + (b"\0\0\0\0" if is_masked else b"") + data


def text(data: bytes) -> bytes:
    return struct.pack("!BBH4x", 0x81, 0x80 | 126, len(data)) + data


@settings(max_examples=60, deadline=None)
@given(sent=st.lists(frames(), max_size=8), logged_in=st.booleans(), at=CUTS, how=ENDS)
def test_any_frames_are_answered_or_close_the_connection(sent, logged_in, at, how):
    exchange(cut(HANDSHAKE + (text(LOGIN) if logged_in else b"") + b"".join(sent), at), how)


@pytest.mark.parametrize("logged_in", [False, True])
def test_close_frame_before_the_end_of_the_socket_is_a_clean_close(logged_in):
    for how in ("half-close", "close", "abort"):
        for _ in range(10):
            sent = [HANDSHAKE, text(LOGIN) if logged_in else b"", b"\x88\x82\0\0\0\0\x03\xe8"]
            exchange(sent, how)


@pytest.mark.parametrize(
    "burst",
    [
        text(b'{"op":"ping"}') * 300,
        b"\x8a\x80\0\0\0\0" * 3_000,
        b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 3_000,
        b"\x81\xff" + struct.pack("!Q4x", 100_000) + b"x" * 80_000,
    ],
)
def test_flood_before_the_login_is_refused(burst):
    async def flood() -> tuple[bytes, int]:
        server = Server(Policies(), MemoryStore(), key=KEY)
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(burst), 4096):
            writer.write(burst[start : start + 4096])
            await asyncio.sleep(0)
        answer = await reader.readuntil(b"\x88\x02\x03\xe8")
        writer.write(burst)  # what follows is dropped
        await asyncio.sleep(0.01)
        (connection,) = server._transports
        kept = len(connection._unread)
        writer.transport.abort()
        await server.stop()
        return answer, kept

    answer, kept = asyncio.run(flood())
    assert b'"code":"bad_request"' in answer
    assert b"too much data before the login" in answer
    assert answer.count(b'"op":"pong"') <= 256
    assert kept == 0


def test_limits_before_the_login_end_with_it():
    async def run() -> bytes:
        server = Server(Policies(), MemoryStore(), key=KEY, wall=lambda: 1e9)
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 22)
        writer.write(HANDSHAKE + text(LOGIN))
        await reader.readuntil(b"logged_in")
        writer.write(text(b'{"op":"ping"}') * 5_000 + text(b'{"op":"sync"}'))
        answer = await reader.readuntil(b"sync_done")
        writer.transport.abort()
        await server.stop()
        return answer

    assert asyncio.run(run()).count(b'"op":"pong"') == 5_000


def test_login_of_a_client_that_has_closed_its_socket_is_dropped():
    async def run() -> list:
        server = Server(Policies(), MemoryStore(), key=KEY, wall=lambda: 1e9)
        handled = []
        server.received = lambda id, text: handled.append(text)
        await server.start()
        writers = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            writers.append(writer)
        writers[0].write(text(LOGIN))
        writers[0].write_eof()  # before the server reads the login
        writers[1].write(text(b'{"op":"ping"}'))
        while len(server._transports) > 1 or not handled:
            await asyncio.sleep(0)
        for writer in writers:
            writer.transport.abort()
        await server.stop()
        return handled

    assert asyncio.run(run()) == [b'{"op":"ping"}']


def test_oldest_newcomers_make_room_and_clients_that_are_logged_in_remain():
    async def run() -> list[bool]:
        server = Server(Policies(), MemoryStore(), key=KEY, wall=lambda: 1e9)
        await server.start()
        streams = []
        for number in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            if number == 0:
                writer.write(HANDSHAKE + text(LOGIN))
                await reader.readuntil(b"logged_in")
            streams.append((reader, writer))
            while len(server._transports) <= number:  # the listener opens the latest of several connections first
                await asyncio.sleep(0)
        assert server._make_room()
        await asyncio.sleep(0.01)
        remaining = [not reader.at_eof() for reader, _ in streams]
        assert server._make_room()
        assert not server._make_room()
        for _, writer in streams:
            writer.transport.abort()
        await server.stop()
        return remaining

    assert asyncio.run(run()) == [True] + [False] * 16 + [True] * 3


# --- tokens -----------------------------------------------------------------------------------------------------------

SECRET = hmac.digest(KEY.encode(), b"imsim session tokens", hashlib.sha256)
VALUES = st.recursive(
    st.one_of(
        st.sampled_from([10**400, -(10**400), float("inf"), float("nan"), 1e308, 2e9, 0, -1, True, None, "alice", ""]),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)


def encoded(part: object) -> bytes:
    return base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode()).rstrip(b"=")


def signed(header: object, claims: object) -> str:
    text = encoded(header) + b"." + encoded(claims)
    return (text + b"." + encoded(hmac.digest(SECRET, text, hashlib.sha256))).decode()


HEADER = {"alg": "HS256", "typ": "JWT"}
DEEP = b"[" * 100_000


@settings(max_examples=500, deadline=None)
@given(
    header=st.one_of(
        st.just(HEADER),
        st.fixed_dictionaries({"alg": VALUES, "typ": VALUES}, optional={"crit": VALUES, "b64": VALUES, "kid": VALUES}),
        VALUES,
        st.binary(max_size=9),
    ),
    claims=st.one_of(
        st.fixed_dictionaries({"sub": VALUES, "iat": VALUES, "exp": VALUES}, optional={"nbf": VALUES, "aud": VALUES}),
        VALUES,
        st.binary(max_size=9),
    ),
)
def test_any_token_with_a_valid_signature_has_a_verdict(header, claims):
    verdict = Tokens(KEY, 10.0).verify(signed(header, claims), 1e9)
    if verdict.user is None:
        assert verdict.code in (Code.BAD_TOKEN, Code.TOKEN_EXPIRED)
    else:
        assert re.fullmatch(r"[\w.@+-]{1,64}", verdict.user)
        assert claims["exp"] > 1e9
        assert verdict.issued_at == claims["iat"]  # so it is a number


@settings(max_examples=300, deadline=None)
@given(token=st.one_of(st.text(), st.lists(st.text(max_size=9), min_size=3, max_size=3).map(".".join)))
def test_any_text_is_a_bad_token(token):
    assert Tokens(KEY, 10.0).verify(token, 1e9).code == Code.BAD_TOKEN


@pytest.mark.parametrize("number", [10**400, -(10**400), float("inf"), float("-inf"), float("nan"), True, "2000000000"])
@pytest.mark.parametrize("claim", ["iat", "exp"])
def test_time_in_a_token_must_be_a_finite_number(claim, number):
    claims = {"sub": "alice", "iat": 1, "exp": 2e9, claim: number}
    assert Tokens(KEY, 10.0).verify(jwt.encode(claims, SECRET, "HS256"), 1e9).code == Code.BAD_TOKEN


@pytest.mark.parametrize("token", [signed(DEEP, {}), signed(HEADER, DEEP), "\ud800.\ud800.", signed({"alg": []}, {})])
def test_token_that_breaks_a_parser_is_a_bad_token(token):
    assert Tokens(KEY, 10.0).verify(token, 1e9).code == Code.BAD_TOKEN
