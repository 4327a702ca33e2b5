"""Runs the application on one address, in one process, until a signal ends it."""

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

#: Largest number of connections, since even idle ones take memory; further ones get a 503 at once.
_MAX_CONNECTIONS = 512


#: A name, "*." and a domain for all names below it, or an IPv6 address.
_HOST = re.compile(r"(\*\.)?[^\s*/:@]+|\[?[0-9a-f:.]+\]?", re.IGNORECASE)


def bind(host: str, port: int) -> socket.socket:
    """Reserve an address: the socket is bound but does not listen, so clients are refused until the model is loaded.

    Args:
        host: name or address of this machine.
        port: 0 takes any free one.

    Raises:
        CoraError: the address does not belong to this machine, or is in use.
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
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(bound: socket.socket) -> bool:
    """Whether only this machine can reach a bound socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def names_of(bound: socket.socket, host: str, allowed: Sequence[str]) -> list[str]:
    """Host names under which the service answers, without ports.

    On an address that only this machine can reach, these are its local names. On others every name is allowed ("*"),
    since the names of the service are not known here, unless some are given.

    Args:
        bound: socket of `bind`.
        host: host as the user gave it.
        allowed: further names.

    Raises:
        CoraError: one of `allowed` is not a host name.
    """
    for name in allowed:
        if name != "*" and not _HOST.fullmatch(name):
            raise CoraError(
                f"--allow-host: expected the name of a host without port, or '*.' and a domain, got {name!r}; "
                "write it as in an address, between '//' and the next ':' or '/'"
            )
    known = ["localhost", "127.0.0.1", "::1", "[::1]", host, *allowed]
    return [name.lower() for name in known] if is_local(bound) or allowed else ["*"]


def serve(app: Any, bound: socket.socket, *, grace_s: float, on_start: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then refuse new requests and answer those that were accepted.

    It returns after SIGTERM and raises KeyboardInterrupt after SIGINT. A second signal ends it at once.

    Args:
        app: an ASGI application.
        bound: socket of `bind`; closed at the end.
        grace_s: seconds that accepted requests may still take after the signal.
        on_start: called when the service accepts connections.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    # After it has shut down, uvicorn raises the signal again for the handler that was there before. The default handler
    # would kill the process; this one lets it end with its own exit code.
    previous = signal.signal(signal.SIGTERM, _ignore)
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


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
