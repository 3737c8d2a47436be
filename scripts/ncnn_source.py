"""Download of ncnn's sources, in the installed version, from the package index to `build/ncnn-VERSION`, for demo/ncnn.

ncnn's Python package only contains the built library. A C++ program needs headers and a library to link, which are
built from the sources. The source package's version contains the build date, so pip's version check refuses it: the
older resolver, which does not check, is used. It fails if pip has constraints, of the machine for example: they are
turned off.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def source_folder(version: str) -> Path:
    """Return the folder for the sources of a version."""
    return ROOT / "build" / f"ncnn-{version}"


def fetch(version: str) -> Path:
    """Download the sources if they are missing, and return their folder."""
    target = source_folder(version)
    if (target / "CMakeLists.txt").is_file():
        return target
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        resolver = ("--use-deprecated", "legacy-resolver", "--no-deps", "--no-binary", "ncnn")
        download = [sys.executable, "-m", "pip", "download", "-q", *resolver, "-d", temporary, f"ncnn=={version}"]
        subprocess.run(download, check=True, env={**os.environ, "PIP_CONSTRAINT": os.devnull})
        (archive,) = Path(temporary).glob("*.tar.gz")
        with tarfile.open(archive) as files:
            files.extractall(temporary, filter="data")
        shutil.rmtree(target, ignore_errors=True)
        (Path(temporary) / f"ncnn-{version}").replace(target)
    return target


if __name__ == "__main__":
    print(fetch(importlib.metadata.version("ncnn")))
