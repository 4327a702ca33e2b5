"""The bearer token, and the headers that tell browsers what the page may do."""

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

#: Environment variable with the token, used where no file is given.
TOKEN_VARIABLE = "CORA_TOKEN"
_MIN_TOKEN = 16

HEADERS = {
    # All files of the page are the service's own; images that the user chose are blobs, thumbnails are data URLs.
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
    """Check a token, and strip the blanks around it.

    Raises:
        CoraError: it is too short to be a secret, or has characters that a header cannot carry.
    """
    stripped = token.strip()
    if len(stripped) < _MIN_TOKEN or not (stripped.isascii() and stripped.isprintable()) or " " in stripped:
        raise CoraError(
            f"expected a token of at least {_MIN_TOKEN} ASCII characters without spaces, got {len(stripped)} "
            "characters; make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return stripped


def read_token(file: Path | None) -> str | None:
    """Read the token from a file, or where none is given from the environment; None where neither has one.

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
    """Compare a client's bearer token with the service's, in a time that reveals nothing about it.

    Args:
        given: token that the client sent, without "Bearer"; None if it sent none.
        token: token of the service; None lets everybody in.

    Raises:
        RefusedError: 401, the tokens differ.
    """
    if token is not None and not hmac.compare_digest((given or "").encode(), token.encode()):
        got = "none" if given is None else "another"
        raise RefusedError(
            401, f"expected the service's token, got {got}; send the header 'Authorization: Bearer TOKEN'"
        )


def refuse_foreign_page(site: str | None) -> None:
    """Refuse what a browser sends for a page of another site: it could make the service work, unseen by its user.

    Args:
        site: the header `Sec-Fetch-Site`, which browsers set and pages cannot; None from other clients.

    Raises:
        RefusedError: 403, a page of another site sent the request.
    """
    if site == "cross-site":
        raise RefusedError(403, "expected a request of the service's own page, got one of another site; open the page")


class Observe:
    """ASGI middleware that adds `HEADERS` to every response and counts it in the metrics.

    Args:
        app: the application behind it.
        metrics: counts the requests.
        paths: paths that are counted by name; all others, of which a client can invent any number, count as "other".
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; add the headers to its response, and count it with its path, status and time."""
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
