"""The exchanges in docs/protocol*.md, executed over real WebSockets against a real server.

An exchange is a block fenced with ```` ```im ````. A line `alice -> {...}` is a frame that Alice's client sends. A line
`alice <- {...}` is the next frame that it must receive. `alice/tablet` is another connection of the same user. Indented
lines continue a frame.

Words behind ```` ```im ```` are settings. A field of a scenario (`policies.delivery=notify`) starts a new server.
Without one, the block continues on the server of the block before it. `online=alice,bob` logs these devices in first.

    PYTHONPATH=tests python -m protocol_script     writes the frames that the server sends into the pages
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from imsim.live import MemoryStore, Server
from imsim.scenario import Scenario

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (DOCS / "protocol.md", DOCS / "protocol-reference.md")

_BLOCK = re.compile(r"^```im([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"^([a-z]+(?:/[a-z]+)?) (->|<-) (.*)$")
_BREAK = re.compile(r'(?<=,) (?=["{\[])')  # a space between two fields
_WIDTH = 110

#: The devices that `online` logs in; `alice/tablet` is a tablet.
_DEVICES = {"alice": "phone", "bob": "laptop", "carol": "phone"}

#: Values that differ in each run, and their samples in the pages.
_SAMPLES = {
    "time": 1767222000000,
    "expires": 1767826800000,
    "retryAfter": 0.2,
    "token": "eyJhbGciOi...",
    "log": "8c1f0e6d...",
}


#: The first seq of a chatroom in the pages. The real one is the time in microseconds. Each next seq is one higher.
_ROOM_SEQ = 1767222000000001
_ROOM_SEQS = re.compile(r"\b1\d{15}\b")


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the settings and the frames of each block, with each frame on one line."""
    for settings, body in _BLOCK.findall(text):
        yield settings.strip(), _joined(body)


def _joined(body: str) -> list[str]:
    return re.sub(r"\n +", " ", body).splitlines()


def wrapped(line: str) -> str:
    """Return the line. If it is too long, it continues on indented lines."""
    lines = [""]
    for part in _BREAK.split(line):
        if lines[-1] and len(lines[-1]) + len(part) >= _WIDTH:
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}" if lines[-1] else part
    return "\n".join(lines)


def sample(value: object) -> object:
    """Return the value with a sample for each part that differs in each run."""
    if isinstance(value, dict):
        return {key: _SAMPLES[key] if key in _SAMPLES else sample(part) for key, part in value.items()}
    return [sample(part) for part in value] if isinstance(value, list) else value


class Stage:
    """A server in a separate thread, and the clients that are connected to it."""

    def __init__(self, settings: dict[str, object]) -> None:
        scenario = Scenario().replace({"policies.push_timeout": 1000.0, **settings})
        self._policies = scenario.core_policies()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._connections: dict[str, ClientConnection] = {}
        self._stack = ExitStack()
        self._room_seq = 0  # the real number for which _ROOM_SEQ stands
        self._call(self._start())

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._server = Server(self._policies, MemoryStore(fanout=self._policies.fanout), key="key")
        await self._server.start()

    def login(self, client: str) -> None:
        user, _, device = client.partition("/")
        login = {"op": "login", "token": _SAMPLES["token"], "device": device or _DEVICES[user]}
        self.send(client, json.dumps(login))
        answer = self.next(client)
        assert answer["op"] == "logged_in", answer

    def send(self, client: str, text: str) -> None:
        if client not in self._connections:
            self._connections[client] = self._stack.enter_context(connect(self._server.url))
        frame = json.loads(_ROOM_SEQS.sub(lambda seq: str(int(seq[0]) - _ROOM_SEQ + self._room_seq), text))
        if "token" in frame:
            token, _ = self._server._tokens.issue(client.split("/")[0], self._server._wall())
            frame["token"] = token if frame["token"] == _SAMPLES["token"] else frame["token"]
        self._connections[client].send(json.dumps(frame))

    def next(self, client: str) -> Any:
        return self._sampled(self._connections[client].recv(timeout=10))

    def _sampled(self, text: str | bytes) -> object:
        text = str(text)
        if not self._room_seq and (found := _ROOM_SEQS.search(text)):
            self._room_seq = int(found[0])
        return sample(json.loads(_ROOM_SEQS.sub(lambda seq: str(int(seq[0]) - self._room_seq + _ROOM_SEQ), text)))

    def unread(self) -> dict[str, object]:
        """Return by client the frames that arrived, but that no line of the block expects."""
        left = {}
        for client, connection in self._connections.items():
            with suppress(TimeoutError, ConnectionClosed):
                left[client] = self._sampled(connection.recv(timeout=0.05))
        return left

    def close(self) -> None:
        self._stack.close()
        self._call(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _parsed(settings: str) -> tuple[dict[str, object], list[str]]:
    """Return the scenario's fields and the clients to log in."""
    pairs = dict(setting.split("=", 1) for setting in settings.split())
    online = [client for client in pairs.pop("online", "").split(",") if client]
    return {path: json.loads(value) if value[:1].isdigit() else value for path, value in pairs.items()}, online


def play(text: str, received: Callable[[str, Any], object]) -> None:
    """Execute all blocks of a page. Call `received(line, frame)` with each `<-` line and the frame that arrived."""
    stage: Stage | None = None
    try:
        for settings, lines in blocks(text):
            fields, online = _parsed(settings)
            if stage is None or fields:
                if stage:
                    stage.close()
                stage = Stage(fields)
            for client in online:
                stage.login(client)
            for line in lines:
                client, arrow, frame = _LINE.match(line).groups()
                if arrow == "->":
                    stage.send(client, frame)
                else:
                    received(line, stage.next(client))
            left = stage.unread()
            assert not left, f"not on the page, after {lines[-1]}: {json.dumps(left)}"
    finally:
        if stage:
            stage.close()


def rewrite(page: Path) -> None:
    """Write the frames that the server sends into the blocks of the page."""
    text = page.read_text()
    answers: list[str] = []

    def note(line: str, frame: Any) -> None:
        answers.append(f"{line.split(' <- ')[0]} <- {json.dumps(frame, ensure_ascii=False)}")

    try:
        play(text, note)
    finally:
        given = iter(answers)

        def rewritten(block: re.Match[str]) -> str:
            lines = [next(given, line) if " <- " in line else line for line in _joined(block[2])]
            return f"```im{block[1]}\n" + "".join(f"{wrapped(line)}\n" for line in lines) + "```"

        page.write_text(_BLOCK.sub(rewritten, text))


if __name__ == "__main__":
    for page in PAGES:
        rewrite(page)
