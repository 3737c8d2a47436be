"""The demo's own server in a thread, what its process prints first, and certificates for it."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running(site: Path, hosts: Collection[str]) -> Iterator[int]:
    """Serve a folder on this machine, also under these names; yield the port."""
    uvicorn = pytest.importorskip("uvicorn")
    from demo.addresses import listen
    from demo.server import site_app

    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(site_app(site, hosts), log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def lines_until(process: subprocess.Popen[str], last: str) -> str:
    """Return what a process prints until this line."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.rstrip("\n") == last:
            break
    return "".join(lines)


def create_certificate(folder: Path, stem: str, names: str) -> tuple[Path, Path]:
    """Create a certificate with openssl, like a user."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = folder / f"{stem}.key", folder / f"{stem}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=demo"]
    subprocess.run([*command, "-addext", f"subjectAltName={names}"], check=True, capture_output=True)
    return certificate, key
