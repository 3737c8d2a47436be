"""The demo: an app that runs a student in a browser, the server for it, and a native sample in C++."""

from __future__ import annotations

import importlib.util

from compressor.base.errors import MissingExtra

SERVER_MODULES = ("starlette", "uvicorn", "segno")
"""Modules of the extra `demo`, which the server needs; `srkd demo --build` needs none of them."""


def require_server_modules() -> None:
    """Raise a one-line error if the extra `demo` is not installed, before any expensive work."""
    missing = [name for name in SERVER_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(", ".join(missing), "demo")
