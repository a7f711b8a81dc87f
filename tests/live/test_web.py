"""Tests of the chat page: its HTTP answers, and tabs in headless Chromium that talk through a real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
from websockets.asyncio.client import connect
from websockets.datastructures import Headers
from websockets.http11 import Request

import imsim
from imsim.core.policies import Policies
from imsim.live import MemoryStore, Server, SqliteStore, Tokens
from imsim.live.web import ChatPage

WEB = Path(__file__).parents[2] / "imsim" / "live" / "web"
KEY = "a key of the tests ü"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")


# --- the files and the login, without a browser ---------------------------------------------------------------------


def ask(page: ChatPage, path: str, method: str = "GET", **headers: str | list[str]):
    request = Request(path, Headers(), method)
    for name, values in {"Host": "127.0.0.1:8765", **headers}.items():
        for value in [values] if isinstance(values, str) else values:
            request.headers[name.replace("_", "-")] = value  # adds a header
    return page.answer(request, 1000.0)


def log_in(page: ChatPage, path: str = "/web/token?user=alice", **headers: str | list[str]):
    origin = {"Origin": "http://127.0.0.1:8765", "Sec_Fetch_Site": "same-origin"}
    return ask(page, path, "POST", **{**origin, **headers})


@pytest.fixture
def tokens() -> Tokens:
    return Tokens("secret", 60.0)


def test_page_and_its_files_have_types_and_a_strict_policy():
    page = ChatPage()
    for path, type in [("/", "text/html"), ("/?user=alice", "text/html"), ("/web/client.js", "text/javascript")]:
        answer = ask(page, path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, f"{type}; charset=utf-8")
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert ask(page, path, "HEAD") == answer._replace(body=b"")
        assert answer.headers["Content-Length"] == str(len(answer.body))
    assert ask(page, "/", "POST").status == 405


def test_page_leaves_other_requests_to_the_server():
    page = ChatPage()
    assert ask(page, "/", Upgrade="websocket") is None
    assert ask(page, "/", Upgrade=["websocket", "websocket"]) is None
    for path in ("/token?user=alice", "/healthz", "/web/", "/web/../server.py", "/web/__init__.py", "//[", "*"):
        assert ask(page, path) is None, path


def test_page_loads_nothing_from_elsewhere_and_parses_no_text_as_html():
    for file in (*WEB.glob("*.html"), *WEB.glob("*.css"), *WEB.glob("*.js"), *WEB.glob("*.svg")):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"//[^ ]", text), file
        for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style="):
            assert danger not in text, (file, danger)


def test_script_is_shorter_than_400_lines():
    lines = [line for file in ("client.js", "page.js") for line in (WEB / file).read_text().splitlines()]
    assert len(lines) < 400
    assert max(map(len, lines)) <= 120


def test_login_without_a_key_gives_the_page_a_token(tokens):
    for host in ("127.0.0.1:8765", "localhost:8765", "LOCALHOST", "[::1]:8765", "127.8.0.1:1"):
        answer = log_in(ChatPage(tokens), Host=host, Origin=f"http://{host}")
        assert tokens.verify(json.loads(answer.body)["token"], 1000.0).user == "alice", host
    assert log_in(ChatPage(tokens), "/web/token?user=a%20b").status == 400
    assert log_in(ChatPage(tokens), "/web/token").status == 400


def test_login_without_a_key_needs_a_server_that_allows_it():
    assert log_in(ChatPage()).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8765", "Origin": "http://evil.example:8765"},  # DNS rebinding
        {"Host": "127.0.0.1.evil.example", "Origin": "http://127.0.0.1.evil.example"},
        {"Host": "10.0.0.1:8765", "Origin": "http://10.0.0.1:8765"},
        {"Host": ["127.0.0.1:8765", "evil.example"]},
        {"Host": []},
        {"Host": "[", "Origin": "http://["},
        {"Origin": "http://evil.example"},  # another site
        {"Origin": "http://127.0.0.1:9999"},  # another server of this computer
        {"Origin": "null"},
        {"Origin": ["http://127.0.0.1:8765", "http://evil.example"]},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
    ],
    ids=str,
)
def test_login_without_a_key_refuses_other_sites(tokens, headers):
    answer = log_in(ChatPage(tokens), **headers)
    assert answer.status == 403
    assert b"token" not in answer.body


def test_login_without_a_key_refuses_a_get(tokens):
    # A browser sends no Origin with a GET of the same site, and a link or an image is a GET.
    assert ask(ChatPage(tokens), "/web/token?user=alice").status == 405


async def test_server_has_no_page_unless_asked(world):
    async with world() as w:
        assert w.server.answer(Request("/", Headers())) is None
        assert w.server.answer(Request("/web/client.js", Headers())).status == 404


@pytest.mark.parametrize(("key", "status"), [("imsim", 200), ("a key of one's own", 401)])
def test_command_logs_in_without_a_key_only_with_the_default_key(key, status):
    command = [sys.executable, "-m", "imsim", "serve", "--web", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "IMSIM_KEY": key}) as server:
        try:
            line = next(line for line in server.stdout if line.startswith("chat page: "))
            assert ("which asks for the key" in line) == (status != 200)
            url = urlsplit(line.split()[2].rstrip(",;"))
            for method, path, expected in [("GET", "/", 200), ("POST", "/web/token?user=alice", status)]:
                connection = HTTPConnection(url.netloc, timeout=5)
                connection.request(method, path)
                response = connection.getresponse()
                assert response.status == expected
                response.read()
                connection.close()
        finally:
            server.terminate()


# --- in a browser ---------------------------------------------------------------------------------------------------

SCHEMA = imsim.schema()
FROM_CLIENT = jsonschema.Draft202012Validator({"$ref": "#/$defs/FromClient", "$defs": SCHEMA["$defs"]})
FIELDS = {
    each["properties"]["op"]["const"]: each["properties"].keys()
    for each in SCHEMA["$defs"].values()
    if "op" in each.get("properties", {})
}


@asynccontextmanager
async def serving(page="open", store=None, port=0, **policies):
    """A server with the chat page, which checks that the frames of its clients fit the schema. It queues the logins."""
    used = store or MemoryStore()
    server = Server(Policies(**{"receipts": "delivered", **policies}), used, key=KEY, page=page)
    received = server.received

    def receive(id: int, text: bytes) -> None:
        frame = json.loads(text)
        FROM_CLIENT.validate(frame)
        assert frame.keys() <= FIELDS[frame["op"]]
        if frame["op"] == "login":
            server.logins.put_nowait(frame)
        received(id, text)

    server.logins = asyncio.Queue()
    server.received = receive
    await server.start(port=port)
    try:
        yield server
    finally:
        await server.stop()
        if store is None:
            used.close()


class Tabs:
    """Tabs of a browser. `errors` are those of their scripts and consoles."""

    def __init__(self, browser):
        self.browser = browser
        self.errors: list[str] = []

    async def open(self, server: Server, user: str = "", **options):
        context = await self.browser.new_context(**options)
        tab = await context.new_page()
        tab.set_default_timeout(8000)
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        await tab.goto(f"http://127.0.0.1:{server.port}/" + (f"?user={user}" if user else ""))
        if user:
            await is_online(tab)
        return tab


@asynccontextmanager
async def browsing():
    api = pytest.importorskip("playwright.async_api", reason="playwright is not installed (pip install playwright)")
    async with api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM)
        try:
            yield Tabs(browser)
        finally:
            await browser.close()


async def see(tab, selector: str, *texts: str) -> None:
    """Wait until the elements have these texts, in this order."""
    from playwright.async_api import expect

    await expect(tab.locator(selector).locator("visible=true")).to_have_text(list(texts), timeout=8000)


async def is_online(tab) -> None:
    await see(tab, "#state", "online")


async def begin(tab, to: str, title: str = "") -> None:
    """Start a chat with the keyboard only."""
    await tab.locator("#new").press("Enter")
    await tab.locator("#new-form [name=to]").fill(to)
    await tab.locator("#new-form [name=title]").fill(title)
    await tab.keyboard.press("Enter")


async def write(tab, *texts: str) -> None:
    for text in texts:
        await tab.locator("#text").fill(text)
        await tab.keyboard.press("Enter")


@needs_browser
async def test_two_tabs_talk():
    async with serving() as server, browsing() as tabs:
        alice, bob = (
            await tabs.open(server, "alice"),
            await tabs.open(server, "bob", viewport={"width": 390, "height": 844}),
        )
        await begin(alice, "bob")
        await write(alice, "hello", "<img src=x onerror=document.title='xss'>")
        await see(alice, ".mark", "✓✓ delivered", "✓✓ delivered")
        await see(bob, "#conversations .name", "alice")
        await see(bob, "#conversations .unread", "2")
        assert await bob.title() == "(2) bob · imsim"
        await see(bob, "#conversations .preview", "<img src=x onerror=document.title='xss'>")

        await bob.locator("#conversations button").press("Enter")
        await see(bob, "#messages .text", "hello", "<img src=x onerror=document.title='xss'>")
        await see(alice, ".mark", "✓✓ read", "✓✓ read")
        for latency in await alice.locator(".latency").all_text_contents():
            assert latency.endswith(" ms")
            assert int(latency[:-3]) < 8000
        assert await bob.title() == "bob · imsim"
        await write(bob, "你好\nAlice")
        await see(alice, "#messages [data-flow=in] .text", "你好\nAlice")

        await alice.locator("#messages li").first.hover()
        await alice.locator("#messages li").first.locator(".recall").click()
        recalled = ["alice recalled a message", "<img src=x onerror=document.title='xss'>", "你好\nAlice"]
        await see(alice, "#messages .text", *recalled)
        await see(bob, "#messages .text", *recalled)

        await bob.locator("#back").click()
        await see(bob, "#conversations .preview", "你好\nAlice")
        await alice.locator("#pin").click()
        await see(alice, "#pin span", "Unpin")
        await alice.reload()
        await alice.locator("#conversations button").click()
        await see(alice, "#messages .text", *recalled)
        await see(alice, ".mark", "✓✓ read")
        assert not tabs.errors


@needs_browser
async def test_group_of_three():
    async with serving() as server, browsing() as tabs:
        alice, bob, carol = [await tabs.open(server, name) for name in ("alice", "bob", "carol")]
        await begin(alice, "bob, carol", "Lunch")
        await write(alice, "who is hungry?")
        for tab in (bob, carol):
            await see(tab, "#conversations .preview", "alice: who is hungry?")
            await see(tab, "#conversations .unread", "1")
        await bob.locator("#conversations button").click()
        await see(bob, "#messages .author", "alice")
        await see(bob, "#conversations .unread")
        await alice.locator("#messages .readers:not([hidden])").press("Enter")
        await see(alice, "#messages .readers", "Read by 1 of 2")

        await alice.locator("#group").click()
        await see(alice, "#members .name", "alice", "bob", "carol")
        await see(alice, "#members .role", "owner")
        await alice.locator("#group-form [name=users]").fill("dave")
        await alice.keyboard.press("Enter")
        dave = await tabs.open(server, "dave")  # a member without the beginning of the log
        await dave.locator("#conversations .name", has_text="Lunch").wait_for()
        await bob.locator("#group").click()
        await bob.locator("#leave").click()
        await see(carol, "#conversations .preview", "bob left")
        await write(bob, "too late")
        await bob.locator("#error", has_text="you are not a member").wait_for()
        await see(bob, ".mark", "failed")
        assert not tabs.errors


@needs_browser
async def test_tabs_survive_a_crash_of_the_server_and_a_new_store(tmp_path):
    stores = [SqliteStore(tmp_path / "chat.sqlite", synchronous="NORMAL")]
    async with serving(store=stores[0]) as server, browsing() as tabs:
        alice, bob = await tabs.open(server, "alice"), await tabs.open(server, "bob")
        await begin(alice, "bob")
        await write(alice, "before")
        await see(bob, "#conversations .unread", "1")
        server.abort()
        stores[0].close()
        await see(alice, "#state", "offline: connection lost; trying again")
        await write(alice, "meanwhile 1", "meanwhile 2")
        await see(alice, ".mark", "✓✓ delivered", "sending …", "sending …")
        stores.append(SqliteStore(tmp_path / "chat.sqlite", synchronous="NORMAL"))
        async with serving(store=stores[1], port=server.port) as restarted:
            await see(alice, ".mark", "✓✓ delivered", "✓✓ delivered", "✓✓ delivered")
            await see(bob, "#conversations .unread", "3")
            await bob.locator("#conversations button").click()
            await see(bob, "#messages .text", "before", "meanwhile 1", "meanwhile 2")
            restarted.abort()
        stores[1].close()
        await see(alice, "#state", "offline: connection lost; trying again")
        async with serving(port=server.port):  # it has another log: both start over
            await see(alice, "#conversations .name")
            await begin(alice, "bob")
            await write(alice, "after")
            await see(alice, "#messages .text", "after")
            await see(bob, "#conversations .preview", "after")


@needs_browser
async def test_tabs_talk_under_other_policies():
    other = {"delivery": "notify", "fanout": "write", "ack": "after_receive", "receipts": "read"}
    async with browsing() as tabs:
        for policies in (other, {"user_rate": 4.0, "user_burst": 1}):
            store = MemoryStore(fanout=policies.get("fanout", "read"))
            async with serving(store=store, **policies) as server:
                alice, bob = await tabs.open(server, "alice"), await tabs.open(server, "bob")
                await begin(alice, "bob")
                await write(alice, "one", "two", "three")
                await see(bob, "#conversations .unread", "3")
                await bob.locator("#conversations button").click()
                await see(bob, "#messages .text", "one", "two", "three")
                await see(alice, ".mark", "✓✓ read", "✓✓ read", "✓✓ read")
                assert not tabs.errors
                await alice.close()
                await bob.close()


@needs_browser
async def test_page_fetches_older_messages_on_demand_and_asks_for_the_key():
    async with serving(page="key") as server, browsing() as tabs:
        async with connect(server.url, compression=None, proxy=None) as bob:
            token, _ = server._tokens.issue("bob", server._wall())
            await bob.send(json.dumps({"op": "login", "token": token, "device": "phone"}))
            await bob.recv()
            for number in range(1, 61):
                text = {"idClient": f"b-{number}", "scene": "p2p", "to": "alice", "content": f"message {number}"}
                await bob.send(json.dumps({"op": "send", **text}))
            while json.loads(await bob.recv()).get("seq") != 60:
                pass

        alice = await tabs.open(server)
        await alice.locator("[name=user]").fill("alice")
        await alice.keyboard.press("Enter")
        await see(alice, "#login-error", "enter the key of the server")
        await alice.locator("[name=key]").fill("wrong")
        await alice.keyboard.press("Enter")
        await alice.locator("#login-error", has_text=re.compile("^wrong key$")).wait_for()
        await alice.locator("[name=key]").fill(KEY)
        await alice.keyboard.press("Enter")
        await is_online(alice)
        await see(alice, "#conversations .unread", "60")
        assert KEY not in alice.url

        await alice.locator("#conversations button").click()
        await see(alice, "#messages .text", *(f"message {number}" for number in range(11, 61)))
        await see(alice, "#conversations .unread")
        await alice.locator("#older").click()
        await see(alice, "#messages .text", *(f"message {number}" for number in range(1, 61)))
        assert not await alice.locator("#older").is_visible()

        assert [(await server.logins.get())["device"][:3] for _ in range(2)] == ["pho", "web"]
        await server.revoke("alice")
        login = await server.logins.get()  # the page got a new token with the key
        assert (login["device"][:3], login["attempt"]) == ("web", 2)
        await is_online(alice)


class Scripted:
    """A server that a test plays: it reads the frames of a tab, and answers them by hand. The tab's clock is manual."""

    def __init__(self, tab):
        self.tab = tab
        self.socket = None
        self._frames: asyncio.Queue[dict] = asyncio.Queue()

    def opened(self, socket) -> None:
        self.socket = socket
        socket.on_message(lambda text: self._frames.put_nowait(json.loads(text)))

    async def expect(self, op: str, **fields) -> dict:
        """Return the next frame, which must have these fields."""
        frame = await self._frames.get()
        FROM_CLIENT.validate(frame)
        assert (frame["op"], {name: frame.get(name) for name in fields}) == (op, fields)
        return frame

    async def is_silent_for(self, seconds: float) -> None:
        await self.tab.clock.run_for(int(seconds * 1000))
        assert self._frames.empty()

    def send(self, op: str, **fields) -> None:
        self.socket.send(json.dumps({"op": op, **fields}))

    async def accept(self, attempt: int, log: str = "log", cursors=None) -> int:
        """Answer a login and its sync, and return the number of the sync."""
        login = await self.expect("login", attempt=attempt, kind="web")
        self.send("logged_in", user="alice", device=login["device"], time=0, heartbeat=75.0, log=log)
        return (await self.expect("sync", cursors=cursors or {}, newest=50))["number"]

    def synced(self, number: int, *messages: dict, **fields) -> None:
        cursors = {message["conversationId"]: message["seq"] for message in messages}
        self.send(
            "sync_done",
            **{"messages": messages, "cursors": cursors, "states": [], "version": 0, "number": number, **fields},
        )

    def push(self, *seqs: int) -> None:
        for seq in seqs:
            self.send("push", message=message(seq))


