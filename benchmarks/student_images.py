"""The images on which the students of `srkd students` are trained: `python -m benchmarks.student_images --clic DIR`.

`photos`: the validation photos of CLIC 2025 (Unsplash licence) and wallpapers of Lomiri (CC BY 4.0, CC BY-SA 3.0 and
4.0, CC0). `drawings`: characters and scenes of The Battle for Wesnoth (GPL-2+, CC BY-SA 4.0) and of Ren'Py's two games
(MIT). Debian's packages are downloaded with apt-get and unpacked beside the images; what they say about each file is
in their copyright files.

Every image becomes tiles of 384 pixels, flat ones left out: each is degraded on its own, so that a cache of the
teacher's images holds many degradations of few photos.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SIDE = 384
LONGEST = 2048
"""Larger photos are reduced to it: their single pixels hold more noise than detail."""
LEAST_DEVIATION = 6.0
"""In grey levels, of a tile that is not flat."""

PACKAGES = {
    "photos": {
        "lomiri-wallpapers-16.04": ("**/*.jpg",),
        "lomiri-wallpapers-20.04": ("**/Fossa*.jpg", "**/Kleiber*.jpg"),
    },
    "drawings": {
        "wesnoth-1.16-data": (
            "**/core/images/portraits/**/*.png",
            "**/campaigns/*/images/story/**/*",
            "**/campaigns/*/images/portraits/**/*",
            "**/core/images/maps/*",
        ),
        "renpy-thequestion": ("**/the_question/game/images/*",),
        "renpy-demo": ("**/demo/game/images/*",),
    },
}
ABSTRACT = ("analogpattern", "umang", "nvl", "popup", "imagedissolve")
"""Beginnings of the names of files that are gradients or parts of a program's window."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clic", type=Path, help="folder of CLIC 2025's validation images, for the photos")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/images"), help="folder to write photos/ and drawings/ to"
    )
    options = parser.parse_args()
    for kind, packages in PACKAGES.items():
        files = sorted(options.clic.iterdir()) if kind == "photos" and options.clic else []
        for package, patterns in packages.items():
            folder = unpacked(package, options.out / "packages")
            files += sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
        target = options.out / kind
        target.mkdir(parents=True, exist_ok=True)
        count = 0
        for index, file in enumerate(files):
            for number, tile in enumerate(tiles_of(file)):
                tile.save(target / f"{index:03d}-{file.stem.replace(' ', '-')}-{number}.png")
                count += 1
        print(f"{kind}: {count} tiles of {len(files)} images in {target}", file=sys.stderr)
    return 0


def unpacked(package: str, folder: Path) -> Path:
    """Return the folder of the files of a Debian package, which is downloaded if it is not there."""
    target = folder / package
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True)
        archive = next(folder.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive.name, package], cwd=folder, check=True)
    return target


def tiles_of(file: Path) -> Iterator[Image.Image]:
    """Yield the tiles of an image that cover it evenly; transparent parts get a colour of their own."""
    if file.suffix not in (".png", ".jpg", ".webp") or file.name.startswith(ABSTRACT):
        return
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGBA")
    colour = np.random.default_rng(zlib.crc32(file.name.encode())).integers(0, 256, 3)
    image = Image.alpha_composite(Image.new("RGBA", image.size, (*map(int, colour), 255)), image).convert("RGB")
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    if min(image.size) < SIDE:
        return
    for top, left in product(*(starts(side) for side in reversed(image.size))):
        tile = image.crop((left, top, left + SIDE, top + SIDE))
        if np.asarray(tile.convert("L"), dtype=np.float32).std() >= LEAST_DEVIATION:
            yield tile


def starts(side: int) -> list[int]:
    """Return the first pixels of tiles that cover a side evenly, at most half a tile over each other."""
    count = max(1, round(side / SIDE))
    return [(side - SIDE) * number // max(1, count - 1) for number in range(count)]


if __name__ == "__main__":
    sys.exit(main())
