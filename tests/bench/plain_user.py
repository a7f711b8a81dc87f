"""The locustfile of the speed benchmark: a Locust user written by hand, on `websockets.sync`.

It is the reference for the generator of imsim. Each user has a connection and a greenlet that reads it. Two users write
to each other. A message is a `send`, its `stored`, a `push` and its `delivered`. When a user writes, it has read what
arrived before, so the read mark moves. The server reports marks to both users with `state`, and they answer with
`state_ack`: about two of each per message, as many as imsim's devices exchange. Nothing is recorded, not even in
Locust's statistics: the users do not fire `events.request`.

The environment has the settings: BENCH_TOKENS (a file with one token per line), BENCH_CONTENT (the text of all
messages), BENCH_RATE (messages per second of all users together) and BENCH_SECONDS. The process prints a line of JSON:
the CPU seconds and the messages of that time.
"""

import itertools
import json
import os
import random
import time
from pathlib import Path

import gevent
from locust import User, events, task
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

TOKENS = Path(os.environ["BENCH_TOKENS"]).read_text().split()
CONTENT = os.environ["BENCH_CONTENT"]
RATE = float(os.environ["BENCH_RATE"])
SECONDS = float(os.environ["BENCH_SECONDS"])

numbers = itertools.count()
messages = 0


class Plain(User):
    def wait_time(self) -> float:
        return random.expovariate(RATE / len(TOKENS))

    def on_start(self) -> None:
        self.number = next(numbers)
        self.shown = 0
        self.connection = connect(self.environment.host, compression=None, proxy=None, ping_interval=None)
        self.connection.send(json.dumps({"op": "login", "device": "d0", "token": TOKENS[self.number]}))
        assert json.loads(self.connection.recv())["op"] == "logged_in"
        self.reader = gevent.spawn(self.read)

    def read(self) -> None:
        try:
            for text in self.connection:
                frame = json.loads(text)
                if frame["op"] == "push":
                    message = frame["message"]
                    self.shown = message["seq"]
                    answer = {"op": "delivered", "conversationId": message["conversationId"], "seq": message["seq"]}
                    self.connection.send(json.dumps(answer))
                elif frame["op"] == "stored":
                    self.shown = max(self.shown, frame["seq"])
                elif frame["op"] == "state":
                    state = frame["state"]
                    answer = {
                        "op": "state_ack",
                        "conversationId": state["conversationId"],
                        "version": state["version"],
                    }
                    self.connection.send(json.dumps(answer))
        except ConnectionClosed:
            pass

    @task
    def write(self) -> None:
        global messages
        messages += 1
        message = {
            "op": "send",
            "idClient": f"plain:{messages}",
            "scene": "p2p",
            "to": f"u{self.number ^ 1:05}",
            "content": CONTENT,
            "shown": self.shown,
        }
        self.connection.send(json.dumps(message))

    def on_stop(self) -> None:
        self.connection.close()
        self.reader.join(timeout=2)


def measure(environment) -> None:
    gevent.sleep(SECONDS / 4)
    cpu, before = time.process_time(), messages
    gevent.sleep(SECONDS)
    print(json.dumps({"cpu": time.process_time() - cpu, "messages": messages - before}), flush=True)
    os._exit(0)


@events.init.add_listener
def listen(environment, **_) -> None:
    environment.events.spawning_complete.add_listener(lambda user_count: gevent.spawn(measure, environment))
