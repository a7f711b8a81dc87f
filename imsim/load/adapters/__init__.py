"""Adapters: the protocols of the servers that a load test can load, one module for each kind of server.

An adapter does no I/O. It opens no socket, reads no clock and does not sleep. A driver does all this for it:
`imsim.load.device` under Locust (gevent), `imsim.load.aio` under asyncio, and the tests by hand. So one adapter runs
under each of them.

`interface` defines what an adapter is and `find` finds one by its name. `imsim`, `websocket`, `mqtt`, `xmpp` and
`socketio` are the adapters that imsim has. `docs/adapters.md` is the tutorial.
"""

from imsim.load.adapters.find import NAMES, find
from imsim.load.adapters.interface import (
    Acked,
    Adapter,
    Closed,
    Connect,
    Connected,
    Conversation,
    Delivered,
    Disconnect,
    Disconnected,
    Event,
    Failed,
    Feature,
    Item,
    Joined,
    Message,
    NotJoined,
    Offline,
    Out,
    Read,
    Ready,
    Received,
    Request,
    Response,
    Sent,
    Session,
    Target,
)

__all__ = [
    "NAMES",
    "Acked",
    "Adapter",
    "Closed",
    "Connect",
    "Connected",
    "Conversation",
    "Delivered",
    "Disconnect",
    "Disconnected",
    "Event",
    "Failed",
    "Feature",
    "Item",
    "Joined",
    "Message",
    "NotJoined",
    "Offline",
    "Out",
    "Read",
    "Ready",
    "Received",
    "Request",
    "Response",
    "Sent",
    "Session",
    "Target",
    "find",
]
