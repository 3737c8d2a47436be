"""A small built app of the demo, and what a server answered."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPT = b"export const answer = 42;\n"
HASHED_SCRIPT = "app-0123456789abcdef.js"


def write_app(folder: Path, *, large: int = 0) -> Path:
    """Write a small built app: a page, a script with its compressed forms, a manifest, wasm of `large` bytes."""
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
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
