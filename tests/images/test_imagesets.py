"""The rule for data folders, used everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from compressor.base.cache_folder import CacheFolder
from compressor.base.errors import SrkdError, UsageError
from compressor.data.decode import decode_all
from compressor.images.sets import evenly_spaced_photos, find_lr_images, find_lr_set, find_sets


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_a_folder_of_images_in_natural_order(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", "img10.png", "img2.JPG", "img1.webp", "notes.txt", ".hidden.png", "._img1.png")
    (folder / "album.png").mkdir()
    (result,) = find_sets(folder, scale=4)
    assert result.name == "photos"
    assert [pair.stem for pair in result.pairs] == ["img1", "img2", "img10"]
    assert all(pair.lr is None for pair in result.pairs)


def test_a_set_pairs_by_equal_or_suffixed_stems(tmp_path: Path) -> None:
    folder = tmp_path / "Set2"
    fill(folder / "HR", "a.png", "b.png")
    fill(folder / "LRbicX4", "ax4.png", "b.jpg", "a.png", "extra.png")
    fill(folder / "LRbicX2", "a.png", "b.png")
    (result,) = find_sets(folder, scale=4)
    assert [pair.lr and pair.lr.name for pair in result.pairs] == ["ax4.png", "b.jpg"]
    (other,) = find_sets(folder, scale=2)
    assert [pair.lr and pair.lr.parent.name for pair in other.pairs] == ["LRbicX2", "LRbicX2"]
    (image_set,) = find_sets(folder, scale=3)
    assert all(pair.lr is None for pair in image_set.pairs)


@pytest.mark.parametrize(("hr", "lr"), [("a_x4.png", "a.png"), ("a.png", "a_x4.png"), ("a_x4.png", "ax4.png")])
def test_names_that_upscale_gives_pair_on_either_side(tmp_path: Path, hr: str, lr: str) -> None:
    fill(tmp_path / "HR", hr)
    stored = fill(tmp_path / "LRbicX4", lr, "other.png")
    assert find_sets(tmp_path, scale=4)[0].pairs[0].lr == stored / lr
    with pytest.raises(SrkdError, match="lacks"):
        find_sets(tmp_path, scale=3, lr=stored)


def test_a_set_without_originals(tmp_path: Path) -> None:
    stored = fill(tmp_path / "Set" / "LRbicX4", "b10.png", "b2.png")
    result = find_lr_set(tmp_path / "Set", scale=4)
    assert result is not None and result.name == "Set"
    assert [source.lr for source in result.sources] == [stored / "b2.png", stored / "b10.png"]
    assert find_lr_set(tmp_path / "Set", scale=2) is None and find_lr_set(stored, scale=4) is None
    fill(tmp_path / "Set" / "HR", "b2.png")
    assert find_lr_set(tmp_path / "Set", scale=4) is None


def test_a_folder_of_several_sets(tmp_path: Path) -> None:
    fill(tmp_path / "Set5" / "HR", "a.png")
    fill(tmp_path / "Set14", "b.png")
    fill(tmp_path / "docs", "readme.txt")
    assert [result.name for result in find_sets(tmp_path, scale=4)] == ["Set5", "Set14"]
    assert find_sets(tmp_path / "Set5" / "HR", scale=4)[0].name == "HR"


def test_the_bicubic_folder_wins_and_two_of_them_are_an_error(tmp_path: Path) -> None:
    fill(tmp_path / "HR", "a.png")
    fill(tmp_path / "LRunknownX2", "a.png")
    fill(tmp_path / "LRbicX2", "a.png")
    assert find_sets(tmp_path, scale=2)[0].pairs[0].lr == tmp_path / "LRbicX2" / "a.png"
    fill(tmp_path / "LR_bicubic_X2", "a.png")
    with pytest.raises(SrkdError, match=r"3 LR folders .*--lr"):
        find_sets(tmp_path, scale=2)


def test_lr_names_the_folder_of_one_set(tmp_path: Path) -> None:
    fill(tmp_path / "data" / "one" / "HR", "a.png")
    elsewhere = fill(tmp_path / "elsewhere", "ax3.png")
    (result,) = find_sets(tmp_path / "data" / "one", scale=3, lr=elsewhere)
    assert result.pairs[0].lr == elsewhere / "ax3.png"
    fill(tmp_path / "data" / "two" / "HR", "a.png")
    with pytest.raises(SrkdError, match=r"2 \(one, two\)"):
        find_sets(tmp_path / "data", scale=3, lr=elsewhere)


def test_images_of_one_name_in_subfolders_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for scene in ("scene1", "scene2"):
        fill(tmp_path / scene, "000.png", f"{scene}.png")
    names = [image.stem for image in find_lr_images(tmp_path)]
    assert names == ["scene1/000.png", "scene1", "scene2/000.png", "scene2"]
    fill(tmp_path / "flat", "a.png", "a.jpg", "a.png.png", "b.png")
    (flat,) = find_sets(tmp_path / "flat", scale=2)
    assert sorted(pair.stem for pair in flat.pairs) == ["a.jpg", "a.png", "a.png.png", "b"]


def test_a_set_has_the_name_of_its_link(tmp_path: Path) -> None:
    for name in ("A", "B"):
        fill(tmp_path / f"of {name}" / "pair", "a.png")
        (tmp_path / "links").mkdir(exist_ok=True)
        (tmp_path / "links" / name).symlink_to(tmp_path / f"of {name}" / "pair", target_is_directory=True)
    assert [one.name for one in find_sets(tmp_path / "links", scale=2)] == ["A", "B"]


def test_a_broken_link_is_left_out_with_the_reason(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (image_set,) = find_sets(tmp_path, scale=2)
    cache = CacheFolder(tmp_path / "cache", 10**6)
    store = decode_all(image_set.pairs, scale=2, cache=cache, small_bytes=0).select(lr_patch=4)
    assert store.names == ("a",)
    assert [image.reason for image in store.skipped] == [f"{tmp_path / 'gone.png'} is a link to what does not exist"]


def test_originals_of_one_stem_have_partners_of_their_whole_names(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "HR", "a.png", "a.bmp", "b.png")
    fill(tmp_path / "set" / "LRbicX2", "a.png", "a.bmp", "bx2.png")
    (result,) = find_sets(tmp_path / "set", scale=2)
    assert {pair.hr.name: pair.lr and pair.lr.name for pair in result.pairs} == {
        "a.bmp": "a.bmp", "a.png": "a.png", "b.png": "bx2.png",
    }  # fmt: skip
    (tmp_path / "set" / "LRbicX2" / "a.bmp").rename(tmp_path / "set" / "LRbicX2" / "ax2.png")
    with pytest.raises(SrkdError, match=r"lacks the LR image of 1 of 3 HR images \(a.bmp\)"):
        find_sets(tmp_path / "set", scale=2)


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    fill(tmp_path / "none")
    fill(tmp_path / "x", "a.png")
    fill(tmp_path / "empty" / "HR")
    fill(tmp_path / "s" / "HR", *(f"{n}.png" for n in range(9)))
    fill(tmp_path / "s" / "LRbicX4", "3x4.png", "4.png")
    for folder, lr, words in (
        ("nowhere", None, "does not exist"),
        ("none", None, "no images in"),
        ("x/a.png", None, "is a file: give the folder"),
        ("empty", None, r"no images in .*HR"),
        ("s", None, r"7 of 9 .*\(0, 1, 2, 5, 6, \.\.\.\)"),
        ("s", tmp_path / "nope", "nope does not exist"),
    ):
        with pytest.raises(SrkdError, match=words):
            find_sets(tmp_path / folder, scale=4, lr=lr)


def test_photos_are_spaced_over_a_folder_its_hr_or_its_subfolders(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", *(f"{n}.png" for n in range(12)))
    assert list(evenly_spaced_photos(folder, 12, option="--data")) == [str(n) for n in range(12)]
    assert list(evenly_spaced_photos(folder, 5, option="--data")) == ["0", "3", "6", "9"]
    fill(folder / "HR", "a.png")
    assert evenly_spaced_photos(folder, 5, option="--data") == {"a": folder / "HR" / "a.png"}
    fill(tmp_path / "films" / "a", "1.png", "2.png")
    fill(tmp_path / "films" / "b", "1.png")
    assert list(evenly_spaced_photos(tmp_path / "films", 5, option="--data")) == ["a/1.png", "2", "b/1.png"]
    mistakes = {"nowhere": "does not exist", "photos/1.png": "is a file", "empty": "holds no images"}
    fill(tmp_path / "empty")
    for name, words in mistakes.items():
        with pytest.raises(UsageError, match=rf"^--calibrate .*{name}: {words}: give a folder"):
            evenly_spaced_photos(tmp_path / name, 5, option="--calibrate")
