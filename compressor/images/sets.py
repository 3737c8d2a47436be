"""Image sets: the rule for a data folder (images, a set with HR/ and LR folders, or a folder of several of those), and
the photographs embedded in srkd, for a run without `--data`. Importing this module imports no torch.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from compressor.base.errors import SrkdError, UsageError
from compressor.images.suffixes import IMAGE_SUFFIXES


@dataclass(frozen=True)
class ImagePair:
    """A high-resolution image and its low-resolution partner, if one is stored."""

    stem: str
    hr: Path
    lr: Path | None

    @property
    def path(self) -> Path:
        """The file to name in messages."""
        return self.hr


@dataclass(frozen=True)
class LrImage:
    """A low-resolution image without a high-resolution partner."""

    stem: str
    lr: Path
    following: Path | None = None
    """The next frame of the film that it is a frame of."""

    @property
    def path(self) -> Path:
        """The file to name in messages."""
        return self.lr


@dataclass(frozen=True)
class ImageSet:
    name: str
    pairs: tuple[ImagePair, ...]

    @property
    def sources(self) -> tuple[ImagePair, ...]:
        return self.pairs


@dataclass(frozen=True)
class LrSet:
    """A set of low-resolution images without originals."""

    name: str
    sources: tuple[LrImage, ...]


AnySet: TypeAlias = ImageSet | LrSet


def find_sets(data: Path, *, scale: int, lr: Path | None = None) -> tuple[ImageSet, ...]:
    """Return the sets under `data`, each with its stored low-resolution images for `scale`, if any.

    `data` is a folder of images, or a set with `HR/` and optionally `LR*X{scale}/` (stems equal, or either one with an
    `x{scale}` or `_x{scale}` suffix), or a folder of several of these. `lr` names the low-resolution folder of a single
    set.
    """
    data = Path(data)
    require_folder(data, "data folder")
    folders = [data] if _is_set(data) else [folder for folder in _subfolders(data) if _is_set(folder)]
    if not folders:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise SrkdError(f"no images in {data}: it needs images ({kinds}), a folder HR/, or folders that hold these")
    if lr is not None and len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise SrkdError(f"an LR folder belongs to one set, but {data} holds {len(folders)} ({names}): name one of them")
    return tuple(_read_set(folder, scale, lr) for folder in folders)


def makes_lr(sources: Iterable[ImagePair | LrImage]) -> bool:
    """Return True if an LR image is made from its original, because none is stored."""
    return any(isinstance(source, ImagePair) and source.lr is None for source in sources)


def line_about_inputs(sources: Iterable[ImagePair | LrImage], scale: int) -> str | None:
    """A line if images of scale 1 are their own inputs, as no LR images are stored for them."""
    if scale != 1 or not makes_lr(sources):
        return None
    return (
        "at scale 1 an image without a stored LR image is its own input, so no network comes nearer to the original: "
        "judge by a teacher, or give pairs of one size (docs/use/data.md)"
    )


def find_lr_images(folder: Path, option: str = "--lr-only") -> tuple[LrImage, ...]:
    """Return a folder's images, or if it has none its subfolders', as LR images; `option` named the folder."""
    require_folder(folder, "LR folder")
    if (folder / "HR").is_dir():
        pairs = "--val" if option == "--val-lr" else "--data"
        raise SrkdError(f"{folder} holds HR/: {option} is for LR images without HR partners, give it with {pairs}")
    images = _images_or_those_of_subfolders(folder)
    if not images:
        raise SrkdError(f"no images in {folder}: it holds none of {' '.join(sorted(IMAGE_SUFFIXES))}")
    return tuple(LrImage(name, image) for image, name in _names(images, folder).items())


def find_lr_set(data: Path, *, scale: int) -> LrSet | None:
    """The `LR*X{scale}/` of a folder that holds no originals, neither images nor `HR/`; None for any other folder."""
    require_folder(data, "data folder")
    stored = None if _is_set(data) else _stored_lr(data, scale)
    return None if stored is None else LrSet(_name_of(data), find_lr_images(stored))


def _name_of(folder: Path) -> str:
    """Return the name that the user gave a folder, also one that is a link; that of `.` or `..` is looked up."""
    return folder.resolve().name if folder.name in ("", "..") else folder.name


def require_folder(folder: Path, kind: str) -> None:
    if not folder.is_dir():
        what = "is a file: give the folder that holds it" if folder.exists() else "does not exist"
        raise SrkdError(f"{kind} {folder} {what}")


def _names(images: list[Path], folder: Path) -> dict[Path, str]:
    """Return the stem of each image; where several have one, its whole name, or else its path in the folder."""
    names = {image: image.stem for image in images}
    whole = {image: image.name for image in images}
    paths = {image: image.relative_to(folder).as_posix() for image in images}
    for longer in (whole, paths):
        times = Counter(names.values())
        names = {image: name if times[name] == 1 else longer[image] for image, name in names.items()}
    return names


def list_images(folder: Path) -> list[Path]:
    """Return the images directly in a folder, broken links too, in natural order (img2, img10), without hidden ones."""
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()]
    return sorted((path for path in images if not path.name.startswith(".")), key=natural_key)


def _images_or_those_of_subfolders(folder: Path) -> list[Path]:
    return list_images(folder) or [path for inner in _subfolders(folder) for path in list_images(inner)]


def evenly_spaced_photos(folder: Path, most: int, *, option: str) -> dict[str, Path]:
    """Return by name at most `most` photos of a folder, its `HR/` or its subfolders; `option` named the folder."""
    if not folder.is_dir():
        raise UsageError(f"{option} {folder}: {'is a file' if folder.exists() else 'does not exist'}: give a folder")
    images = _images_or_those_of_subfolders(folder / "HR" if (folder / "HR").is_dir() else folder)
    if not images:
        raise UsageError(f"{option} {folder}: holds no images: give a folder of photos")
    names = _names(images, folder)
    return {names[path]: path for path in images[:: math.ceil(len(images) / most)]}


def natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that compares digits as numbers; the name itself breaks ties (1 and 01)."""
    pieces = re.split(r"(\d+)", path.name.lower())
    key = tuple((0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces)
    return (*key, (2, 0, path.name))


def _subfolders(folder: Path) -> list[Path]:
    folders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(folders, key=natural_key)


def _is_set(folder: Path) -> bool:
    return (folder / "HR").is_dir() or bool(list_images(folder))


def _read_set(folder: Path, scale: int, lr: Path | None) -> ImageSet:
    hr_folder = folder / "HR" if (folder / "HR").is_dir() else folder
    images = list_images(hr_folder)
    if not images:
        raise SrkdError(f"no images in {hr_folder}: it holds none of {' '.join(sorted(IMAGE_SUFFIXES))}")
    lr_folder = lr if lr is not None else _stored_lr(folder, scale)
    partners = _partners(images, lr_folder, scale) if lr_folder is not None else {}
    pairs = tuple(ImagePair(name, image, partners.get(image)) for image, name in _names(images, folder).items())
    return ImageSet(_name_of(folder), pairs)


def _stored_lr(folder: Path, scale: int) -> Path | None:
    """Return the `LR*X{scale}` folder of a set; of several, the bicubic one, which published figures are based on."""
    pattern = re.compile(rf"LR.*X{scale}", re.IGNORECASE)
    matching = [path for path in _subfolders(folder) if pattern.fullmatch(path.name)]
    bicubic = [path for path in matching if path.name.lower().startswith(("lrbic", "lr_bic"))]
    selection = matching if len(matching) == 1 else bicubic
    if len(matching) > 1 and len(selection) != 1:
        names = ", ".join(path.name for path in matching)
        raise SrkdError(
            f"{folder} has {len(matching)} LR folders for scale {scale} ({names}): choose one with --lr-images"
        )
    return selection[0] if selection else None


def _partners(images: list[Path], lr_folder: Path, scale: int) -> dict[Path, Path | None]:
    require_folder(lr_folder, "LR folder")
    files, names = list_images(lr_folder), _names(images, images[0].parent)
    whole = {path.name: path for path in files}
    stored = {path.stem: path for path in reversed(files)}  # the first of equal stems wins
    # Originals of one stem have partners of the same whole names.
    partners = {
        image: whole.get(image.name) if names[image] == image.name else _partner(image.stem, stored, scale)
        for image in images
    }
    missing = [names[image] for image, partner in partners.items() if partner is None]
    if missing:
        listing = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise SrkdError(
            f"{lr_folder} lacks the LR image of {len(missing)} of {len(images)} HR images ({listing}): "
            f"add them as STEM.png or STEMx{scale}.png"
        )
    return partners


def _partner(stem: str, stored: Mapping[str, Path], scale: int) -> Path | None:
    """The stored LR image of an HR image: STEMx4 as in benchmark sets, the same stem, or STEM_x4 of `srkd upscale`."""
    stems = (stem, re.sub(rf"_?x{scale}$", "", stem))
    names = (name for each in stems for name in (f"{each}x{scale}", each, f"{each}_x{scale}"))
    return next((stored[name] for name in names if name in stored), None)


FOLDER = Path(__file__).parent / "embedded"
"""Photographs in the public domain or CC0; PHOTOS.md in this folder names each photographer and source."""
Part = Literal["train", "val", "calibration"]


def embedded_photos(part: Part) -> dict[str, Path]:
    return {path.stem: path for path in sorted((FOLDER / part).glob("*.webp"))}


def embedded_pairs(part: Part) -> tuple[ImagePair, ...]:
    return tuple(ImagePair(stem, path, None) for stem, path in embedded_photos(part).items())
