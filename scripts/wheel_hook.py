"""A build hook that puts the built app into the wheel, so that neither users nor builders of the wheel need Node."""

from __future__ import annotations

import lzma
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_demo

WITHOUT = "SRKD_WITHOUT_APP"
PACKING = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0, "nice_len": 273, "depth": 1000}]
"""Code of WebAssembly is aligned to no multiple of bytes: it takes a hundredth less without that guess."""


class AppHook(BuildHookInterface):  # type: ignore[type-arg]
    """Build the app and add it to wheels and source archives; an editable install uses the app in the working tree."""

    def dependencies(self) -> list[str]:
        """Return Node's PyPI package if the app must still be built and the machine has no npm."""
        if os.environ.get(WITHOUT) or build_demo.has_npm() or build_demo.is_built():
            return []
        return [build_demo.pinned_node()]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        if os.environ.get(WITHOUT) and not build_demo.is_built():
            self.app.display_warning(f"{WITHOUT} is set: the wheel does not contain the demo's app")
            return
        try:
            folder = build_demo.build()
        except build_demo.BuildError as error:
            self.app.abort(f"{error} (or set {WITHOUT}=1 for a wheel without the demo's app)")
        if self.target_name == "sdist":
            build_data["force_include"][str(folder)] = "demo/app/dist"
            return
        packed = Path(self.directory) / "dist.tar.xz"
        packed.parent.mkdir(parents=True, exist_ok=True)
        with lzma.open(packed, "w", filters=PACKING) as file, tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(folder, arcname=folder.name, filter=without_origin)
        build_data["force_include"][str(packed)] = "demo/app/dist.tar.xz"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        (Path(self.directory) / "dist.tar.xz").unlink(missing_ok=True)


def without_origin(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return an entry without owner and date, so that equal files are packed to equal bytes."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry
