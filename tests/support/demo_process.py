"""A client of a demo server in a child process; run as a program, this file is that process."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.commands import ROOT

SCRIPT = b"export const answer = 42;\n"
HASHED_SCRIPT = "app-0123456789abcdef.js"


def write_app(folder: Path, *, large: int = 0) -> Path:
    """Write a small built app: a page, a script with its compressed forms, a manifest, wasm of `large` bytes."""
    import gzip

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text("<!doctype html><title>demo</title>", encoding="utf-8")
    (folder / "sw.js").write_bytes(b"self.skipWaiting();")
    (folder / "manifest.webmanifest").write_text("{}")
    (folder / HASHED_SCRIPT).write_bytes(SCRIPT)
    (folder / f"{HASHED_SCRIPT}.gz").write_bytes(gzip.compress(SCRIPT))
    (folder / f"{HASHED_SCRIPT}.br").write_bytes(b"as if by brotli")
    (folder / "icons").mkdir(exist_ok=True)
    (folder / "icons" / "one.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "ort.wasm").write_bytes(bytes(range(256)) * (large // 256 + 1))
    return folder


@dataclass(frozen=True)
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    tls: ssl.SSLContext | None = None

    def connect(self) -> socket.socket:
        """Open a connection with a small receive buffer, which is soon full if the test does not read."""
        plain = socket.socket()
        plain.settimeout(20.0)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        plain.connect(("127.0.0.1", self.port))
        return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname="localhost")

    def raw(self, request: bytes) -> bytes:
        """Send bytes and return the whole answer, until the server closes."""
        with self.connect() as connection:
            connection.sendall(request)
            return received(connection)

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """Send one well-formed request."""
        if self.tls is None:
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        else:
            client = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=self.tls)
        try:
            client.request(method, path, headers=dict(headers or {}))
            response = client.getresponse()
            body = response.read()
            return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, body)
        finally:
            client.close()

    def open_files(self) -> int:
        return psutil.Process(self.process.pid).num_fds()

    def connections(self) -> int:
        return len([c for c in psutil.Process(self.process.pid).net_connections("tcp") if c.status != "LISTEN"])

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def received(connection: socket.socket) -> bytes:
    """Return all bytes until the other side closes, also by a reset."""
    parts = []
    try:
        while part := connection.recv(1 << 20):
            parts.append(part)
    except (ConnectionError, ssl.SSLError):
        pass
    return b"".join(parts)


@contextmanager
def served(folder: Path, certificate: tuple[Path, Path] | None = None, **limits: float) -> Iterator[Served]:
    """Serve a built app's folder until the block ends."""
    options = json.dumps({"limits": limits, "tls": [str(path) for path in certificate or ()]})
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.demo_process", str(folder), options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        trusting = ssl.create_default_context(cafile=str(certificate[0])) if certificate else None
        yield Served(process, port, trusting)
        assert process.poll() is None, "the server died"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def main() -> None:
    from demo.addresses import bind_sockets, read_certificate
    from demo.files import read_app
    from demo.server import ServerLimits, serve

    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    ssl_context = read_certificate(*map(Path, options["tls"])).context if options["tls"] else None
    sockets = bind_sockets("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    limits = ServerLimits(**options["limits"])

    def print_port() -> None:
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()

    serve(read_app(folder), sockets, ssl_context, on_ready=print_port, limits=limits)


if __name__ == "__main__":
    main()
