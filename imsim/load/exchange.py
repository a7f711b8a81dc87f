"""One HTTP request of a session. Standard library only.

It blocks: under Locust's monkey patches only its own greenlet, elsewhere its thread.
"""

from __future__ import annotations

import http.client
import os
import ssl
from functools import cache
from urllib.parse import urlsplit

from imsim.load.adapters.interface import Request, Response

_LARGEST_ANSWER = 1 << 20
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # the environment variables that Python reads


def exchange(request: Request) -> Response:
    """Make the request, and return the answer or the reason why there is none.

    It uses no proxy that the environment names, because a load test must reach the server itself.
    """
    try:
        parts = urlsplit(request.url)
        connection = _connection(parts.scheme, parts.hostname or "", parts.port, request.timeout)
        try:
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            headers = {name: value.encode() for name, value in request.headers}
            connection.request(request.method, path or "/", body=request.body or None, headers=headers)
            response = connection.getresponse()
            return Response(request.ref, response.status, response.read(_LARGEST_ANSWER))
        finally:
            connection.close()
    except TimeoutError:
        return _failed(request, f"no answer within {request.timeout:g} s")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _failed(request, getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _connection(scheme: str, host: str, port: int | None, timeout: float) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(
            host, port, timeout=timeout, context=_context(*map(os.environ.get, _CERTIFICATES))
        )
    return http.client.HTTPConnection(host, port, timeout=timeout)


@cache
def _context(*certificates: str | None) -> ssl.SSLContext:
    # The context is cached, because loading the certificates takes tens of milliseconds. The variables that name them
    # can change in a notebook.
    return ssl.create_default_context()


def _failed(request: Request, reason: str) -> Response:
    return Response(request.ref, 0, reason.encode())
