"""The chat page of `imsim serve --web`: its files, and a login for trials that needs no key.

The server answers the requests of this module on its own port. The script of the page is in two files: `client.js` is
the client of the protocol, without a DOM, and `page.js` is the user interface.
"""

from __future__ import annotations

import json
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

from websockets.http11 import Request

from imsim.core.exceptions import BadName
from imsim.live.auth import Answer, Tokens, host_name, is_loopback_name

LOGIN_PATH = "/web/token"  # the login without a key

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/web/style.css": ("style.css", "text/css; charset=utf-8"),
    "/web/client.js": ("client.js", "text/javascript; charset=utf-8"),
    "/web/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/web/icon.svg": ("icon.svg", "image/svg+xml"),
}

# The page loads nothing from elsewhere, runs no script but its own files, and cannot turn a text into HTML.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ChatPage:
    """The answers to the requests of a browser for the chat page.

    `tokens` issues tokens to the page without a key. Pass it only if everybody who can connect to the server may have
    a token for any user anyway: the server listens on the loopback interface, and its key is the public default key.
    Without `tokens`, the page asks its user for the server's key.
    """

    def __init__(self, tokens: Tokens | None = None) -> None:
        self._tokens = tokens
        folder = files(__package__)
        self._files = {path: (folder.joinpath(name).read_bytes(), type) for path, (name, type) in _FILES.items()}

    def answer(self, request: Request, now_wall: float) -> Answer | None:
        """Return the response to a request for the page, or None for any other request and a WebSocket handshake."""
        path, _, query = request.path.partition("?")
        if path == LOGIN_PATH:
            return self._login(request, query, now_wall)
        if path not in self._files or request.headers.get_all("Upgrade"):
            return None
        if request.method not in ("GET", "HEAD"):
            return _error(405, f"{path}: the method must be GET or HEAD (got {request.method})", Allow="GET, HEAD")
        body, type = self._files[path]
        headers = {**_HEADERS, "Content-Type": type, "Content-Length": str(len(body))}
        return Answer(200, b"" if request.method == "HEAD" else body, headers)

    def _login(self, request: Request, query: str, now_wall: float) -> Answer:
        if request.method != "POST":  # a browser sends the header Origin with every POST
            return _error(405, f"{LOGIN_PATH}: the method must be POST (got {request.method})", Allow="POST")
        if self._tokens is None:
            return _error(401, "enter the key of the server")
        if not _is_from_own_page(request):
            return _error(403, "this login is only for the server's own page, at a loopback address")
        users = parse_qs(query, keep_blank_values=True).get("user", [""])
        try:
            token, expires_at = self._tokens.issue(users[-1], now_wall)
        except BadName as error:
            return _error(400, str(error))
        body = {"token": token, "user": users[-1], "expiresAt": int(expires_at * 1000)}
        return Answer(200, json.dumps(body).encode(), {})


def _is_from_own_page(request: Request) -> bool:
    """Whether another web site cannot have sent this request.

    The host must be a loopback name: after a DNS rebinding, a browser sends requests of another site to this server,
    but with the name of that site. The origin must be the page: any site can send a POST to a loopback address.
    """
    hosts = request.headers.get_all("Host")
    origins = request.headers.get_all("Origin")
    sites = request.headers.get_all("Sec-Fetch-Site")
    try:
        names = [host_name(host) for host in hosts]
        is_own = all(urlsplit(origin).netloc == host for origin in origins for host in hosts)
    except ValueError:
        return False
    return len(names) == 1 and is_loopback_name(names[0]) and is_own and all(site == "same-origin" for site in sites)


def _error(status: int, text: str, **headers: str) -> Answer:
    return Answer(status, json.dumps({"error": text}).encode(), headers)
