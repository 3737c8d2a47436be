"""The files that the demo serves, as a table in memory: read from a built app's folder, written as a static site."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from compressor.base.errors import SrkdError, Unwritable, UsageError
from compressor.base.files import require_writable_folder

APP = Path(__file__).parent / "app" / "dist"
"""The folder of the built app: in a wheel, and in a checkout after the build."""

CATALOGUE = "api/models.json"
"""The address of the list of models and samples that the app reads first."""

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
"""Not the machine's table: a wrong entry in /etc/mime.types would keep a browser from compiling the wasm."""

ENCODINGS: Mapping[str, str] = MappingProxyType({".br": "br", ".gz": "gzip"})
"""Suffix of a compressed file beside its original → its name in HTTP, the preferred one first."""

HASHED_NAME = re.compile(r"[.-][0-9a-f]{10,}\.")
"""Names that change with their content, so that a browser may keep the file for good. No date is that long."""

MAX_FILES, MAX_BYTES = 2000, 500_000_000
"""The limits of a built app. A larger folder was named by mistake, and memory is not filled with it."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self' blob:",
        "connect-src 'self' blob:",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "style-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""WebAssembly is compiled, no script is evaluated; nothing is fetched from, or sent to, another host."""

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        # These two give the page SharedArrayBuffer, and with it threads.
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    }
)
"""The headers of every answer: what the app may do, and that no other page may use it."""

SECURE_ONLY_HEADERS = ("Cross-Origin-Opener-Policy",)
"""A browser ignores these on a page that is not a secure context, and complains in the page's console."""


@dataclass(frozen=True)
class Asset:
    """One file as it was when the demo started."""

    content: bytes
    media_type: str
    sha256: str
    immutable: bool
    encoded: Mapping[str, bytes] = field(default_factory=dict)
    """Compressed forms by their name in HTTP."""

    @property
    def cache_control(self) -> str:
        """How long a browser may keep the file; `no-cache`: it asks every time, and 304 says that nothing changed."""
        return "public, max-age=31536000, immutable" if self.immutable else "no-cache"


def build_asset(address: str, content: bytes, encoded: Mapping[str, bytes] | None = None) -> Asset:
    """Return an entry of the table. Its address decides its media type and whether it is immutable."""
    return Asset(
        content,
        MEDIA_TYPES.get(Path(address).suffix.lower(), "application/octet-stream"),
        hashlib.sha256(content).hexdigest(),
        HASHED_NAME.search(address) is not None,
        dict(encoded or {}),
    )


def hashed_address(folder: str, stem: str, suffix: str, content: bytes) -> str:
    """Return `folder/stem-HASH.suffix`: new content gets a new address, so that no browser shows an old file."""
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-") or "file"
    return f"{folder}/{safe}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"


def is_app_built() -> bool:
    """True if this installation has the app that `srkd demo` shows."""
    return (APP / "index.html").is_file()


def is_app_outdated() -> bool:
    """True if a page, style or script of the built app differs from its source, as after an update of a checkout."""
    sources = [path for pattern in ("*.html", "*.css", "sw.js", "src/*.js") for path in APP.parent.glob(pattern)]
    copies = [(path, APP / path.relative_to(APP.parent)) for path in sources]
    return any(not copy.is_file() or copy.read_bytes() != path.read_bytes() for path, copy in copies)


def app_command() -> str:
    """Return the one command that gives this installation the built app, wherever it is entered."""
    script = APP.parents[2] / "scripts" / "build_demo.py"
    if script.is_file():
        return f"python {shlex.quote(str(script))} --get-node"
    return "pip install --force-reinstall --no-deps srkd"


def read_app(folder: Path | None = None) -> dict[str, Asset]:
    """Read every file of a built app, by address; None: the app of this installation.

    Links are refused, because they could lead anywhere. A compressed file beside its original becomes a form of it
    and has no address of its own.
    """
    if folder is None and not is_app_built():
        raise SrkdError(f"this installation has no built demo app: {app_command()}")
    folder = folder or APP
    if not (folder / "index.html").is_file():
        raise SrkdError(f"{folder} holds no built app: there is no index.html in it")
    contents: dict[str, bytes] = {}
    bytes_left = MAX_BYTES
    for path in _walk(folder):
        if len(contents) == MAX_FILES:
            raise SrkdError(f"{folder} holds more than {MAX_FILES} files: that is not a built app")
        content = read_file(path, bytes_left)
        bytes_left -= len(content)
        contents[path.relative_to(folder).as_posix()] = content
    assets = {}
    for address, content in contents.items():
        if address[-3:] in ENCODINGS and address[:-3] in contents:
            continue
        encoded = {name: contents[address + end] for end, name in ENCODINGS.items() if address + end in contents}
        assets[address] = build_asset(address, content, encoded)
    return assets


def _walk(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise SrkdError(f"cannot read {folder}: {error.strerror or error}") from error
    for entry in entries:
        if entry.is_symlink():
            raise SrkdError(f"{entry.path} is a symbolic link: a built app holds plain files only")
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def read_file(path: Path, limit_bytes: int = 2**31) -> bytes:
    """Read a regular file. A device, a pipe or a link swapped in meanwhile is refused, not waited for."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SrkdError(f"{path} is not a regular file: the demo serves plain files only")
            content = file.read(limit_bytes + 1) if status.st_size <= limit_bytes else b""
    except OSError as error:
        raise SrkdError(f"cannot read {path}: {error.strerror or error}") from error
    if status.st_size > limit_bytes or len(content) > limit_bytes:
        raise SrkdError(f"{path} is too large for a demo: {limit_bytes / 1e6:.0f} MB are left of its limit")
    return content


def write_site(assets: Mapping[str, Asset], folder: Path) -> int:
    """Write the table as a folder for any web host and return the bytes written.

    The folder appears whole or not at all, and replaces an earlier site only.
    """
    folder = folder.absolute()
    require_replaceable(folder)
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    old = new.with_name(f"{new.name}.old")
    try:
        _write_files(assets, new)
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise Unwritable(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return sum(len(asset.content) for asset in assets.values())


def require_replaceable(folder: Path) -> None:
    """Refuse a path where anything but an earlier site lies, or where none can be made."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--build {folder}: something else has that name; name a new or empty folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CATALOGUE).is_file():
        raise UsageError(f"--build {folder}: the folder holds other files; name a new or empty one")
    require_writable_folder(folder.absolute().parent, "--build")


def _write_files(assets: Mapping[str, Asset], folder: Path) -> None:
    for address, asset in assets.items():
        path = folder / address
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(asset.content)
        for suffix, name in ENCODINGS.items():
            if name in asset.encoded:
                path.with_name(path.name + suffix).write_bytes(asset.encoded[name])
    # The notation of Netlify and Cloudflare Pages; on other hosts the service worker adds the headers it can.
    lines = ["/*", *(f"  {name}: {value}" for name, value in HEADERS.items())]
    for address, asset in sorted(assets.items()):
        if asset.immutable:
            lines += [f"/{address}", f"  Cache-Control: {asset.cache_control}"]
    (folder / "_headers").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # GitHub Pages passes over names that begin with _ unless this file is there.
    (folder / ".nojekyll").touch()
