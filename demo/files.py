"""The demo's files: the built app of this installation, and the site that it and the models make in a folder."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from compressor.base.cache_folder import default_folder
from compressor.base.errors import SrkdError, Unwritable, UsageError, report_unwritable
from compressor.base.files import file_sha256, require_writable_folder

APP = Path(__file__).parent / "app" / "dist"
"""Folder of the built app in a checkout."""
PACKED = APP.with_suffix(".tar.xz")
"""The app in a wheel: 6 MB in place of 41."""

CATALOGUE = "api/models.json"
"""Address of the list of models and samples, which the app reads first."""

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

HEADERS: Mapping[str, str] = {
    # These two enable SharedArrayBuffer, and with it threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
}
"""Headers of every response: permissions of the app, and no use by other pages."""


def cache_control(address: str) -> str:
    """The Cache-Control header of an address; with `no-cache` the browser asks every time, and 304 means unchanged."""
    return "public, max-age=31536000, immutable" if HASHED_NAME.search(address) else "no-cache"


def hashed_address(folder: str, stem: str, suffix: str, content: bytes) -> str:
    """The address `folder/stem-HASH.suffix`: new content gets a new one, so that no browser uses an old file."""
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-") or "file"
    return f"{folder}/{safe}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"


def is_app_built() -> bool:
    """True if this installation contains the app that `srkd demo` shows."""
    return (APP / "index.html").is_file() or PACKED.is_file()


def unpack_app() -> Path:
    """The folder of a wheel's app in srkd's cache; it is unpacked there when it is first used."""
    folder = default_folder() / "app" / file_sha256(PACKED)[:12]
    if not folder.is_dir():
        with report_unwritable(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                shutil.unpack_archive(PACKED, temporary)
                os.replace(Path(temporary) / APP.name, folder)
    return folder


def app_command() -> str:
    """The command that builds or installs the app for this installation, valid in any folder."""
    script, reinstall = APP.parents[2] / "scripts" / "build_demo.py", "pip install --force-reinstall --no-deps srkd"
    return f"python {shlex.quote(str(script))} --get-node" if script.is_file() else reinstall


def find_app(folder: Path | None = None) -> Path:
    """The folder of a built app; None: that of this installation."""
    if folder is None and not is_app_built():
        raise SrkdError(f"this installation has no built demo app: {app_command()}")
    folder = folder or (unpack_app() if PACKED.is_file() else APP)
    if not (folder / "index.html").is_file():
        raise SrkdError(f"{folder} holds no built app: there is no index.html in it")
    return folder


def require_new(folder: Path) -> None:
    """Refuse a folder of `--build` that holds anything, or that cannot be written."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()) or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(f"--build {folder}: it is there and not empty: remove it, or name a new or empty folder")
    require_writable_folder(folder.absolute().parent, "--build")


def write_site(app: Path, contents: Mapping[str, bytes], folder: Path) -> int:
    """Write an app, and the contents of further addresses, as a new folder for any web host; return its bytes.

    The folder appears whole or not at all.
    """
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            site = Path(temporary) / "site"
            shutil.copytree(app, site)
            for address, content in contents.items():
                path = site / address
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            files = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*")) if path.is_file()]
            size = sum((site / address).stat().st_size for address in files)
            # The format of Netlify and Cloudflare Pages; on other hosts the service worker adds the headers it can.
            lines = ["/*", *(f"  {name}: {value}" for name, value in HEADERS.items())]
            for address in filter(HASHED_NAME.search, files):
                lines += [f"/{address}", f"  Cache-Control: {cache_control(address)}"]
            (site / "_headers").write_text("\n".join(lines) + "\n", encoding="utf-8")
            # GitHub Pages ignores names that begin with _ unless this file exists.
            (site / ".nojekyll").touch()
            if folder.exists():
                folder.rmdir()
            os.replace(site, folder)
    except OSError as error:
        raise Unwritable(folder, error) from error
    return size