def message(seq: int, **fields) -> dict:
    id = f"p2p:alice:bob:{seq}"
    common = {"conversationId": "p2p:alice:bob", "seq": seq, "id": id, "idClient": f"b-{seq}", "scene": "p2p"}
    return {**common, "type": "text", "from": "bob", "to": "alice", "time": 0, "content": f"{seq}", **fields}


@needs_browser
async def test_client_follows_the_protocol_to_the_letter():
    async with serving() as server, browsing() as tabs:
        context = await tabs.browser.new_context()
        tab = await context.new_page()
        tab.set_default_timeout(8000)
        await tab.clock.install(time=0)
        await tab.clock.pause_at(1000)
        peer = Scripted(tab)
        await tab.route_web_socket(re.compile("^ws:"), peer.opened)
        await tab.goto(f"http://127.0.0.1:{server.port}/?user=alice")

        # A sync without an answer is repeated with its number. A late answer of an older one counts, but ends nothing.
        number = await peer.accept(1)
        await peer.is_silent_for(4.9)
        await tab.clock.run_for(500)
        await peer.expect("sync", number=number)
        peer.synced(number, message(1))
        await peer.expect("delivered", conversationId="p2p:alice:bob", seq=1)
        await tab.clock.run_for(100)
        await see(tab, "#conversations .unread", "1")
        await tab.locator("#conversations button").click()
        read = await peer.expect("read", seq=1)
        peer.send("done", request="read", ref="p2p:alice:bob", number=read["number"])

        # A repeated push is acknowledged again. After a gap, messages wait for the missing one, which a sync brings.
        peer.push(1, 3, 4)
        for _ in range(3):
            await peer.expect("delivered", seq=1)
        await tab.clock.run_for(100)
        await see(tab, "#messages .text", "1")
        await tab.clock.run_for(3200)
        sync = await peer.expect("sync", cursors={"p2p:alice:bob": 1})
        peer.synced(sync["number"], message(2), message(3), message(4))
        await peer.expect("delivered", seq=4)
        await tab.clock.run_for(100)
        await see(tab, "#messages .text", "1", "2", "3", "4")
        read = await peer.expect("read", seq=4)
        peer.send("done", request="read", ref="p2p:alice:bob", number=read["number"])

        # A message is repeated under its idClient. The next one names it. A gap waits for it; a rate limit waits.
        await write(tab, "one", "two")
        one = await peer.expect("send", content="one", shown=4, after=None, resend=None)
        two = await peer.expect("send", content="two", after=one["idClient"])
        peer.send("rejected", request="send", ref=two["idClient"], code="gap")
        await tab.clock.run_for(5200)
        await peer.expect("send", content="one", idClient=one["idClient"], resend=True)
        await peer.expect("send", content="two", resend=True)
        peer.send("rejected", request="send", ref=two["idClient"], code="gap")
        stored = {"conversationId": "p2p:alice:bob", "id": "p2p:alice:bob:5", "seq": 5, "time": 0}
        peer.send("stored", idClient=one["idClient"], **stored)
        await peer.expect("delivered", seq=5)
        await tab.clock.run_for(300)
        await peer.expect("send", content="two", after=None, resend=True)
        peer.send("rejected", request="send", ref=two["idClient"], code="rate_limited", retryAfter=9.0)
        await peer.is_silent_for(8.7)
        await tab.clock.run_for(500)
        await peer.expect("send", content="two", idClient=two["idClient"])
        peer.send("rejected", request="send", ref=two["idClient"], code="blocked", text="no")
        await tab.clock.run_for(100)
        await see(tab, "#error", "message: no")

        # Pings keep the connection. Without an answer, the client connects again after a random pause.
        await tab.clock.run_for(31_000)
        await peer.expect("ping")
        peer.send("pong")
        await tab.clock.run_for(74_000)
        await peer.expect("ping")
        await peer.expect("ping")
        await tab.clock.run_for(2000)
        number = await peer.accept(2, cursors={"p2p:alice:bob": 5})

        # The server asks for another sync; then its data was set back.
        peer.send("resync", number=1)
        await peer.expect("sync", resync=1)
        peer.send("resync", number=1)
        peer.send("rejected", request="sync", ref="", code="ahead", number=number + 1)
        sync = await peer.expect("sync", cursors={}, version=0, resync=1)

        # A conversation that began after a first sync is not skipped.
        peer.push(1)
        await peer.expect("delivered", seq=1)
        skipped = [{"conversationId": "p2p:alice:bob", "seq": 7, "unread": [[1, 7]]}]
        peer.synced(sync["number"], message(8), skipped=skipped)
        sync = await peer.expect("sync", cursors={"p2p:alice:bob": 1})
        peer.synced(sync["number"], message(2, recalled=True), message(3), cursors={"p2p:alice:bob": 8})
        await peer.expect("delivered", seq=8)
        await tab.clock.run_for(100)
        await see(tab, "#messages .text", "1", "bob recalled a message", "3", "8", "two")  # which has failed
        await peer.expect("read", seq=8)

        # The last word of the server says whether to connect again. Requests without an answer are then repeated.
        peer.send("refused", code="going_away", reconnect=True)
        await tab.clock.run_for(600)
        login = await peer.expect("login", attempt=3)
        peer.send("logged_in", user="alice", device=login["device"], time=0, heartbeat=75.0, log="log")
        await peer.expect("read", seq=8)
        await peer.expect("sync", cursors={"p2p:alice:bob": 8})
        peer.send("refused", code="kicked", reconnect=False, text="another device")
        await tab.clock.run_for(100)
        await see(tab, "#state", "kicked: another device")
        await peer.is_silent_for(120)
