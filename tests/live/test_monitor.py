"""Tests of /metrics, /readyz and the problems of a server."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import sqlite3
import time
from contextlib import closing

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from imsim.core import events
from imsim.core.policies import Policies
from imsim.live import MemoryStore, Server, SqliteStore
from imsim.live.storage_health import PROBE_AFTER, PROBE_AGAIN


def get(port: int, path: str, **headers: str) -> tuple[int, str, str]:
    """Return the status, content type and text of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()
    finally:
        connection.close()


async def fetch(server: Server, path: str, **headers: str) -> tuple[int, str, str]:
    return await asyncio.to_thread(get, server.port, path, **headers)


async def ready(server: Server) -> tuple[int, dict]:
    status, _, body = await fetch(server, "/readyz")
    return status, json.loads(body)


async def scrape(server: Server) -> dict[tuple[str, ...], float]:
    """Return the value of each sample, by its name and the values of its labels."""
    _, _, text = await fetch(server, "/metrics")
    return {
        (sample.name, *sample.labels.values()): sample.value for family in parse_text(text) for sample in family.samples
    }


class Raw:
    """A client that sends exactly what a test says."""

    def __init__(self, w) -> None:
        self._w = w
        self._number = 0

    async def open(self) -> Raw:
        from websockets.asyncio.client import connect

        self.socket = await connect(self._w.url, compression=None, proxy=None)
        return self

    async def login(self, user: str, token: str = "") -> dict:
        return await self.ask(op="login", token=token or self._w.token(user), device="raw")

    async def ask(self, **frame) -> dict:
        await self.socket.send(json.dumps(frame))
        return json.loads(await self.socket.recv())

    async def send(self, to: str, id_client: str, content: str = "hello", **fields) -> dict:
        return await self.ask(op="send", idClient=id_client, scene="p2p", to=to, content=content, **fields)


async def raw(w) -> Raw:
    return await Raw(w).open()


# --- metrics ----------------------------------------------------------------------------------------------------------


async def test_counts_equal_what_the_clients_saw(world):
    async with world(Policies(user_rate=1.0, user_burst=12)) as w:
        users = [await w.online(f"u{number}") for number in range(4)]
        await w.run_until_idle()
        acked = 0
        for client in users:
            for number in range(5):
                for other in users:
                    if other is not client:
                        client.send("p2p", other.user, f"{number}")
        await w.run_until_idle()
        seen = [event for client in users for event in client.seen]
        stored = sum(isinstance(event, events.Acked) for event in seen)
        shown = sum(isinstance(event, events.Shown) and event.message.sender != "" for event in seen)
        delivered = sum(isinstance(event, events.Shown) and event.flow == "in" for event in seen)
        acked = stored
        found = await scrape(w.server)
    assert stored == 4 * 12  # each user may send 12 messages at once
    assert shown >= delivered == acked
    assert found["imsim_messages_stored_total",] == stored
    assert found["imsim_store_seconds_count",] == stored
    assert found["imsim_frames_total", "sent", "stored"] == stored
    assert found["imsim_frames_total", "sent", "push"] == delivered
    assert found["imsim_delivery_seconds_count",] == delivered
    assert found["imsim_logins_total", "ok"] == 4
    assert found["imsim_connections", "logged_in"] == 4
    rejected = found["imsim_frames_total", "received", "send"] - stored
    assert found["imsim_rejected_total", "rate_limited"] == rejected > 0


