"""The table of files that a demo serves: read once at the start, held in memory, found by their exact address."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from compressor.base.errors import SrkdError

MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".map": "application/json",
        ".webmanifest": "application/manifest+json",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
        ".txt": "text/plain; charset=utf-8",
        ".md": "text/plain; charset=utf-8",
        ".svg": "image/svg+xml",
        ".png": "image/png",
        ".jpg": "image/jpeg",
        ".jpeg": "image/jpeg",
        ".webp": "image/webp",
        ".ico": "image/x-icon",
        ".woff2": "font/woff2",
    }
)
"""Ours, not the machine's: a wrong entry in /etc/mime.types would keep a browser from compiling the wasm."""

ENCODINGS: Mapping[str, str] = MappingProxyType({".br": "br", ".gz": "gzip"})
"""Suffix of a compressed file that lies beside its original → its name in HTTP. The best first."""

HASHED = re.compile(r"[.-][0-9a-f]{10,}\.")
"""Names that change when their content does, so that such a file may be kept for good. No date is that long."""

MOST_FILES, MOST_BYTES = 2000, 500_000_000
"""Of a built app: more than that is a folder that was named by mistake, and memory is not filled with it."""


@dataclass(frozen=True)
class Asset:
    """One file as it was when the demo began."""

    content: bytes
    media_type: str
    sha256: str
    immutable: bool
    encoded: Mapping[str, bytes] = field(default_factory=dict)
    """Compressed forms by their name in HTTP."""


def asset(address: str, content: bytes, encoded: Mapping[str, bytes] | None = None) -> Asset:
    """A file of the table; what it is is told by the end of its address."""
    suffix = Path(address).suffix.lower()
    return Asset(
        content,
        MEDIA_TYPES.get(suffix, "application/octet-stream"),
        hashlib.sha256(content).hexdigest(),
        HASHED.search(address) is not None,
        dict(encoded or {}),
    )


def hashed_address(folder: str, stem: str, suffix: str, content: bytes) -> str:
    """`folder/stem-HASH.suffix`: another content is another address, so that no browser shows an old one."""
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-") or "file"
    return f"{folder}/{safe}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"


def read_app(folder: Path) -> dict[str, Asset]:
    """Address → file for everything in the folder of a built app. Links are refused: they could lead anywhere."""
    if not (folder / "index.html").is_file():
        raise SrkdError(f"{folder} holds no built app: there is no index.html in it")
    contents: dict[str, bytes] = {}
    room = MOST_BYTES
    for path in _files(folder):
        if len(contents) == MOST_FILES:
            raise SrkdError(f"{folder} holds more than {MOST_FILES} files: that is no built app")
        content = read_file(path, room)
        room -= len(content)
        contents[path.relative_to(folder).as_posix()] = content
    return dict(_with_compressed(contents))


def read_file(path: Path, limit: int = 2**31) -> bytes:
    """A regular file's bytes; a device, a pipe or a link swapped in meanwhile is refused, not waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise SrkdError(f"{path} is no regular file: the demo serves plain files only")
            content = file.read(limit + 1) if facts.st_size <= limit else b""
    except OSError as error:
        raise SrkdError(f"cannot read {path}: {error.strerror or error}") from error
    if facts.st_size > limit or len(content) > limit:
        raise SrkdError(f"{path} is too large for a demo: there is room for {limit / 1e6:.0f} MB more")
    return content


def _files(folder: Path) -> Iterable[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise SrkdError(f"cannot read {folder}: {error.strerror or error}") from error
    for entry in entries:
        if entry.is_symlink():
            raise SrkdError(f"{entry.path} is a symbolic link: a built app holds plain files only")
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            yield Path(entry.path)


def _with_compressed(contents: Mapping[str, bytes]) -> Iterable[tuple[str, Asset]]:
    """Compressed files go with their originals and have no address of their own."""
    for address, content in contents.items():
        original, suffix = address[:-3], address[-3:]
        if suffix in ENCODINGS and original in contents:
            continue
        encoded = {
            name: contents[address + ending] for ending, name in ENCODINGS.items() if address + ending in contents
        }
        yield address, asset(address, content, encoded)
