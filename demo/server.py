"""The demo's web server: GET and HEAD of a table of files in memory, answered by an ASGI app that uvicorn runs.

An address is never joined to a folder: anything that is not a key of the table does not exist, however it is written.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from compressor.base.context import Note, no_note
from demo.addresses import is_loopback
from demo.files import ENCODINGS, HEADERS, SECURE_ONLY_HEADERS, Asset

CONNECTIONS = 512
"""Requests and open connections beyond these get 503."""

PORT = re.compile(r":\d+$")


def serve(
    assets: Mapping[str, Asset],
    listening: socket.socket,
    certificate: tuple[Path, Path] | None = None,
    note: Note = no_note,
) -> None:
    """Serve on a listening socket until Ctrl-C, over https with a certificate and its key; a note for each request."""
    cert, key = certificate or (None, None)
    config = uvicorn.Config(
        file_app(assets, note),
        ssl_certfile=cert,
        ssl_keyfile=key,
        limit_concurrency=CONNECTIONS,
        # Ctrl-C waits for nobody's download.
        timeout_graceful_shutdown=0,
        http="h11",
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listening])


def file_app(assets: Mapping[str, Asset], note: Note = no_note) -> ASGIApp:
    """Return the app that answers from a table of files by address."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        asset = assets.get(scope["path"].removeprefix("/") or "index.html")
        if request.method not in ("GET", "HEAD"):
            response: Response = PlainTextResponse("Method Not Allowed\n", 405, {"Allow": "GET, HEAD"})
        elif asset is None or not scope["path"].startswith("/"):
            response = PlainTextResponse("Not Found\n", 404)
        else:
            response = _file_response(asset, request)
        # A page requested under its own machine's name is a secure context without https.
        secure = scope["scheme"] == "https" or is_loopback(PORT.sub("", request.headers.get("host", "")).strip("[]"))
        response.headers.update({name: HEADERS[name] for name in HEADERS if secure or name not in SECURE_ONLY_HEADERS})
        note(f"{response.status_code} {request.method} {ascii(scope['path'])[1:-1]}")
        await response(scope, receive, send)

    return app


def _file_response(asset: Asset, request: Request) -> Response:
    """Return a file in the best form that the client accepts, or only the news that its copy is still good."""
    accepted = {part.partition(";")[0].strip() for part in request.headers.get("accept-encoding", "").split(",")}
    encoding = next((name for name in ENCODINGS.values() if name in asset.encoded and name in accepted), None)
    tag = f'"{asset.sha256[:32]}{"" if encoding is None else f"-{encoding}"}"'
    headers = {"ETag": tag, "Cache-Control": asset.cache_control}
    if asset.encoded:
        headers["Vary"] = "Accept-Encoding"
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    body = asset.content if encoding is None else asset.encoded[encoding]
    return Response(body, headers=headers, media_type=asset.media_type)
