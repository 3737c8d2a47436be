"""The demo's web server: uvicorn with starlette's static files, and the headers that the app needs."""

from __future__ import annotations

import mimetypes
import socket
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

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

REFUSAL = PlainTextResponse("another host name: open a printed address, or start srkd demo with --host NAME", 421)

MEDIA_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
"""Types that a browser insists on, whatever the system's table (/etc/mime.types) says."""


def serve(
    site: Path,
    listening: socket.socket,
    hosts: Collection[str],
    certificate: tuple[Path, Path] | None = None,
    note: Note = no_note,
) -> None:
    """Serve a folder on a listening socket until Ctrl-C, over https with a certificate and its key; note requests."""
    cert, key = certificate or (None, None)
    config = uvicorn.Config(
        site_app(site, hosts, note),
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
    """The app that answers GET and HEAD from the files of a folder, to this machine's own names and to `hosts` alone.

    A page of another site may point its own name here (DNS rebinding), and would read the user's models.
    """
    for suffix, kind in MEDIA_TYPES.items():
        mimetypes.add_type(kind, suffix)
    files = Starlette(routes=[Mount("/", StaticFiles(directory=site, html=True))])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                cache = cache_control(scope["path"]) if message["status"] < 400 else "no-cache"
                MutableHeaders(scope=message).update({**HEADERS, "Cache-Control": cache})
                note(f"{message['status']} {scope['method']} {ascii(scope['path'])[1:-1]}")
            await send(message)

        try:
            asked = urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
        except ValueError:
            asked = ""
        is_known = is_loopback(asked) or asked in hosts
        await (files if is_known else REFUSAL)(scope, receive, send_with_headers)

    return app
