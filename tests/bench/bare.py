"""Servers of the speed benchmark: imsim, and bare relays without JSON, logic or storage.

    python bare.py CORE KIND [ARGUMENT]

runs one on the CPU core CORE, prints its port, and serves until its standard input ends. KIND is a function below.

A relay knows a client by the number in the client's first message. It answers a message that begins with SEND with
ACK, and forwards it with the prefix PUSH: to the client whose number differs in the last bit, or to all other clients
if the message contains GROUP. It ignores other messages. So it receives and sends as many frames as imsim, of about the
same size.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

SEND = b'{"op":"send"'
GROUP = b'"scene":"group"'
ACK = b'{"op":"stored","idClient":"0000000000","conversationId":"p2p:u1000:u1001","id":"p2p:u1000:u1001:10000",'
ACK += b'"seq":10000,"time":1700000000000}'
PUSH = b'{"op":"push","message":{"conversationId":"p2p:u1000:u1001","seq":10000,"id":"p2p:u1000:u1001:10000",'
PUSH += b'"from":"u1000","time":1700000000000,'
WELCOME = b'{"op":"logged_in"}'


async def stock() -> int:
    """Start a relay on `websockets.asyncio`."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    clients: dict[int, ServerConnection] = {}
    send, group, ack, push = SEND.decode(), GROUP.decode(), ACK.decode(), PUSH.decode()

    async def relay(client: ServerConnection) -> None:
        number = int(await client.recv())
        clients[number] = client
        await client.send(WELCOME, text=True)
        try:
            async for message in client:
                if message.startswith(send):
                    await client.send(ack)
                    text = push + message[1:]
                    if group in message:
                        broadcast((other for other in clients.values() if other is not client), text)
                    else:
                        await clients[number ^ 1].send(text)
        finally:
            del clients[number]

    server = await serve(relay, "127.0.0.1", 0, backlog=4096, ping_interval=None)
    return server.sockets[0].getsockname()[1]


async def sans_io() -> int:
    """Start a relay on the Sans-I/O protocol of websockets. It writes once per connection and loop iteration."""
    from websockets.frames import Frame, Opcode
    from websockets.http11 import Request
    from websockets.server import ServerProtocol

    clients: dict[int, Relay] = {}
    loop = asyncio.get_running_loop()

    class Relay(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            self.protocol = ServerProtocol()
            self.number = -1
            self.is_scheduled = False

        def data_received(self, data: bytes) -> None:
            protocol = self.protocol
            protocol.receive_data(data)
            for event in protocol.events_received():
                if isinstance(event, Request):
                    protocol.send_response(protocol.accept(event))
                elif event.opcode is Opcode.TEXT:
                    self.handle(bytes(event.data))
            self.flush_later()

        def handle(self, message: bytes) -> None:
            if self.number < 0:
                self.number = int(message)
                clients[self.number] = self
                self.send(WELCOME)
            elif message.startswith(SEND):
                self.send(ACK)
                push = PUSH + message[1:]
                if GROUP in message:
                    frame = Frame(Opcode.TEXT, push).serialize(mask=False)
                    for other in clients.values():
                        if other is not self:
                            other.transport.write(frame)
                else:
                    clients[self.number ^ 1].send(push)

        def send(self, message: bytes) -> None:
            self.protocol.send_text(message)
            self.flush_later()

        def flush_later(self) -> None:
            if not self.is_scheduled:
                self.is_scheduled = True
                loop.call_soon(self.flush)

        def flush(self) -> None:
            self.is_scheduled = False
            if data := b"".join(self.protocol.data_to_send()):
                self.transport.write(data)

        def connection_lost(self, exc: Exception | None) -> None:
            clients.pop(self.number, None)

    server = await loop.create_server(Relay, "127.0.0.1", 0, backlog=4096)
    return server.sockets[0].getsockname()[1]


async def imsim(path: str) -> int:
    """Start imsim's server on an SQLite file with `synchronous` FULL, or in memory if the path is empty."""
    from imsim.core.policies import Policies
    from imsim.live import MemoryStore, Server, SqliteStore

    server = Server(
        Policies(heartbeat_timeout=86_400.0), SqliteStore(path) if path else MemoryStore(), key="a key of the benchmark"
    )
    await server.start()
    return server.port


async def main() -> None:
    kind = sys.argv[2]
    port = await imsim(sys.argv[3]) if kind == "imsim" else await {"stock": stock, "sans_io": sans_io}[kind]()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    logging.disable()  # the clients leave without a closing handshake
    os.sched_setaffinity(0, {int(sys.argv[1])})
    if sys.argv[-1] == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
