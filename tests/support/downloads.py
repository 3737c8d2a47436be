"""A server of one file on this machine, and an address where nobody listens."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

UNREACHABLE = "http://127.0.0.1:1/vgg19.pth"
"""An address whose connection is refused at once."""


@dataclass
class FileServer:
    """A file's server: it announces `announced` bytes, sends `content`, and never answers without content."""

    content: bytes | None
    announced: int = 0
    url: str = ""
    requests: int = 0
    done: threading.Event = field(default_factory=threading.Event)


@contextmanager
def file_server(content: bytes | None, *, announced: int | None = None) -> Iterator[FileServer]:
    """Serve a file while the block runs; without content each request waits for the end of the block."""
    served = FileServer(content, len(content or b"") if announced is None else announced)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests += 1
            if served.content is None:
                served.done.wait()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(served.announced))
            self.end_headers()
            self.wfile.write(served.content)

        def log_message(self, format: str, *args: object) -> None:
            """Write nothing to the test's output."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}/vgg19.pth"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield served
        finally:
            served.done.set()
            server.shutdown()
