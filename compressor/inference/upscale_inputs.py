"""The pictures and films that `upscale` is given as files, folders and globs, each once, and what it leaves out."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.images.sets import list_images, natural_key
from compressor.images.suffixes import FILM_SUFFIXES, IMAGE_SUFFIXES, OTHER_PICTURE_SUFFIXES, is_film
from compressor.inference.upscale_report import Failed, SkippedPicture

TAKEN_SUFFIXES = IMAGE_SUFFIXES | FILM_SUFFIXES
"""Suffixes of the files that a glob takes."""


@dataclass(frozen=True)
class Input:
    """A picture or film, its folder relative to the searched one, and whether it was named by itself."""

    path: Path
    inner: Path = Path()
    is_named: bool = False


def collect(
    inputs: Sequence[str | Path], *, recursive: bool, output: Path | None
) -> tuple[list[Input], list[Failed], list[SkippedPicture]]:
    """Return the inputs, each file once and named ones first, those without any picture, and what is left out.

    `output` is a folder inside them that is not searched.
    """
    named, listed = dict[Path, Input](), dict[Path, Input]()
    failed, skipped = list[Failed](), list[SkippedPicture]()
    for text in inputs:
        path = Path(text)
        if path.is_file():
            named.setdefault(path.resolve(), Input(path, is_named=True))
            continue
        if path.is_dir():
            pictures, reason = _search_folder(path, skipped, recursive=recursive, output=output)
        else:
            # Path.glob does not accept absolute patterns.
            matches = sorted(map(Path, glob.glob(str(text), recursive=True)), key=natural_key)  # noqa: PTH207
            files = [match for match in matches if match.is_file()]
            pictures = [Input(match) for match in files if match.suffix.lower() in TAKEN_SUFFIXES]
            skipped += _left_out(files, in_folder=False)
            reason = f"no picture matches {text}" if glob.has_magic(str(text)) else f"{text} does not exist"
        if not pictures:
            failed.append(Failed(path, reason))
        for picture in pictures:
            listed.setdefault(picture.path.resolve(), picture)
    others = [picture for key, picture in listed.items() if key not in named]
    return [*named.values(), *others], failed, skipped


def identity(path: Path) -> str:
    """Return one key for all names of an output that some disks take for one: they ignore upper and lower case."""
    return str(path.resolve()).lower()


def _search_folder(
    folder: Path, skipped: list[SkippedPicture], *, recursive: bool, output: Path | None
) -> tuple[list[Input], str]:
    """Return the pictures of a folder, and the error message if there are none.

    Nested folders are searched with `recursive`; otherwise the report names those with pictures.
    """
    pictures: list[Input] = []
    nested: dict[Path, int] = {}
    where_outputs_go = None if output is None else identity(output)
    for place, inside, _ in os.walk(folder):
        here = Path(place)
        # Leave out hidden folders, as hidden files are, and the outputs of an earlier run.
        inside[:] = sorted(
            name for name in inside if not name.startswith(".") and identity(here / name) != where_outputs_go
        )
        images, inner = list_images(here), here.relative_to(folder)
        if recursive:
            links = (here / name for name in inside if (here / name).is_symlink())
            skipped += [SkippedPicture(link, "a link to a folder is not followed: name it too") for link in links]
        if recursive or here == folder:
            pictures += [Input(image, inner) for image in images]
            skipped += _left_out(sorted(here.iterdir(), key=natural_key), in_folder=True)
        elif images:
            top = folder / inner.parts[0]
            nested[top] = nested.get(top, 0) + len(images)
    skipped += [
        SkippedPicture(
            inner, f"a folder inside {folder}, with {_count_pictures(count)}: --recursive takes folders inside too"
        )
        for inner, count in nested.items()
    ]
    reason = f"no picture in the folder {folder}"
    if nested:
        reason += f", but {_count_pictures(sum(nested.values()))} in folders inside it: --recursive takes them"
    return pictures, reason


def _left_out(files: Sequence[Path], *, in_folder: bool) -> list[SkippedPicture]:
    """The pictures that are not read; and films in a folder, as one takes hours and may only lie there."""
    convert = f"files are not read: convert it to one of {', '.join(sorted(IMAGE_SUFFIXES))}"
    reasons = {
        path: f"{path.suffix.lower()} {convert}" for path in files if path.suffix.lower() in OTHER_PICTURE_SUFFIXES
    }
    if in_folder:
        reasons |= dict.fromkeys(filter(is_film, files), "a film in a folder is not enlarged: name it too")
    return [SkippedPicture(path, reason) for path, reason in reasons.items() if not path.name.startswith(".")]


def _count_pictures(count: int) -> str:
    return f"{count} picture" if count == 1 else f"{count} pictures"
