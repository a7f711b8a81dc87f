"""The examples of docs/websocket-adapter.md, which the tests of the adapters use: descriptions and servers."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from load.servers import Server, free_port, serving
from pages import ROOT, blocks

from imsim.core.policies import Policies
from imsim.load.adapters import Target

PAGE = ROOT / "docs" / "websocket-adapter.md"

QUICK = Policies(reconnect_min=0.02, reconnect_max=0.2, login_timeout=2.0)


def example(name: str) -> str:
    """Return the text of the block that the page saves under this name."""
    return next(block.text for block in blocks(PAGE.read_text(encoding="utf-8")) if block.file == name)


def names_of(name: str) -> dict[str, Any]:
    """Return the names that a Python example defines."""
    names: dict[str, Any] = {"__name__": name}
    exec(compile(example(name), f"{PAGE.name}: {name}", "exec"), names)
    return names


def write(folder: Path, text: str, name: str = "chat.toml") -> dict[str, str]:
    """Write a description to a file, and return the options of an adapter that reads it."""
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return {"file": str(file)}


def target(url: str, **more: Any) -> Target:
    """Return a target with short pauses."""
    return Target(url, **{"policies": QUICK, "key": "secret", **more})


@asynccontextmanager
async def chat_server() -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Run the chat server of the page. The context is its url and its names."""
    names = names_of("chat_server.py")
    async with names["serve_chat"]() as listener:
        yield f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}", names


@contextmanager
def example_server(folder: Path, name: str) -> Iterator[Server]:
    """Run a server of the page in a process of its own."""
    file, port = folder / name, free_port()
    file.write_text(example(name), encoding="utf-8")
    with serving([sys.executable, file, str(port)], port, folder / "server.log") as server:
        yield server
