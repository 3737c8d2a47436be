"""A folder of the demo, served by its own server in a thread."""

from __future__ import annotations

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
