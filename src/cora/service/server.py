"""Runs the application: one address, one process, an orderly end."""

from __future__ import annotations

import ipaddress
import re
import signal
import socket
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn

from cora.errors import CoraError

_CONNECTIONS = 512
"""More than that get a 503 at once: connections that send nothing cost memory, too."""


#: A name, "*." and a domain for all names below it, or an IPv6 address.
_HOST = re.compile(r"(\*\.)?[^\s*/:@]+|\[?[0-9a-f:.]+\]?", re.IGNORECASE)


def bind(host: str, port: int) -> socket.socket:
    """A socket with the address, not yet listening: whoever connects before the model is there is refused.

    Args:
        host: name or address of this machine.
        port: 0 takes any free one.

    Raises:
        CoraError: the address is not this machine's, or is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:  # the latter: no name at all, "a..b" for instance
        reason = getattr(error, "strerror", None) or error
        raise CoraError(
            f"expected a free address of this machine, got {host} port {port}: {reason}; "
            "choose another --host or --port"
        ) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """The address of a bound socket as a browser takes it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(bound: socket.socket) -> bool:
    """Whether only this machine reaches a bound socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def names_of(bound: socket.socket, host: str, allowed: Sequence[str]) -> list[str]:
    """Names that the service may be called by: those of this machine where it alone is served; else any, "*".

    Args:
        bound: of `bind`.
        host: as it was asked for.
        allowed: further names, which are then the only ones elsewhere, too.

    Raises:
        CoraError: one of `allowed` is no name.
    """
    for name in allowed:
        if name != "*" and not _HOST.fullmatch(name):
            raise CoraError(
                f"--allow-host: expected the name of a host without port, or '*.' and a domain, got {name!r}; "
                "write it as in an address, between '//' and the next ':' or '/'"
            )
    # Elsewhere the names of the service are not known here.
    known = ["localhost", "127.0.0.1", "::1", "[::1]", host, *allowed]
    return [name.lower() for name in known] if is_local(bound) or allowed else ["*"]


def serve(app: Any, bound: socket.socket, *, grace_s: float, on_start: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then take no more and answer what was accepted.

    It returns after SIGTERM and raises KeyboardInterrupt after SIGINT. A second signal ends it at once.

    Args:
        app: an ASGI application.
        bound: of `bind`; closed at the end.
        grace_s: seconds that accepted requests may still take.
        on_start: called when connections are taken.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    # After an orderly end the signal is raised once more, for the handler that was there before: the process has
    # done what SIGTERM asked for, so this one lets it go on to its exit code.
    previous = signal.signal(signal.SIGTERM, _ended)
    try:
        _Server(config, on_start).run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()


def _ended(number: int, frame: FrameType | None) -> None:
    pass
