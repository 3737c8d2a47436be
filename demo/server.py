"""The demo's web server: uvicorn with starlette's static files, and the headers that the app needs."""

from __future__ import annotations

import mimetypes
import re
import socket
from collections.abc import Collection
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from compressor.base.context import Note, no_note
from demo.addresses import is_loopback
from demo.files import HEADERS, cache_control

CONNECTIONS = 512
"""Requests and open connections beyond these get 503."""


def serve(app: ASGIApp, listening: socket.socket, certificate: tuple[Path, Path] | None = None) -> None:
    """Serve an app on a listening socket until Ctrl-C, over https with a certificate and its key."""
    cert, key = certificate or (None, None)
    config = uvicorn.Config(
        app,
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


def site_app(site: Path, hosts: Collection[str] = (), note: Note = no_note) -> ASGIApp:
    """The app that answers GET and HEAD from the files of a folder, to its own machine's names and to `hosts` alone."""
    # A browser insists on these types, whatever the system's table (/etc/mime.types) says.
    for suffix, kind in {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}.items():
        mimetypes.add_type(kind, suffix)
    files = Starlette(routes=[Mount("/", StaticFiles(directory=site, html=True))])
    refusal = PlainTextResponse("another host name: open a printed address, or start srkd demo with --host NAME", 421)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                cache = cache_control(scope["path"]) if message["status"] < 400 else "no-cache"
                MutableHeaders(scope=message).update({**HEADERS, "Cache-Control": cache})
                note(f"{message['status']} {scope['method']} {ascii(scope['path'])[1:-1]}")
            await send(message)

        # A page whose name leads here (DNS rebinding) must not read the user's models.
        asked = re.sub(r":\d*$", "", Headers(scope=scope).get("host", "").lower()).strip("[]")
        is_known = is_loopback(asked) or asked in hosts
        await (files if is_known else refusal)(scope, receive, send_with_headers)

    return app
