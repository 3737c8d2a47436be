"""A static host for the built app: plain files, with or without the headers that threads need."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


@dataclass
class Site:
    """Bytes or file by address. `headers` are sent with every answer."""

    files: dict[str, bytes | Path]
    headers: Mapping[str, str] = field(default_factory=lambda: dict(ISOLATION))
    port: int = 0

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    def content(self, address: str) -> bytes | None:
        file = self.files.get(address or "index.html")
        return file.read_bytes() if isinstance(file, Path) else file


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, site: Site, *arguments: object) -> None:
        self.site = site
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        address = unquote(urlsplit(self.path).path).lstrip("/")
        content = self.site.content(address)
        if content is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        unchanged = self.headers.get("If-None-Match") == tag
        self.send_response(304 if unchanged else 200)
        body = b"" if unchanged else content
        name = "index.html" if not address or address.endswith("/") else address
        self.send_header("Content-Type", self.guess_type(name))
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.send_header("ETag", tag)
        for name, value in self.site.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing, to keep the test's output clean."""


@dataclass(frozen=True)
class Model:
    """A row of api/models.json, as the server of `srkd demo` writes it."""

    path: Path
    name: str
    role: str
    precision: str = "fp32"
    scale: int = 4
    channels: int = 3
    receptive_radius: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    textured: str | None = None
    strength: float | None = None

    def row(self, url: str) -> dict[str, object]:
        content = self.path.read_bytes()
        facts = {name: value for name, value in vars(self).items() if name != "path"}
        digest = hashlib.sha256(content).hexdigest()
        return {**facts, "url": url, "bytes": len(content), "sha256": digest, "fixed_size": None}


def app_files(app: Path, prefix: str = "") -> dict[str, bytes | Path]:
    return {prefix + path.relative_to(app).as_posix(): path for path in app.rglob("*") if path.is_file()}


def site_of(app: Path, models: Sequence[Model], samples: Mapping[str, bytes]) -> Site:
    files = app_files(app)
    files |= {f"models/{model.path.name}": model.path for model in models}
    files |= {f"samples/{name}": content for name, content in samples.items()}
    rows = [model.row(f"models/{model.path.name}") for model in models]
    entries = [{"name": Path(name).stem, "url": f"samples/{name}"} for name in samples]
    files["api/models.json"] = json.dumps({"models": rows, "samples": entries}).encode()
    return Site(files)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore a browser that disconnects during an answer."""


@contextmanager
def served(site: Site) -> Iterator[Site]:
    """Serve the site on a free port of this machine."""
    server = Server(("127.0.0.1", 0), partial(Handler, site))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    site.port = server.server_address[1]
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def rebuild(site: Site, *, whole: bool) -> None:
    """Change the style and list it with its new hash; `whole` False: an incomplete upload, of the list only."""
    style = (site.content("style.css") or b"") + b"\nbody { --build: 2; }\n"
    listed = (site.content("precache.js") or b"").decode()
    precache = json.loads(listed.removeprefix("self.PRECACHE = ").rstrip().rstrip(";"))
    precache["version"] = "another"
    entry = next(each for each in precache["files"] if each["path"] == "style.css")
    entry["integrity"] = "sha256-" + base64.b64encode(hashlib.sha256(style).digest()).decode()
    site.files["precache.js"] = f"self.PRECACHE = {json.dumps(precache)};".encode()
    if whole:
        site.files["style.css"] = style