async def test_repeated_sends_and_pushes_are_counted(world):
    async with world() as w:
        alice, bob = await raw(w), await raw(w)
        await alice.login("alice")
        await bob.login("bob")
        assert (await alice.send("bob", "a-1"))["op"] == "stored"
        assert (await alice.send("bob", "a-1", resend=True))["op"] == "stored"
        push = json.loads(await bob.socket.recv())
        w.clock.now += w.policies.push_timeout
        w.server.wake()
        assert json.loads(await bob.socket.recv()) == push
        w.clock.now += 0.5
        assert (await bob.ask(op="sync"))["op"] == "sync_done"
        await bob.socket.send(json.dumps({"op": "delivered", "conversationId": "p2p:alice:bob", "seq": 1}))
        assert (await bob.ask(op="ping"))["op"] == "pong"
        found = await scrape(w.server)
        await alice.socket.close()
        await bob.socket.close()
    assert found["imsim_sends_repeated_total",] == 1
    assert found["imsim_pushes_repeated_total",] == 1
    assert found["imsim_frames_total", "sent", "push"] == 2
    assert (found["imsim_messages_stored_total",], found["imsim_frames_total", "sent", "stored"]) == (1, 2)
    assert found["imsim_delivery_seconds_sum",] == 2.5


async def test_store_seconds_run_from_the_receipt_of_a_send_until_it_is_stored(world):
    class Slow(MemoryStore):
        def _answer(self) -> None:
            w.clock.now += 0.25
            super()._answer()

    async with world(store=Slow()) as w:
        alice = await w.online("alice")
        await alice.wait_stored(alice.send("p2p", "bob", "hello"))
        found = await scrape(w.server)
    # The first message of a conversation waits until storage has opened it, and then until storage has appended it.
    assert found["imsim_store_seconds_sum",] == 0.5


async def test_reasons_of_ended_connections_and_failed_logins(world):
    async with world() as w:
        for token, code in (("x", "bad_token"), (w.token("alice"), "")):
            one = await raw(w)
            answer = await one.login("alice", token)
            assert answer.get("code", "") == code
            if not code:
                second = await raw(w)
                await second.login("alice")
                assert json.loads(await one.socket.recv())["code"] == "replaced"
                await second.socket.close()
        await w.run_until_idle()
        while w.server._connections:
            await asyncio.sleep(0)
        found = await scrape(w.server)
    assert found["imsim_logins_total", "ok"] == 2
    assert found["imsim_logins_total", "bad_token"] == 1
    for reason in ("bad_token", "replaced", "client_left"):
        assert found["imsim_disconnects_total", reason] == 1
    assert found["imsim_connections_opened_total",] == 3


async def test_invalid_frames_and_unknown_paths_add_no_labels(world, key):
    async with world() as w:
        before = await scrape(w.server)
        for text in ('{"op":"fly"}', "{", '{"op":"send","idClient":"a","scene":"p2p","to":"bob","content":7}'):
            one = await raw(w)
            await one.socket.send(text)
            assert json.loads(await one.socket.recv())["op"] == "refused"
            await one.socket.close()
        for path in ("/a", "/b?user=x", "//["):
            await fetch(w.server, path)
        await fetch(w.server, "/token?user=al", Authorization=f"Bearer {key}")
        found = await scrape(w.server)
    assert found["imsim_frames_total", "received", "invalid"] == 2
    assert found["imsim_frames_total", "received", "send"] == 1
    assert found["imsim_tokens_issued_total",] == 1
    assert {name for name in found.keys() - before.keys() if name[0] != "imsim_http_requests_total"} == set()
    paths = {name[1] for name in found if name[0] == "imsim_http_requests_total"}
    assert paths == {"/metrics", "/token", "other"}


