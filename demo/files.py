"""The demo's files as a table in memory, read from a built app's folder, and written as a static site."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from compressor.base.errors import SrkdError, Unwritable, UsageError, report_unreadable
from compressor.base.files import require_writable_folder

APP = Path(__file__).parent / "app" / "dist"
"""Folder of the built app: in a wheel, and in a checkout after the build."""

CATALOGUE = "api/models.json"
"""Address of the list of models and samples, which the app reads first."""

WRITTEN = "api/files.txt"
"""The list of the files of a built site, which the next build replaces."""

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
"""Media types by suffix. The system's table is not used: a wrong entry in /etc/mime.types would prevent compiling wasm.
"""

ENCODINGS: Mapping[str, str] = MappingProxyType({".br": "br", ".gz": "gzip"})
"""Content encodings by the suffix of a compressed file beside its original, the preferred one first."""

HASHED_NAME = re.compile(r"[.-][0-9a-f]{10,}\.")
"""Pattern of names with a hash of the content, which browsers may cache forever; no date is that long."""

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
"""Policy: WebAssembly may be compiled, no script evaluated, and no other host contacted."""

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        # These two enable SharedArrayBuffer, and with it threads.
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    }
)
"""Headers of every response: permissions of the app, and no use by other pages."""

SECURE_ONLY_HEADERS = ("Cross-Origin-Opener-Policy",)
"""Headers that a browser ignores in an insecure context, with a message in the console."""


@dataclass(frozen=True)
class Asset:
    """One file as read when the demo started."""

    content: bytes
    media_type: str
    sha256: str
    immutable: bool
    encoded: Mapping[str, bytes] = field(default_factory=dict)
    """Compressed forms by content encoding."""

    @property
    def cache_control(self) -> str:
        """The Cache-Control value; with `no-cache` the browser asks every time, and 304 means unchanged."""
        return "public, max-age=31536000, immutable" if self.immutable else "no-cache"


def build_asset(address: str, content: bytes, encoded: Mapping[str, bytes] | None = None) -> Asset:
    """Return an entry of the table. Its address determines its media type and whether it is immutable."""
    return Asset(
        content,
        MEDIA_TYPES.get(Path(address).suffix.lower(), "application/octet-stream"),
        hashlib.sha256(content).hexdigest(),
        HASHED_NAME.search(address) is not None,
        dict(encoded or {}),
    )


def hashed_address(folder: str, stem: str, suffix: str, content: bytes) -> str:
    """Return `folder/stem-HASH.suffix`: new content gets a new address, so that no browser uses an old file."""
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-") or "file"
    return f"{folder}/{safe}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"


def is_app_built() -> bool:
    """Return True if this installation contains the app that `srkd demo` shows."""
    return (APP / "index.html").is_file()


def is_app_outdated() -> bool:
    """Return True if a page, style or script of the built app differs from its source, as after an update."""
    sources = [path for pattern in ("*.html", "*.css", "sw.js", "src/*.js") for path in APP.parent.glob(pattern)]
    copies = [(path, APP / path.relative_to(APP.parent)) for path in sources]
    return any(not copy.is_file() or copy.read_bytes() != path.read_bytes() for path, copy in copies)


def app_command() -> str:
    """Return the command that builds or installs the app for this installation, valid in any folder."""
    script = APP.parents[2] / "scripts" / "build_demo.py"
    if script.is_file():
        return f"python {shlex.quote(str(script))} --get-node"
    return "pip install --force-reinstall --no-deps srkd"


def read_app(folder: Path | None = None) -> dict[str, Asset]:
    """Return every file of a built app by address; None: the app of this installation.

    Links are refused, because they could lead anywhere. A compressed file beside its original becomes a form of it
    without an address of its own.
    """
    if folder is None and not is_app_built():
        raise SrkdError(f"this installation has no built demo app: {app_command()}")
    folder = folder or APP
    if not (folder / "index.html").is_file():
        raise SrkdError(f"{folder} holds no built app: there is no index.html in it")
    contents: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise SrkdError(f"{path} is a symbolic link or no regular file: a built app holds plain files only")
        if path.is_file():
            with report_unreadable(path):
                contents[path.relative_to(folder).as_posix()] = path.read_bytes()
    assets = {}
    for address, content in contents.items():
        if address[-3:] in ENCODINGS and address[:-3] in contents:
            continue
        encoded = {name: contents[address + end] for end, name in ENCODINGS.items() if address + end in contents}
        assets[address] = build_asset(address, content, encoded)
    return assets


def write_site(assets: Mapping[str, Asset], folder: Path) -> int:
    """Write the table as a folder for any web host, and return the number of bytes.

    The folder is written atomically, and only replaces an earlier site.
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
    """Refuse a path with anything but an earlier site, or one that cannot be written."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--build {folder}: something else has that name; name a new or empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        written = folder / WRITTEN
        listed = set(written.read_text(encoding="utf-8").splitlines()) if written.is_file() else set()
        others = sorted(set(_files_in(folder)) - listed)
        if others:
            raise UsageError(
                f"--build {folder}: the folder holds {others[0]}, which no build listed in {WRITTEN}: move it away, or "
                "name a new or empty folder"
            )
    require_writable_folder(folder.absolute().parent, "--build")


def _write_files(assets: Mapping[str, Asset], folder: Path) -> None:
    for address, asset in assets.items():
        path = folder / address
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(asset.content)
        for suffix, name in ENCODINGS.items():
            if name in asset.encoded:
                path.with_name(path.name + suffix).write_bytes(asset.encoded[name])
    # The format of Netlify and Cloudflare Pages; on other hosts the service worker adds the headers it can.
    lines = ["/*", *(f"  {name}: {value}" for name, value in HEADERS.items())]
    for address, asset in sorted(assets.items()):
        if asset.immutable:
            lines += [f"/{address}", f"  Cache-Control: {asset.cache_control}"]
    (folder / "_headers").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # GitHub Pages ignores names that begin with _ unless this file exists.
    (folder / ".nojekyll").touch()
    (folder / WRITTEN).write_text("\n".join([*_files_in(folder), WRITTEN]) + "\n", encoding="utf-8")


def _files_in(folder: Path) -> list[str]:
    """Return the files of a folder and of those inside it, and folders without files, relative to it."""
    found = sorted(folder.rglob("*"))
    return [
        path.relative_to(folder).as_posix()
        for path in found
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
    ]
