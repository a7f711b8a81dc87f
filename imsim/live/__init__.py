"""The live world: the core behind WebSockets, in real time: `Server`, its stores, and the SDK `Client`."""

from imsim.live.auth import Tokens
from imsim.live.client import Client, Device
from imsim.live.loop import run
from imsim.live.server import Server
from imsim.live.stores import MemoryStore, SqliteStore, Store
from imsim.live.testing import run_until_idle

__all__ = ["Client", "Device", "MemoryStore", "Server", "SqliteStore", "Store", "Tokens", "run", "run_until_idle"]