async def test_queues_are_counted(world):
    class Holding(MemoryStore):
        def _answer(self) -> None:
            if not holds:
                super()._answer()

    holds = False
    async with world(store=Holding()) as w:
        alice, bob = await raw(w), await raw(w)
        await alice.login("alice")
        await bob.login("bob")
        await alice.send("bob", "a-1")
        found = await scrape(w.server)
        assert found["imsim_queue_length", "unacknowledged_pushes"] == 1
        assert (found["imsim_queue_length", "storage"], found["imsim_queue_length", "router"]) == (0, 0)
        holds = True
        for number in range(3):
            await alice.socket.send(
                json.dumps({"op": "send", "idClient": f"b-{number}", "scene": "p2p", "to": "bob", "content": "x"})
            )
        assert (await alice.ask(op="ping"))["op"] == "pong"
        found = await scrape(w.server)
        assert (found["imsim_queue_length", "storage"], found["imsim_queue_length", "router"]) == (3, 3)
        assert found["imsim_send_queue_bytes",] == 0
        holds = False
        w.store._answer()
        await alice.socket.close()
        await bob.socket.close()


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        (
            "application/openmetrics-text;version=1.0.0",
            "application/openmetrics-text; version=1.0.0",
            parse_openmetrics,
        ),
        ("application/openmetrics-text;version=\xfc, */*", "text/plain; version=0.0.4", parse_text),
        ("text/plain;version=x", "text/plain; version=0.0.4", parse_text),
    ],
)
async def test_metrics_are_valid_in_each_format(world, accept, content_type, parse):
    async with world() as w:
        alice = await w.online("alice")
        await alice.wait_stored(alice.send("p2p", "bob", "hello"))
        status, found, text = await fetch(w.server, "/metrics", Accept=accept)
    assert status == 200
    assert found.startswith(content_type)
    families = list(parse(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram", "info"), family.name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), family.name
        labels = {label for sample in family.samples for label in sample.labels}
        if family.name.startswith("imsim"):
            known = {"state", "reason", "result", "path", "status", "direction", "op", "code", "queue", "problem", "le"}
            assert labels <= known | {"version"}, family.name
    assert {"process_cpu_seconds", "imsim_event_loop_lag_seconds"} <= set(names)
    assert "alice" not in text
    assert len(text) < 40_000


async def test_two_servers_in_one_process_have_their_own_metrics(world):
    async with world() as one, world() as other:
        await one.online("alice")
        assert (await scrape(one.server))["imsim_logins_total", "ok"] == 1
        assert (await scrape(other.server))["imsim_logins_total", "ok"] == 0


async def test_concurrent_scrapes_share_one_text_and_later_ones_are_fresh(world):
    async with world() as w:
        exposition = w.server.monitor._exposition
        first = await asyncio.gather(*(exposition.scrape("") for _ in range(20)))
        assert len({id(text) for text, _ in first}) == 1
        w.server.monitor.metrics.opened += 1
        text, _ = await exposition.scrape("")
        assert b"imsim_connections_opened_total 1.0" in text


async def test_registry_takes_collectors_of_the_application(world):
    from prometheus_client import Counter

    async with world() as w:
        Counter("bot_answers", "Answers of a bot.", registry=w.server.monitor.registry).inc(3)
        assert (await scrape(w.server))["bot_answers_total",] == 3


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/healthz"])
async def test_client_that_half_closes_the_connection_gets_the_answer(world, path):
    async with world() as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.server.port)
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


# --- readiness --------------------------------------------------------------------------------------------------------


async def test_server_is_ready_between_start_and_stop(world):
    store = MemoryStore()
    server = Server(Policies(), store, key="k")
    answer = await server.monitor.ready()
    assert (answer.status, json.loads(answer.body)["reasons"]) == (503, ["the server is starting"])
    await server.start()
    assert await ready(server) == (200, {"status": "ready"})
    assert (await scrape(server))["imsim_ready",] == 1
    await server.stop()
    answer = await server.monitor.ready()
    assert json.loads(answer.body) == {"status": "not ready", "reasons": ["the server is shutting down"]}


async def test_server_that_shuts_down_during_a_probe_is_not_ready(world, monkeypatch):
    async with world() as w:
        shutting_down = iter(["", "the server is shutting down"])
        monkeypatch.setattr(w.server, "not_serving", lambda: next(shutting_down))
        answer = await w.server.monitor.ready()
    assert json.loads(answer.body) == {"status": "not ready", "reasons": ["the server is shutting down"]}


async def test_full_disk_is_noticed_and_its_recovery_too_without_a_client_that_writes(world, tmp_path, caplog):
    store = SqliteStore(tmp_path / "x.sqlite")
    async with world(store=store) as w:
        alice = await w.online("alice")
        await alice.wait_stored(alice.send("p2p", "bob", "hello"))
        assert await ready(w.server) == (200, {"status": "ready"})
        pages = store.storage._db.execute("PRAGMA page_count").fetchone()[0]
        store.storage._db.execute(f"PRAGMA max_page_count = {pages}")
        alice.send("p2p", "bob", "x" * 16_000)
        await w.run_until_idle()
        status, body = await ready(w.server)
        assert (status, body["status"]) == (503, "not ready")
        assert "database or disk is full" in body["reasons"][0]
        assert (await scrape(w.server))["imsim_ready",] == 0
        assert (await scrape(w.server))["imsim_problem", "storage_failing"] == 1
        await alice.stop()
        for _ in range(3):  # nobody writes
            w.clock.now += PROBE_AGAIN
            w.server.monitor.check()
            await store.flush()
        assert (await ready(w.server))[0] == 503
        store.storage._db.execute("PRAGMA max_page_count = 1000000")
        w.clock.now += PROBE_AGAIN
        w.server.monitor.check()
        await store.flush()
        assert await ready(w.server) == (200, {"status": "ready"})
        lines = [record.getMessage() for record in caplog.records if record.name == "imsim.live.server"]
        assert len(lines) == 2
        assert lines[0].startswith("storage fails: OperationalError: database or disk is full")
        assert lines[1] == "storage works again after 4.0 s; 1 requests of clients failed"


async def test_readyz_notices_a_full_disk_before_any_client_does(world, tmp_path):
    store = SqliteStore(tmp_path / "x.sqlite")
    async with world(store=store) as w:
        assert (await ready(w.server))[0] == 200
        store.storage._db.execute("DROP TABLE probe")
        store.storage._db.execute("VACUUM")
        pages = store.storage._db.execute("PRAGMA page_count").fetchone()[0]
        store.storage._db.execute(f"PRAGMA max_page_count = {pages}")
        w.clock.now += PROBE_AFTER
        assert (await ready(w.server))[0] == 503


async def test_probes_are_limited(world):
    class Counting(MemoryStore):
        probes = 0

        def submit(self, request) -> None:
            self.probes += 1
            super().submit(request)

    async with world(store=Counting()) as w:
        for _ in range(20):
            assert (await ready(w.server))[0] == 200
        assert w.store.probes == 1


async def test_storage_that_hangs_is_not_ready(world, monkeypatch):
    monkeypatch.setattr("imsim.live.storage_health.ANSWER_WITHIN", 0.01)

    class Hanging(MemoryStore):
        hangs = True

        def _answer(self) -> None:
            if not self.hangs:
                super()._answer()

    async with world(store=Hanging()) as w:
        assert await ready(w.server) == (
            503,
            {"status": "not ready", "reasons": ["storage has not answered for 0.01 s"]},
        )
        w.store.hangs = False
        w.store._answer()
        assert await ready(w.server) == (200, {"status": "ready"})


async def test_full_queue_of_storage_is_not_ready_and_a_problem(world, caplog):
    store = SqliteStore(":memory:", limit=0)
    async with world(store=store) as w:
        alice = w.client("alice")
        alice.start_nowait()
        await w.run_until_idle()
        w.clock.now += 1.0
        w.server.monitor.check()
        status, body = await ready(w.server)
        assert (status, body["reasons"]) == (503, ["the queue of storage is full"])
        (line,) = [record.getMessage() for record in caplog.records if record.name == "imsim.live.server"]
        assert line == "the queue of storage is full: 1 requests failed in the last second"


# --- problems ---------------------------------------------------------------------------------------------------------


def problems(caplog) -> list[str]:
    found = [record.event for record in caplog.records if record.name == "imsim.live.server"]
    caplog.clear()
    return found


async def test_problems_that_only_clients_notice_are_reported(world, caplog):
    caplog.set_level(logging.INFO, "imsim.live.server")
    async with world() as w:
        metrics, monitor = w.server.monitor.metrics, w.server.monitor

        def later(seconds: float) -> None:
            w.clock.now += seconds
            monitor.check()

        later(1.0)
        assert problems(caplog) == []
        for name, cause in {
            "slow_readers": lambda: metrics.disconnects.update(slow_reader=metrics.disconnects["slow_reader"] + 1),
            "bad_tokens": lambda: metrics.logins.update(bad_token=metrics.logins["bad_token"] + 10),
            "login_timeouts": lambda: metrics.disconnects.update(login_timeout=10),
            "invalid_frames": lambda: metrics.received.update(invalid=10),
            "rate_limited": lambda: metrics.rejected.update(rate_limited=10),
            "unavailable": lambda: metrics.rejected.update(unavailable=1),
            "no_file_descriptors": lambda: metrics.opening_failed("accept"),
            "tls_handshakes": lambda: metrics.opening_failed("handshake"),
            "event_loop_late": lambda: setattr(monitor, "_late", monitor._late + 1),
            "shed": lambda: setattr(metrics, "shed", 1),
            "busy": lambda: metrics.rejected.update(busy=1),
            "storage_queue_full": lambda: setattr(metrics, "storage_overloads", 1),
        }.items():
            cause()
            later(1.0)
            assert problems(caplog) == [f"{name}_began"]
            assert (await scrape(w.server))["imsim_problem", name] == 1
            later(10.0)
            assert problems(caplog) == [f"{name}_ended"]
            assert (await scrape(w.server))["imsim_problem", name] == 0


async def test_failed_tls_handshakes_are_counted(world):
    import ssl
    from pathlib import Path

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(Path(__file__).parents[1] / "load" / "localhost.pem")
    async with world(ssl=context) as w:
        with socket.create_connection(("127.0.0.1", w.server.port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            await asyncio.to_thread(plain.recv, 100)
        while not w.server.monitor.metrics.failures["handshake"]:
            await asyncio.sleep(0)


async def test_monitor_checks_by_itself_in_real_time(monkeypatch):
    monkeypatch.setattr("imsim.live.monitor.TICK", 0.001)
    monkeypatch.setattr("imsim.live.monitor.CHECK", 0.002)
    server = Server(Policies(), MemoryStore(), key="k")
    checked = asyncio.Event()
    monkeypatch.setattr(server.monitor, "check", checked.set)
    await server.start()
    await checked.wait()
    await server.stop()
    lag = server.monitor.metrics.loop_lag
    lag.sort()
    assert sum(lag.counts) > 0


async def test_late_event_loop_is_counted(monkeypatch):
    monkeypatch.setattr("imsim.live.monitor.TICK", 0.001)
    monkeypatch.setattr("imsim.live.monitor.LAG", 0.02)
    server = Server(Policies(), MemoryStore(), key="k")
    await server.start()
    before = server.monitor._late
    time.sleep(0.05)  # the event loop cannot run
    while server.monitor._late == before:
        await asyncio.sleep(0.001)
    await server.stop()


def test_probe_that_fails_leaves_the_data_alone(tmp_path):
    from imsim.core import storage
    from imsim.live.stores import Probe
    from imsim.live.stores.tables import SqliteStorage

    kept = SqliteStorage(tmp_path / "x.sqlite")
    opening, probe = storage.OpenConversation("p2p:ann:bob", ("ann", "bob")), Probe()
    pages = kept._db.execute("PRAGMA page_count").fetchone()[0]
    kept._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    state, failed = kept.execute_all([opening, probe])
    assert isinstance(state, storage.LogState)  # the probe does not make the other requests fail
    assert isinstance(failed, storage.Failed)
    kept._db.execute("PRAGMA max_page_count = 100000")
    assert kept.execute_all([probe]) == [storage.Saved()]
    kept.close()
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM conversations").fetchone() == (1,)
    SqliteStorage(tmp_path / "x.sqlite").close()  # the table of the probe does not make the file invalid
