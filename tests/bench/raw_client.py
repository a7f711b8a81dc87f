"""The load client of the speed benchmark: raw sockets and prepared frames, so that the server saturates first.

It finds the frames of the server by their first bytes, and does not parse them. Its masks are zero, so a masked frame
has the bytes of its text.
"""

from __future__ import annotations

import itertools
import select
import socket
import time

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
STORED, PUSH, WELCOME, UPGRADED = b'{"op":"stored"', b'{"op":"push"', b'{"op":"logged_in"', b"\r\n\r\n"
CONTENT = "See you at the station at half past six, I will bring the books."


def frame(text: bytes) -> bytes:
    """Return a masked text frame."""
    size = len(text)
    return (b"\x81" + bytes([128 + size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")) + bytes(4) + text


def user(number: int) -> str:
    return f"u{number:05}"


class Connection:
    """A connection of user `number`. `count` finds how many frames of a kind have arrived."""

    def __init__(self, port: int, number: int) -> None:
        self.number = number
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(20)
        self.send = self.socket.send
        self._rest = b""
        self.seq = 0  # of the latest push

    def wait_for(self, marker: bytes) -> None:
        """Read until the marker has arrived."""
        data = b""
        while marker not in data:
            got = self.socket.recv(65536)
            assert got, data
            data += got

    def count(self, marker: bytes) -> int:
        """Read once, and return how many markers have arrived."""
        got = self.socket.recv(262144)
        assert got, "the server has ended a connection"
        data = self._rest + got
        self._rest = data[1 - len(marker) :]
        return data.count(marker)


class Chat:
    """Senders and receivers. Each sender keeps one message without an answer.

    If there are more receivers than senders, the sender also waits until all receivers have the message. Otherwise a
    receiver could read several messages at once, and the load would depend on chance.

    `senders` maps a connection to the text of its messages, with a gap for the number of the message. `receivers` maps
    a connection to the conversation of its messages. Each receiver acknowledges each message.
    """

    def __init__(self, senders: dict[Connection, bytes], receivers: dict[Connection, str]) -> None:
        self._poll = select.epoll()
        self._senders = senders
        self._by_file: dict[int, tuple[Connection, bytes, bytes]] = {}
        for connection, template in senders.items():
            self._by_file[connection.socket.fileno()] = (connection, template, b"")
        for connection, conversation in receivers.items():
            # JSON has no leading zeros, so the seq is padded with spaces.
            text = b'{"op":"delivered","conversationId":"%s","seq":       }' % conversation.encode()
            template = frame(text).replace(b":       }", b":%7d}")
            self._by_file[connection.socket.fileno()] = (connection, b"", template)
        for file in self._by_file:
            self._poll.register(file, select.EPOLLIN)
        self._pushes = len(receivers) // len(senders)  # of each message
        self.sent = self.stored = self.pushed = 0

    def run(self, seconds: float) -> int:
        """Chat for some time, then wait until everything has arrived. Return the count of messages."""
        before = self.sent
        for connection, template in self._senders.items():
            self._send(connection, template, 1)
        self._loop(time.perf_counter() + seconds, refill=True)
        end = time.perf_counter() + 20
        while self.stored < self.sent or self.pushed < self.sent * self._pushes:
            assert time.perf_counter() < end, (self.sent, self.stored, self.pushed)
            self._loop(time.perf_counter() + 0.02, refill=False)
        return self.sent - before

    def latencies(self, rate: float, seconds: float) -> list[float]:
        """Send `rate` messages per second, by all senders in turn. Return the seconds from each send to its answer."""
        senders, sent_at, taken = itertools.cycle(self._senders.items()), {}, []
        start, before = time.perf_counter(), self.sent
        while self.stored < self.sent or self.sent - before < rate * seconds:
            now = time.perf_counter()
            due = start + (self.sent - before) / rate
            if due <= now and self.sent - before < rate * seconds:
                connection, template = next(senders)
                self._send(connection, template, 1)
                sent_at[connection.socket.fileno()] = now
            for file, _ in self._poll.poll(max(0.0, due - time.perf_counter())):
                if self._receive(file, refill=False) and file in sent_at:
                    taken.append(time.perf_counter() - sent_at.pop(file))
        return taken

    def _send(self, connection: Connection, template: bytes, count: int) -> None:
        first = self.sent
        self.sent += count
        connection.send(b"".join([template % number for number in range(first, first + count)]))

    def _loop(self, end: float, *, refill: bool) -> None:
        poll, receive = self._poll.poll, self._receive
        while (left := end - time.perf_counter()) > 0:
            for file, _ in poll(left):
                receive(file, refill)
            if refill and self._pushes > 1 and self.stored == self.sent and self.pushed == self.sent * self._pushes:
                for one, text in self._senders.items():
                    self._send(one, text, 1)

    def _receive(self, file: int, refill: bool) -> int:
        """Read from a connection and react. Return the count of answers to its messages."""
        connection, template, delivered = self._by_file[file]
        if template:
            count = connection.count(STORED)
            self.stored += count
            if count and refill and self._pushes == 1:
                self._send(connection, template, count)
            return count
        count = connection.count(PUSH)
        self.pushed += count
        first = connection.seq + 1
        connection.seq += count
        if count:
            connection.send(b"".join([delivered % seq for seq in range(first, first + count)]))
        return 0


def pairs(connections: list[Connection]) -> Chat:
    """Let each connection with an even number write to the next one."""
    senders, receivers = {}, {}
    for one, other in zip(connections[::2], connections[1::2], strict=True):
        senders[one] = _message("p2p", user(other.number))
        receivers[other] = f"p2p:{user(one.number)}:{user(other.number)}"
    return Chat(senders, receivers)


def group(connections: list[Connection], name: str) -> Chat:
    """Let the first connection write to a group of all connections."""
    first, *others = connections
    return Chat({first: _message("group", name)}, dict.fromkeys(others, f"group:{name}"))


def _message(scene: str, to: str) -> bytes:
    text = f'{{"op":"send","idClient":"          ","scene":"{scene}","to":"{to}","content":"{CONTENT}"}}'
    return frame(text.encode()).replace(b"          ", b"%010d")
