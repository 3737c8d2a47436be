"""What the demo's server answers: GET and HEAD of a fixed table of files, and nothing else.

No address is ever joined to a folder: what is not a key of the table is not there, however it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from compressor.base.context import Note, no_note
from demo.addresses import is_loopback
from demo.files import ENCODINGS, Asset
from demo.isolation import cache_control, headers_for

CHUNK = 65_536
"""Bytes handed to a connection at a time: two hundred slow readers of 27 MB must not become 5 GB of buffers."""

INDEX = "index.html"


def application(files: Mapping[str, Asset], header_bytes: int, heard: Note = no_note) -> ASGIApp:
    """The ASGI application for a table of address → file. `heard` is told of every request."""
    table = {f"/{address}": file for address, file in files.items()}
    table["/"] = table[f"/{INDEX}"]

    async def answer(request: Request) -> Response:
        file = table.get(request.scope["path"])
        if file is None:
            raise HTTPException(404)
        return _answer(file, request.headers)

    app = Starlette(
        routes=[Route("/{path:path}", answer, methods=["GET"])], exception_handlers={HTTPException: _refusal}
    )
    app.router.redirect_slashes = False
    return Bounded(app, header_bytes, heard)


def _answer(file: Asset, asked: Headers) -> Response:
    encoding = _encoding(file, asked.get("accept-encoding", ""))
    tag = f'"{file.sha256[:32]}{"-" + encoding if encoding else ""}"'
    headers = {"ETag": tag, "Cache-Control": cache_control(file.immutable)}
    if file.encoded:
        headers["Vary"] = "Accept-Encoding"
    if _same(tag, asked.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    if encoding:
        headers["Content-Encoding"] = encoding
    return FileAnswer(file.encoded[encoding] if encoding else file.content, headers, file.media_type)


def _encoding(file: Asset, accepted: str) -> str:
    """The best compressed form that the client takes and the file has; none: as it is."""
    weights = {}
    for part in accepted.lower().split(","):
        name, _, parameters = part.partition(";")
        weights[name.strip()] = parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    for name in ENCODINGS.values():
        if name in file.encoded and weights.get(name, weights.get("*", False)):
            return name
    return ""


def _same(tag: str, condition: str) -> bool:
    known = {part.strip().removeprefix("W/") for part in condition.split(",")}
    return tag in known or "*" in known


class FileAnswer(Response):
    """Bytes that are in memory anyway, in pieces that wait for the client to take them."""

    def __init__(self, content: bytes, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(None, headers={**headers, "Content-Length": str(len(content))})
        self.headers["Content-Type"] = media_type
        self.content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        size = 0 if scope["method"] == "HEAD" else len(self.content)
        view = memoryview(self.content)
        for start in range(0, size, CHUNK):
            await send(
                {"type": "http.response.body", "body": bytes(view[start : start + CHUNK]), "more_body": True},
            )
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _refusal(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    headers = {**(error.headers or {}), "Cache-Control": "no-store"}
    return PlainTextResponse(f"{error.detail}\n", status_code=error.status_code, headers=headers)


class Bounded:
    """Around the application: what is too large goes no further, and every answer has the headers of isolation."""

    def __init__(self, app: ASGIApp, header_bytes: int, heard: Note) -> None:
        self.app, self.header_bytes, self.heard = app, header_bytes, heard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        isolating = headers_for(secure=_is_secure(scope))

        async def send_isolated(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in isolating.items():
                    headers[name] = value
                self.heard(f"{message['status']} {scope['method']} {ascii(scope['path'])[1:-1]}")
            await send(message)

        refused = self._refused(scope)
        # What was sent beside the headers is not read: the connection ends with the answer.
        answer = PlainTextResponse(f"{refused[1]}\n", refused[0], {"Connection": "close"}) if refused else self.app
        await answer(scope, receive, send_isolated)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in scope["headers"])
        if size > self.header_bytes:
            return 431, "Request Header Fields Too Large"
        if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            return 413, "Content Too Large"
        return None


def _is_secure(scope: Scope) -> bool:
    """Whether the browser takes the page for a secure context, by the address that it asked for."""
    if scope["scheme"] == "https":
        return True
    try:
        return is_loopback(urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or "")
    except ValueError:
        return False
