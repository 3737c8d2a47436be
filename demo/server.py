"""The demo's web server: GET and HEAD of a fixed table of files, by uvicorn, with limits on time, size and number.

An address is never joined to a folder: anything that is not a key of the table does not exist, however it is written.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from compressor.base.context import Note, no_note
from demo.addresses import is_loopback
from demo.files import ENCODINGS, HEADERS, SECURE_ONLY_HEADERS, Asset

Message: TypeAlias = Mapping[str, Any]
"""An ASGI scope or event."""

CHUNK_BYTES = 65_536
"""Bytes written to a connection at a time: two hundred slow readers of 27 MB must not use 5 GB of buffers."""

BACKLOG = 256
SHUTDOWN_SECONDS = 3
"""Seconds that pending responses may still take after Ctrl-C."""


@dataclass(frozen=True)
class ServerLimits:
    """Limits on time and number, generous for a phone and short for clients that only hold a connection."""

    request_seconds: float = 10.0
    """Seconds from the start of a connection, or the first byte of a later request, to the end of its headers."""
    stalled_seconds: float = 30.0
    """Seconds for a client to read the pending data, about 100 kB: 4 kB/s are enough."""
    idle_seconds: int = 5
    connections: int = 512
    """Total number of connections; the oldest idle one is closed to admit a new one."""
    header_bytes: int = 16_384


def serve(
    assets: Mapping[str, Asset],
    sockets: Sequence[socket.socket],
    ssl_context: ssl.SSLContext | None = None,
    *,
    on_ready: Callable[[], None],
    note: Note = no_note,
    limits: ServerLimits = ServerLimits(),
) -> None:
    """Serve until SIGINT or SIGTERM, which are raised again after everything is closed.

    `on_ready` is called once connections are accepted; `note` receives one line per request.
    """
    for bound in sockets:
        bound.listen(BACKLOG)
    config = uvicorn.Config(
        FileApp(assets, limits.header_bytes, note),
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
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        h11_max_incomplete_event_size=limits.header_bytes,
    )
    on_ready()
    try:
        # Connections use at most half of the files that this process may open.
        max_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if max_files != resource.RLIM_INFINITY:
            limits = replace(limits, connections=min(limits.connections, max(8, max_files // 2)))
        Server(config, limits, ssl_context).run(list(sockets))
    finally:
        for bound in sockets:
            bound.close()


@dataclass(frozen=True)
class Response:
    status: HTTPStatus
    headers: Mapping[str, str]
    body: bytes = b""


class FileApp:
    """The ASGI application for a table of files by address."""

    def __init__(self, assets: Mapping[str, Asset], header_bytes: int, note: Note = no_note) -> None:
        self.assets = {f"/{address}": asset for address, asset in assets.items()}
        self.assets["/"] = self.assets["/index.html"]
        self.header_bytes, self.note = header_bytes, note

    async def __call__(self, scope: Message, receive: object, send: Callable[[Message], Awaitable[None]]) -> None:
        request = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in scope["headers"])
        response = self._respond(scope["method"], scope["path"], request, size)
        # A page requested under its own machine's name is a secure context without https.
        secure = scope["scheme"] == "https" or _names_this_device(request.get("host", ""))
        isolation = {name: value for name, value in HEADERS.items() if secure or name not in SECURE_ONLY_HEADERS}
        headers = {**response.headers, **isolation}
        self.note(f"{response.status.value} {scope['method']} {ascii(scope['path'])[1:-1]}")
        await send(
            {
                "type": "http.response.start",
                "status": response.status.value,
                "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            }
        )
        body = memoryview(b"" if scope["method"] == "HEAD" else response.body)
        for start in range(0, len(body), CHUNK_BYTES):
            chunk = bytes(body[start : start + CHUNK_BYTES])
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _respond(self, method: str, path: str, request: Mapping[str, str], size: int) -> Response:
        # A request body is not read: the connection is closed after the response.
        if size > self.header_bytes:
            return _refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, {"Connection": "close"})
        if "transfer-encoding" in request or request.get("content-length", "0") != "0":
            return _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"Connection": "close"})
        if method not in ("GET", "HEAD"):
            return _refuse(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        asset = self.assets.get(path)
        if asset is None:
            return _refuse(HTTPStatus.NOT_FOUND)
        encoding = _choose_encoding(asset, request.get("accept-encoding", ""))
        tag = f'"{asset.sha256[:32]}{"-" + encoding if encoding else ""}"'
        headers = {"ETag": tag, "Cache-Control": asset.cache_control}
        if asset.encoded:
            headers["Vary"] = "Accept-Encoding"
        if {"*", tag} & {entry.strip().removeprefix("W/") for entry in request.get("if-none-match", "").split(",")}:
            return Response(HTTPStatus.NOT_MODIFIED, headers)
        if encoding:
            headers["Content-Encoding"] = encoding
        body = asset.encoded[encoding] if encoding else asset.content
        headers |= {"Content-Length": str(len(body)), "Content-Type": asset.media_type}
        return Response(HTTPStatus.OK, headers, body)


def _refuse(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Response:
    body = f"{status.phrase}\n".encode()
    standard = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))}
    return Response(status, {**standard, "Cache-Control": "no-store", **(headers or {})}, body)


def _choose_encoding(asset: Asset, accept_encoding: str) -> str:
    """Return the best compressed form that the client accepts and the file has; "" for the uncompressed file."""
    accepted = {}
    for coding in accept_encoding.lower().split(","):
        name, _, parameters = coding.partition(";")
        accepted[name.strip()] = parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    for name in ENCODINGS.values():
        if name in asset.encoded and accepted.get(name, accepted.get("*", False)):
            return name
    return ""


def _names_this_device(host_header: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host_header}").hostname or "")
    except ValueError:
        return False


class Connection(H11Protocol):
    """One connection with a deadline: uvicorn itself waits forever for the rest of a request and for a slow reader.

    No option of uvicorn limits either, or closes an idle connection to admit a new client.
    """

    def __init__(self, config: uvicorn.Config, server_state: ServerState, limits: ServerLimits) -> None:
        super().__init__(config, server_state, app_state={})
        self.limits = limits
        self.opened = self.loop.time()
        self._deadline: asyncio.TimerHandle | None = None
        self._on_deadline: Callable[[], None] | None = None

    @property
    def is_answering(self) -> bool:
        """True from the arrival of a request to the end of its response."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _update_deadline(self) -> None:
        """Set the deadline of the connection's current state; a running one for the same reason is kept."""
        seconds, action = 0.0, None
        if self.transport.is_closing() or self.flow.write_paused:  # a closing connection still waits for its last bytes
            seconds, action = self.limits.stalled_seconds, self.transport.abort
        elif not self.is_answering and self.timeout_keep_alive_task is None:  # uvicorn's own timer limits idleness
            seconds, action = self.limits.request_seconds, self._refuse_slow_request
        if action == self._on_deadline:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._on_deadline = action
        self._deadline = None if action is None else self.loop.call_later(seconds, action)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections and not self._close_oldest_idle():
            self._close_with(HTTPStatus.SERVICE_UNAVAILABLE)
        self._update_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_deadline()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._update_deadline()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._update_deadline()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._update_deadline()

    def _refuse_slow_request(self) -> None:
        # A client that has sent nothing, such as a browser's spare connection, gets this response, too, and ignores it.
        self._close_with(HTTPStatus.REQUEST_TIMEOUT)
        self._update_deadline()

    def _close_with(self, status: HTTPStatus) -> None:
        line = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        self.transport.write(line.encode())
        self.transport.close()

    def _close_oldest_idle(self) -> bool:
        """Close the oldest idle connection, so that nobody locks out others; return True if there was one."""
        others = [other for other in self.connections if isinstance(other, Connection) and other is not self]
        idle = [other for other in others if not other.is_answering and not other.transport.is_closing()]
        oldest = min(idle, key=lambda other: other.opened, default=None)
        if oldest is not None:
            oldest.transport.abort()
        return oldest is not None


class Server(uvicorn.Server):
    """uvicorn on bound sockets, with a limit on the time of a TLS handshake, which uvicorn has no option for."""

    def __init__(self, config: uvicorn.Config, limits: ServerLimits, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self.limits, self.ssl_context = limits, ssl_context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                lambda: Connection(self.config, self.server_state, self.limits),
                sock=bound,
                ssl=self.ssl_context,
                ssl_handshake_timeout=self.limits.request_seconds if self.ssl_context else None,
                backlog=self.config.backlog,
            )
            for bound in sockets or []
        ]
        self.started = True
