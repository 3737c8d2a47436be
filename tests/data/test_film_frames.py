"""Frames of a film are LR images without originals, the same ones every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import srkd
from compressor.base.cache_folder import CacheFolder
from compressor.base.errors import SrkdError, UsageError
from compressor.data.film_frames import lr_images, sample_frames
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import to_u8
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from tests.support.films import frames_of, make_film, picture, require_av
from tests.support.run_files import read_json

require_av()

BLACK = torch.full((1, 3, 48, 64), 0.02)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A film of one second: black at first, then pictures, of which two are shown twice."""
    pictures = [BLACK, BLACK, *(picture(number) for number in (1, 2, 2, 3, 4, 5, 5, 6))]
    return make_film(tmp_path / "film.mp4", pictures, codec="h264", crf="0")


def test_black_and_repeated_frames_are_left_out_and_told(film: Path) -> None:
    sample = {round(seconds * 24000 / 1001): pair for seconds, *pair in sample_frames(film)}
    assert list(sample) == [2, 3, 5, 6, 7, 9]
    shown = [to_u8(frame.rgb)[0] for frame in frames_of(film)]
    for number, (frame_u8, following_u8) in sample.items():
        assert torch.equal(frame_u8, shown[number]) and torch.equal(following_u8, shown[min(number + 1, 9)])


def test_frames_are_spread_evenly(tmp_path: Path) -> None:
    source = make_film(tmp_path / "film.mp4", [picture(number) for number in range(60)], codec="h264", crf="0")
    numbers = [round(seconds * 24000 / 1001) for seconds, *_ in sample_frames(source, 6)]
    assert numbers == [5, 15, 25, 35, 45, 55]


def test_the_frames_are_a_folder_of_the_cache(film: Path, tmp_path: Path) -> None:
    notes = list[str]()
    cache = CacheFolder(tmp_path / "cache")
    images = lr_images(film, cache=cache, note=notes.append)
    assert [image.stem for image in images][:2] == ["film-000000083ms", "film-000000125ms"]
    assert len(images) == 6 and notes[0].startswith("film.mp4: 6 frames from 0.1")
    assert {image.lr.parent.parent for image in images} == {cache.path}
    before = [image.lr.stat().st_mtime_ns for image in images]
    assert [image.lr.stat().st_mtime_ns for image in lr_images(film, cache=cache)] == before
    elsewhere = lr_images(film, cache=CacheFolder(tmp_path / "none", limit=0))
    assert not (tmp_path / "none").exists()
    for one, two in zip(images, elsewhere, strict=True):
        assert torch.equal(read_rgb_u8(one.lr), read_rgb_u8(two.lr))


@pytest.mark.parametrize("damage", ["cut", "lost", "no list", "nonsense"])
def test_damaged_frames_are_taken_again(damage: str, film: Path, tmp_path: Path) -> None:
    cache, notes = CacheFolder(tmp_path / "cache"), list[str]()
    before = {image.lr: image.lr.read_bytes() for image in lr_images(film, cache=cache)}
    picture, sizes = next(iter(before)), next(iter(before)).with_name("sizes.json")
    if damage == "cut":
        picture.write_bytes(before[picture][:-40])
    elif damage == "nonsense":
        sizes.write_bytes(b"\xff[")
    else:
        (picture if damage == "lost" else sizes).unlink()
    again = {image.lr: image.lr.read_bytes() for image in lr_images(film, cache=cache, note=notes.append)}
    assert again == before
    assert str(picture.parent) in notes[0] and "making it again" in notes[0]


@pytest.mark.ci
def test_a_run_on_a_film(film: Path, tmp_path: Path) -> None:
    notes = list[str]()
    teacher = build(EDSRSpec(scale=2, width=8, depth=1), seed=1)
    out = tmp_path / "run"
    srkd.compress(teacher, data=film, width=0.5, steps=2, batch=2, lr_patch=8, out=out, announce=notes.append)
    facts = read_json(out)
    assert facts["data"]["labels"] == "teacher" and facts["data"]["used"] == 6
    assert facts["options"]["data"] == [str(film.resolve())]
    assert any(line.startswith("film.mp4: 6 frames from") for line in notes)
    seen = srkd.data(data=film, lr_patch=8)
    assert (seen.images, seen.lr_sizes, seen.origin) == (6, {"64x48": 6}, str(film))


def test_scores_on_a_film_are_those_on_its_frames(film: Path, tmp_path: Path) -> None:
    teacher, student = (build(EDSRSpec(scale=2, width=8, depth=1), seed=seed) for seed in (1, 2))
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, (_, frame_u8, _) in enumerate(sample_frames(film)):
        Image.fromarray(frame_u8.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    ours = srkd.evaluate(student, data=film, against=teacher).models
    theirs = srkd.evaluate(student, lr_only=folder, against=teacher).models
    for label, scores in ours.items():
        assert [score.figures for score in scores.values()] == [score.figures for score in theirs[label].values()]
    assert {name for scores in ours.values() for name in scores} == {"film.mp4"}


def test_a_film_beside_other_images_is_refused(film: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--lr-only takes neither --data nor --lr-images"):
        srkd.data(data=film, lr_only=tmp_path)
    with pytest.raises(UsageError, match="--labels original: the images of --lr-only, or of a film, have no originals"):
        srkd.compress(data=film, labels="original", out=tmp_path / "run", steps=1)
    with pytest.raises(SrkdError, match=r"none\.mp4 cannot be read: No such file"):
        srkd.data(data=tmp_path / "none.mp4")
    dark = make_film(tmp_path / "dark.mkv", [BLACK] * 3)
    with pytest.raises(SrkdError, match=r"dark\.mkv holds black frames only"):
        srkd.data(data=dark)


def test_frames_come_with_the_one_that_follows(tmp_path: Path) -> None:
    """The last frame follows itself."""
    source = make_film(tmp_path / "film.mp4", [picture(number) for number in range(9)], codec="h264", crf="0")
    images = lr_images(source, cache=CacheFolder(tmp_path / "cache"))
    frames = [to_u8(frame.rgb)[0] for frame in frames_of(source)]
    assert len(images) == 9
    for number, image in enumerate(images):
        assert torch.equal(read_rgb_u8(image.lr), frames[number])
        assert torch.equal(read_rgb_u8(image.following or Path()), frames[min(number + 1, 8)])
