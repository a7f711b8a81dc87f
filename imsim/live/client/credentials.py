"""The request of a token from a server, over HTTP and with the server's key."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from ssl import SSLContext

from websockets.uri import WebSocketURI

_TIMEOUT = 10.0  # seconds


class Unauthorized(Exception):
    """The server refuses to issue a token. A retry cannot succeed."""


async def get_token(uri: WebSocketURI, user: str, key: str, ssl: SSLContext | None) -> str:
    """Request a token for `user` from the server whose WebSocket is at `uri`.

    Raises: OSError if nothing answers, or if the answer is not that of an imsim server; Unauthorized if the server
    refuses.
    """
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    query = urllib.parse.urlencode({"user": user})
    request = urllib.request.Request(f"{'https' if uri.secure else 'http'}://{host}:{uri.port}/token?{query}")
    request.add_header("Authorization", "Bearer " + key.encode().decode("latin-1"))
    return await asyncio.get_running_loop().run_in_executor(None, _fetch, request, ssl)


def _fetch(request: urllib.request.Request, ssl: SSLContext | None) -> str:
    # The request uses no proxy, as the WebSocket uses none.
    handlers = [urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=ssl)] if ssl else [])]
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=_TIMEOUT) as response:
            return str(json.load(response)["token"])
    except urllib.error.HTTPError as error:
        with error:
            if error.code >= 500:
                raise OSError(f"HTTP {error.code} in answer to GET /token") from None
            try:
                text = json.load(error)["error"]
            except (ValueError, LookupError, TypeError):
                raise OSError(f"not an imsim server: HTTP {error.code} in answer to GET /token") from None
            raise Unauthorized(str(text)) from None
    except urllib.error.URLError as error:
        raise OSError(str(getattr(error.reason, "strerror", None) or error.reason)) from None
    except ConnectionError:
        raise
    except (HTTPException, ValueError, LookupError, TypeError):
        raise OSError("not an imsim server: its answer to GET /token is not a token") from None
