"""Who may ask, and the headers that tell browsers what the page may do."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Collection
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cora.errors import CoraError
from cora.files import found_instead
from cora.service.metrics import Metrics
from cora.service.refusal import RefusedError

#: Of the environment, where no file holds the token.
TOKEN_VARIABLE = "CORA_TOKEN"
_MIN_TOKEN = 16

HEADERS = {
    # The page is three kinds of files from here; images that the user chose are blobs, results are data.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


def check_token(token: str) -> str:
    """The token without the space around it.

    Raises:
        CoraError: it is too short to be a secret, or does not fit into a header.
    """
    stripped = token.strip()
    if len(stripped) < _MIN_TOKEN or not (stripped.isascii() and stripped.isprintable()) or " " in stripped:
        raise CoraError(
            f"expected a token of at least {_MIN_TOKEN} ASCII characters without spaces, got {len(stripped)} "
            "characters; make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return stripped


def read_token(file: Path | None) -> str | None:
    """The token in a file, else that of the environment, else None.

    Raises:
        CoraError: the file cannot be read, or the token cannot be used.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE)
        return None if token is None else check_token(token)
    try:
        return check_token(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        found = found_instead(file, error)
        raise CoraError(f"expected a file with a token, got {found}: {file}; check --token-file") from None


def authorize(given: str | None, token: str | None) -> None:
    """Compare a bearer token with the service's, in a time that tells nothing about it.

    Args:
        given: what the client sent, without "Bearer".
        token: the service's; None lets everybody in.

    Raises:
        RefusedError: 401.
    """
    if token is not None and not hmac.compare_digest((given or "").encode(), token.encode()):
        got = "none" if given is None else "another"
        raise RefusedError(
            401, f"expected the service's token, got {got}; send the header 'Authorization: Bearer TOKEN'"
        )


class Observe:
    """Puts the headers on every response and counts it.

    Args:
        app: answers.
        metrics: counts.
        paths: that are counted by name; a client can invent others without end.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with the headers added; count it, with its time, by path and status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.request(path, status, time.perf_counter() - start)
