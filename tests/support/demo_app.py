"""A small built app of the demo."""

from __future__ import annotations

from pathlib import Path

SCRIPT = b"export const answer = 42;\n"
HASHED_SCRIPT = "app-0123456789abcdef.js"


def write_app(folder: Path, *, large: int = 0) -> Path:
    """Write a small built app: a page, a script, a manifest, wasm of `large` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text("<!doctype html><title>demo</title>", encoding="utf-8")
    (folder / "sw.js").write_bytes(b"self.skipWaiting();")
    (folder / "manifest.webmanifest").write_text("{}")
    (folder / HASHED_SCRIPT).write_bytes(SCRIPT)
    (folder / "icons").mkdir(exist_ok=True)
    (folder / "icons" / "one.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "ort.wasm").write_bytes(bytes(range(256)) * (large // 256 + 1))
    return folder
