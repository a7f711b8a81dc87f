"""Asking a server for a token over HTTP, with its key."""

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
    """The server will give no token: trying again is no use."""


async def get_token(uri: WebSocketURI, user: str, key: str, ssl: SSLContext | None) -> str:
    """A token for `user` from the server whose WebSocket is at `uri`.

    Raises: OSError if there is no answer or none of imsim's, Unauthorized if the server refuses.
    """
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    query = urllib.parse.urlencode({"user": user})
    request = urllib.request.Request(f"{'https' if uri.secure else 'http'}://{host}:{uri.port}/token?{query}")
    request.add_header("Authorization", "Bearer " + key.encode().decode("latin-1"))
    return await asyncio.get_running_loop().run_in_executor(None, _fetch, request, ssl)


def _fetch(request: urllib.request.Request, ssl: SSLContext | None) -> str:
    # No proxy: the WebSocket goes straight to the server, too.
    handlers = [urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=ssl)] if ssl else [])]
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=_TIMEOUT) as response:
            return str(json.load(response)["token"])
    except urllib.error.HTTPError as error:
        with error:
            if error.code >= 500:
                raise OSError(f"HTTP {error.code} for GET /token") from None
            try:
                text = json.load(error)["error"]
            except (ValueError, LookupError, TypeError):
                raise OSError(f"it is no imsim server (HTTP {error.code} for GET /token)") from None
            raise Unauthorized(str(text)) from None
    except urllib.error.URLError as error:
        raise OSError(str(getattr(error.reason, "strerror", None) or error.reason)) from None
    except ConnectionError:
        raise
    except (HTTPException, ValueError, LookupError, TypeError):
        raise OSError("it is no imsim server (its answer to GET /token is no token)") from None
