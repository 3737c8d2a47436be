"""The demo's web server: GET and HEAD of a fixed table of files, with limits on time, size and number.

h11 reads and writes HTTP/1.1, asyncio carries the bytes. An address is never joined to a folder: anything that is not a
key of the table does not exist, however it is written.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

import h11

from compressor.base.context import Note, no_note
from compressor.base.interrupts import python_handles_ctrl_c
from demo.addresses import is_loopback
from demo.files import ENCODINGS, HEADERS, SECURE_ONLY_HEADERS, Asset

CHUNK_BYTES = 65_536
"""Bytes written to a connection at a time: two hundred slow readers of 27 MB must not use 5 GB of buffers."""

BACKLOG = 256
CLOSE: Mapping[str, str] = MappingProxyType({"Connection": "close"})


@dataclass(frozen=True)
class ServerLimits:
    """Limits on time and number, generous for a phone and short for clients that only hold a connection."""

    request_seconds: float = 10.0
    """Seconds from the start of a connection, or the end of a response, to the end of the next request's headers."""
    stalled_seconds: float = 30.0
    """Seconds for a client to read the pending data, about 100 kB: 4 kB/s are enough."""
    connections: int = 512
    """Total number of connections; the one that waits longest for a request is closed to admit a new one."""
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
    """Serve until KeyboardInterrupt, or what another signal's handler raises.

    `on_ready` is called once connections are accepted; `note` receives one line per request.
    """
    # Connections use at most half of the files that this process may open.
    max_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if max_files != resource.RLIM_INFINITY:
        limits = replace(limits, connections=min(limits.connections, max(8, max_files // 2)))
    try:
        for bound in sockets:
            bound.listen(BACKLOG)
        on_ready()
        with python_handles_ctrl_c():
            asyncio.run(FileServer(assets, limits, note, ssl_context).run(sockets))
    finally:
        for bound in sockets:
            bound.close()


@dataclass(frozen=True)
class Response:
    status: HTTPStatus
    headers: Mapping[str, str]
    body: bytes = b""


class FileServer:
    """A table of files by address, and the connections that ask for them."""

    def __init__(
        self,
        assets: Mapping[str, Asset],
        limits: ServerLimits,
        note: Note = no_note,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.assets = {f"/{address}": asset for address, asset in assets.items()}
        self.assets["/"] = self.assets["/index.html"]
        self.limits, self.note, self.ssl_context = limits, note, ssl_context
        self.connections: set[asyncio.StreamWriter] = set()
        self.waiting: dict[asyncio.StreamWriter, None] = {}
        """The connections that wait for a request, the one that waits longest first."""

    async def run(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections until the task is cancelled, which ends them all at once."""
        handshake_seconds = self.limits.request_seconds if self.ssl_context else None
        for bound in sockets:
            await asyncio.start_server(
                self.converse,
                sock=bound,
                backlog=BACKLOG,
                ssl=self.ssl_context,
                ssl_handshake_timeout=handshake_seconds,
            )
        try:
            await asyncio.Event().wait()
        finally:
            for writer in [*self.connections]:
                self._drop(writer)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other, and close it."""
        try:
            # The client has left, or does not read, or the server ends.
            with suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
                await self._answer(reader, writer)
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), self.limits.stalled_seconds)
        finally:
            self._drop(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, self.limits.header_bytes)
        if not self._admit(writer):
            await self._send(http, writer, _refuse(HTTPStatus.SERVICE_UNAVAILABLE, CLOSE))
            return
        head_only = False
        while True:
            self.waiting[writer] = None
            try:
                request = await asyncio.wait_for(_receive(http, reader), self.limits.request_seconds)
                if request is None:
                    return
                response, head_only = self._respond(request), request.method == b"HEAD"
            except h11.RemoteProtocolError as error:
                response = _refuse(HTTPStatus(error.error_status_hint), CLOSE)
            except asyncio.TimeoutError:
                if not http.trailing_data[0]:
                    return
                response = _refuse(HTTPStatus.REQUEST_TIMEOUT, CLOSE)
            finally:
                self.waiting.pop(writer, None)
            await self._send(http, writer, response, head_only=head_only)
            # A request body is not read: the connection is closed after the response to the headers.
            if http.our_state is not h11.DONE or not isinstance(http.next_event(), h11.EndOfMessage):
                return
            http.start_next_cycle()

    def _admit(self, writer: asyncio.StreamWriter) -> bool:
        """Count a new connection, if necessary in place of a waiting one, so that nobody locks out others."""
        if len(self.connections) >= self.limits.connections:
            if not self.waiting:
                return False
            self._drop(next(iter(self.waiting)))
        self.connections.add(writer)
        return True

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self.connections.discard(writer)
        self.waiting.pop(writer, None)
        writer.transport.abort()

    async def _send(
        self, http: h11.Connection, writer: asyncio.StreamWriter, response: Response, *, head_only: bool = False
    ) -> None:
        """Write a response as fast as the client reads it; raise TimeoutError if it stops."""
        for frame in _frames(http, response, head_only):
            writer.write(frame)
            await asyncio.wait_for(writer.drain(), self.limits.stalled_seconds)

    def _respond(self, request: h11.Request) -> Response:
        method, target = request.method.decode(), request.target.decode()
        path = unquote(target.partition("?")[0])
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        size = len(target) + sum(len(name) + len(value) for name, value in request.headers)
        if size > self.limits.header_bytes:
            response = _refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, CLOSE)
        elif "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            response = _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, CLOSE)
        elif method not in ("GET", "HEAD"):
            response = _refuse(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        elif path not in self.assets:
            response = _refuse(HTTPStatus.NOT_FOUND)
        else:
            response = _find_form(self.assets[path], headers)
        # A page requested under its own machine's name is a secure context without https.
        secure = self.ssl_context is not None or _names_this_device(headers.get("host", ""))
        isolation = {name: value for name, value in HEADERS.items() if secure or name not in SECURE_ONLY_HEADERS}
        self.note(f"{response.status.value} {method} {ascii(path)[1:-1]}")
        return replace(response, headers={**response.headers, **isolation})


async def _receive(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Wait for the headers of the next request; None stands for the client's end."""
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await reader.read(CHUNK_BYTES))
    return event if isinstance(event, h11.Request) else None


def _frames(http: h11.Connection, response: Response, head_only: bool) -> Iterator[bytes]:
    """Yield the bytes of a response."""
    headers = {**response.headers, "Date": formatdate(usegmt=True)}
    reason = response.status.phrase.encode()
    yield http.send(h11.Response(status_code=response.status, headers=list(headers.items()), reason=reason)) or b""
    for start in range(0, 0 if head_only else len(response.body), CHUNK_BYTES):
        yield http.send(h11.Data(response.body[start : start + CHUNK_BYTES])) or b""
    yield http.send(h11.EndOfMessage()) or b""


def _refuse(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Response:
    body = f"{status.phrase}\n".encode()
    standard = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))}
    return Response(status, {**standard, "Cache-Control": "no-store", **(headers or {})}, body)


def _find_form(asset: Asset, request: Mapping[str, str]) -> Response:
    """Return a file in the form that the client accepts, or only the news that its copy is still good."""
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
