"""PROTOCOL.md as a script: its ``im`` blocks are played, in order, over real WebSockets against a real server.

A line `alice -> {...}` is sent by alice's connection, which opens with her first; a line `alice <- {...}` must be the
next frame that comes to her. `alice/tablet` is another connection of the same user. Words behind ```` ```im ```` are
settings of a scenario (`policies.delivery=notify`) with which a new server begins; without any, the one before goes on.

    PYTHONPATH=tests python -m protocol_script     writes what the server says into PROTOCOL.md
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

DOCUMENT = Path(__file__).parents[1] / "PROTOCOL.md"

_BLOCK = re.compile(r"^```im([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"^([a-z]+(?:/[a-z]+)?) (->|<-) (.*)$")

#: What is another at each time of playing, with what stands for it in the document.
_SAMPLES = {
    "time": 1767222000000,
    "expires": 1767826800000,
    "retryAfter": 0.2,
    "token": "eyJhbGciOi...",
    "log": "8c1f0e6d...",
}


#: The first seq of a chatroom, which begins with the time in microseconds; those after it follow by one.
_ROOM_SEQ = 1767222000000001
_ROOM_SEQS = re.compile(r"\b1\d{15}\b")


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """(settings, lines) of each block."""
    for settings, body in _BLOCK.findall(text):
        yield settings.strip(), body.splitlines()


def sample(value: object) -> object:
    """The same with a sample in place of whatever changes."""
    if isinstance(value, dict):
        return {key: _SAMPLES[key] if key in _SAMPLES else sample(part) for key, part in value.items()}
    return [sample(part) for part in value] if isinstance(value, list) else value


class Stage:
    """A server in a thread of its own, and whoever is connected to it."""

    def __init__(self, settings: str) -> None:
        scenario = Scenario().replace({"policies.push_timeout": 1000.0, **_parsed(settings)})
        self._policies = scenario.core_policies()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._connections: dict[str, ClientConnection] = {}
        self._stack = ExitStack()
        self._room_seq = 0  # the first in truth
        self._call(self._start())

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._server = Server(self._policies, MemoryStore(fanout=self._policies.fanout), key="key")
        await self._server.start()

    def send(self, who: str, text: str) -> None:
        if who not in self._connections:
            self._connections[who] = self._stack.enter_context(connect(self._server.url))
        frame = json.loads(_ROOM_SEQS.sub(lambda seq: str(int(seq[0]) - _ROOM_SEQ + self._room_seq), text))
        if "token" in frame:
            token, _ = self._server._tokens.issue(who.split("/")[0], self._server._wall())
            frame["token"] = token if frame["token"] == _SAMPLES["token"] else frame["token"]
        self._connections[who].send(json.dumps(frame))

    def next(self, who: str) -> object:
        return self._sampled(self._connections[who].recv(timeout=10))

    def _sampled(self, text: str | bytes) -> object:
        text = str(text)
        if not self._room_seq and (found := _ROOM_SEQS.search(text)):
            self._room_seq = int(found[0])
        return sample(json.loads(_ROOM_SEQS.sub(lambda seq: str(int(seq[0]) - self._room_seq + _ROOM_SEQ), text)))

    def unread(self) -> dict[str, object]:
        """What came and nobody read, by connection."""
        left = {}
        for who, connection in self._connections.items():
            with suppress(TimeoutError, ConnectionClosed):
                left[who] = self._sampled(connection.recv(timeout=0.05))
        return left

    def close(self) -> None:
        self._stack.close()
        self._call(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _parsed(settings: str) -> dict[str, object]:
    pairs = (setting.split("=", 1) for setting in settings.split())
    return {path: json.loads(value) if value[:1].isdigit() else value for path, value in pairs}


def play(text: str, heard: Callable[[str, Any], object]) -> None:
    """Play all blocks; `heard(line, frame)` is told of each `<-` line and of what really came."""
    stage: Stage | None = None
    try:
        for settings, lines in blocks(text):
            if stage is None or settings:
                if stage:
                    stage.close()
                stage = Stage(settings)
            for line in lines:
                who, arrow, frame = _LINE.match(line).groups()
                if arrow == "->":
                    stage.send(who, frame)
                else:
                    heard(line, stage.next(who))
            left = stage.unread()
            assert not left, f"not in the document, after {lines[-1]}: {json.dumps(left)}"
    finally:
        if stage:
            stage.close()


def main() -> None:
    text = DOCUMENT.read_text()
    answers: list[str] = []

    def note(line: str, frame: Any) -> None:
        answers.append(f"{line.split(' <- ')[0]} <- {json.dumps(frame, ensure_ascii=False)}")

    try:
        play(text, note)
    finally:
        given = iter(answers)

        def rewritten(block: re.Match[str]) -> str:
            lines = [next(given, line) if " <- " in line else line for line in block[2].splitlines()]
            return f"```im{block[1]}\n" + "".join(f"{line}\n" for line in lines) + "```"

        DOCUMENT.write_text(_BLOCK.sub(rewritten, text))


if __name__ == "__main__":
    main()
