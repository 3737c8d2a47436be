"""From a table of files to a server that runs until it is interrupted."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from compressor.base.context import Note, no_note
from compressor.base.errors import MissingExtra, SrkdError, UsageError
from demo.files import Asset

NEEDS = ("starlette", "uvicorn", "segno")
"""Modules of the extra `demo`; `--build` needs none of them."""

BACKLOG = 256
LONGEST_ENDING = 3
"""Seconds in which answers that are under way may still end after Ctrl-C."""


@dataclass(frozen=True)
class Limits:
    """Seconds and numbers; the defaults are generous for a phone and short for whoever only holds a connection."""

    request_seconds: float = 10.0
    """From the first moment of a connection, or the first byte of a later request, to the end of its headers."""
    stalled_seconds: float = 30.0
    """In which a client must have taken what waits for it: some 100 kB, so that 4 kB/s are enough."""
    idle_seconds: int = 5
    connections: int = 512
    """Together; the oldest that has asked for nothing makes room for a new one."""
    header_bytes: int = 16_384


def require_extra() -> None:
    """One line where the extra `demo` is not installed, before anything costly has begun."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(", ".join(missing), "demo")


def claim(host: str, port: int) -> list[socket.socket]:
    """Sockets for every address that `host` means, all with one port, not yet listening; port 0 takes a free one."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host {host}: no such address ({error}); 127.0.0.1 is this machine, 0.0.0.0 all") from error
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        failed: OSError | None = None
        for family, _, _, _, target in found:
            try:
                opened = stack.enter_context(_socket(family))
                opened.bind((target[0], port, *target[2:]))
            except OSError as error:
                failed = error
                continue
            sockets.append(opened)
            port = int(opened.getsockname()[1])
        if not sockets or (failed is not None and failed.errno == errno.EADDRINUSE):
            raise _cannot_listen(host, port, failed)
        stack.pop_all()
    return sockets


def _socket(family: int) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    if os.name != "nt":  # On Windows this would take a port that another server has.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return opened


def _cannot_listen(host: str, port: int, error: OSError | None) -> SrkdError:
    kinds = {
        errno.EADDRINUSE: "it is taken; another --port, or --port 0 for a free one",
        errno.EACCES: "it is not for every user; take a --port above 1023",
        errno.EADDRNOTAVAIL: "this machine has no such address; --host 0.0.0.0 means all that it has",
    }
    told = kinds.get(error.errno or 0, error.strerror or str(error)) if error else "it has no address"
    return SrkdError(f"cannot listen on {host} port {port}: {told}")


def serve(
    files: Mapping[str, Asset],
    sockets: Sequence[socket.socket],
    context: ssl.SSLContext | None = None,
    *,
    begun: Callable[[], None],
    heard: Note = no_note,
    limits: Limits = Limits(),
) -> None:
    """Answer until SIGINT or SIGTERM, which are raised again when everything is closed.

    `begun` is called once whoever connects is answered, `heard` with a line for every request.
    """
    import uvicorn

    from demo.limits import BoundedServer
    from demo.server import application

    for opened in sockets:
        opened.listen(BACKLOG)
    bounded = replace(limits, connections=_connections_here(limits.connections))
    config = uvicorn.Config(
        application(files, limits.header_bytes, heard),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=LONGEST_ENDING,
        h11_max_incomplete_event_size=limits.header_bytes,
    )
    begun()
    try:
        BoundedServer(config, bounded, context).run(sockets=list(sockets))
    finally:
        for opened in sockets:
            opened.close()


def _connections_here(wanted: int) -> int:
    """No more than half of the files that this process may have open."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(8, soft // 2))


def qr_code(url: str, encoding: str | None) -> str:
    """The URL for a phone's camera, in half blocks; nothing where the terminal cannot show them."""
    import segno

    drawn = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(out=drawn, border=2, compact=True)
    with suppress(LookupError, UnicodeEncodeError):
        drawn.getvalue().encode(encoding or "ascii")
        return drawn.getvalue().rstrip("\n")
    return ""
