"""Files in, files out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.images.files import Picture, read_picture, write_picture
from compressor.images.resize import upscale_bicubic
from compressor.inference import upscale_outputs
from compressor.inference.upscale import upscale
from compressor.inference.upscale_outputs import UpscaleSettings
from compressor.models.networks.base import Descriptor
from tests.support.fakes import Fake, convolutions, nearest, nearest_model


def put(path: Path, height: int = 6, width: int = 8, **extra: object) -> Path:
    rgb = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(height)).float() / 255
    write_picture(Picture(rgb, **extra), path)  # type: ignore[arg-type]
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_files_folders_and_globs_each_once(tmp_path: Path) -> None:
    put(tmp_path / "in" / "b.png")
    put(tmp_path / "in" / "a.jpg")
    put(tmp_path / "more" / "deep" / "c.webp")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    report = upscale(
        [tmp_path / "in" / "b.png", tmp_path / "in", f"{tmp_path}/**/*.webp", f"{tmp_path}/in/*.png"],
        nearest_model(2),
        UpscaleSettings(output=tmp_path / "out", suffix=""),
    )
    assert [done.source.name for done in report.done] == ["b.png", "a.jpg", "c.webp"]
    assert names(tmp_path / "out") == ["a.jpg", "b.png", "c.webp"]
    assert report.failed == ()


def test_a_second_run_does_not_enlarge_the_first_ones_outputs(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    upscale([tmp_path], nearest_model(2))
    again = upscale([tmp_path / "a.png"], nearest_model(2), UpscaleSettings(overwrite=True))
    assert [done.source.name for done in again.done] == ["a.png"]
    assert names(tmp_path) == ["a.png", "a_x2.png"]
    kept = upscale([tmp_path], nearest_model(2), UpscaleSettings(skip_existing=True))
    assert (kept.done, kept.failed, len(kept.skipped)) == ((), (), 1)
    named = upscale([tmp_path / "a_x2.png"], nearest_model(2))
    assert [done.output.name for done in named.done] == ["a_x2_x2.png"]


def test_output_names_are_unique(tmp_path: Path) -> None:
    sources = [put(tmp_path / folder / "a.png", height) for folder, height in (("one", 5), ("two", 6), ("three", 7))]
    put(tmp_path / "one" / "A.jpg")
    settings = UpscaleSettings(output=tmp_path / "out", extension=".png")
    report = upscale([*sources, tmp_path / "one" / "A.jpg"], nearest_model(2), settings)
    outputs = [done.output.name for done in report.done]
    assert outputs == ["a_x2.png", "a_x2-2.png", "a_x2-3.png", "A_x2-4.png"]
    assert [read_picture(done.output).rgb.shape[1] for done in report.done[:3]] == [10, 12, 14]


def test_no_input_is_ever_overwritten(tmp_path: Path) -> None:
    """Nor one of an output's name and size: it may be the original that a.png was made from."""
    source = put(tmp_path / "a.png")
    mine = put(tmp_path / "a_x2.png", 12, 16)
    before = source.read_bytes(), mine.read_bytes()
    for inputs, options in (
        (source, {"suffix": ""}),
        (source, {"output": source}),
        (source, {"output": tmp_path, "suffix": ""}),
        (tmp_path, {"suffix": ""}),
        (tmp_path, {}),
        (tmp_path, {"overwrite": False}),
    ):
        report = upscale([inputs], nearest_model(2), UpscaleSettings(**{"overwrite": True, **options}))  # type: ignore[arg-type]
        assert report.done == () and "is one of the inputs" in report.failed[0].reason
    assert (source.read_bytes(), mine.read_bytes()) == before


def test_one_bad_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        put(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"damaged")
    put(tmp_path / "d.png", alpha=torch.ones(1, 6, 8))
    report = upscale(
        [tmp_path, tmp_path / "nowhere.png", f"{tmp_path}/*.bmp"], nearest_model(2), UpscaleSettings(extension=".jpg")
    )
    assert [done.source.name for done in report.done] == ["a.png", "c.png"]
    reasons = {failed.source.name: failed.reason for failed in report.failed}
    assert set(reasons) == {"b.png", "d.png", "nowhere.png", "*.bmp"}
    assert "not a picture" in reasons["b.png"]
    assert "JPEG" in reasons["d.png"]
    assert "does not exist" in reasons["nowhere.png"]
    assert "no picture matches" in reasons["*.bmp"]
    assert all("\n" not in reason for reason in reasons.values())
    assert names(tmp_path) == ["a.png", "a_x2.jpg", "b.png", "c.png", "c_x2.jpg", "d.png"]


def test_a_failing_model_leaves_nothing_behind(tmp_path: Path) -> None:
    put(tmp_path / "a.png")

    def broken(lr: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("two\nlines")

    assert upscale([tmp_path], Fake(broken, Descriptor(scale=2))).failed[0].reason == "two lines"
    silent_nan = Fake(lambda lr: nearest(2)(lr) * float("nan"), Descriptor(scale=2))
    assert "not numbers" in upscale([tmp_path], silent_nan).failed[0].reason
    assert names(tmp_path) == ["a.png"]


def test_depth_alpha_grey_and_profiles_are_kept(tmp_path: Path) -> None:
    """16-bit outputs come from the float output, with values between two 8-bit levels."""
    deep = torch.linspace(0, 1, 48).reshape(1, 6, 8).expand(3, -1, -1)
    clear = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(1))
    write_picture(Picture(deep, clear, grey=True, bits=16, icc=b"profile"), tmp_path / "a.png")
    (done,) = upscale([tmp_path / "a.png"], nearest_model(2)).done
    assert (done.output, done.tile, done.seam) == (tmp_path / "a_x2.png", None, None) and done.seconds > 0
    assert (done.lr_size, done.sr_size) == ((8, 6), (16, 12))
    output, stored = read_picture(done.output), read_picture(tmp_path / "a.png")
    assert (output.bits, output.grey, output.icc) == (16, True, b"profile")
    assert torch.equal(output.rgb, nearest(2)(stored.rgb))
    assert stored.alpha is not None
    assert output.alpha is not None
    assert (output.alpha - upscale_bicubic(stored.alpha, 2).clamp(0, 1)).abs().max() <= 0.51 / 65535


def test_tiles_and_the_self_ensemble_are_passed_on(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 40, 30)
    model = Fake(convolutions(2), Descriptor(scale=2, receptive_radius=3))
    whole = read_picture(upscale([tmp_path / "a.png"], model).done[0].output).rgb
    (tiled,) = upscale([tmp_path / "a.png"], model, UpscaleSettings(suffix="_tiled", tile=8)).done
    assert tiled.tile == 8 and (read_picture(tiled.output).rgb - whole).abs().max() <= 1.01 / 255
    model.inputs.clear()
    upscale([tmp_path / "a.png"], model, UpscaleSettings(suffix="_plus", self_ensemble=True))
    assert len(model.inputs) == 8
    unbounded = Fake(nearest(2), Descriptor(scale=2, receptive_radius=None))
    assert upscale([tmp_path / "a.png"], unbounded, UpscaleSettings(suffix="_s", tile=8, overlap=2)).done[0].seam == 0


def test_one_output_file_for_one_picture(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    settings = UpscaleSettings(output=tmp_path / "new" / "big.tiff")
    (done,) = upscale([tmp_path / "a.png"], nearest_model(2), settings).done
    assert read_picture(done.output).format == "TIFF"
    put(tmp_path / "b.png")
    with pytest.raises(UsageError, match=r"big\.tiff.*\b2 pictures"):
        upscale([tmp_path], nearest_model(2), UpscaleSettings(output=tmp_path / "big.tiff"))
    (failed,) = upscale([tmp_path / "c.png"], nearest_model(2), UpscaleSettings(output=tmp_path / "big.png")).failed
    assert failed.reason.endswith("c.png does not exist")
    with pytest.raises(UsageError, match=r"extension '\.gif' is not one of"):
        upscale([tmp_path], nearest_model(2), UpscaleSettings(extension=".gif"))


def test_pictures_too_large_are_told_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscale_outputs, "MAX_OUTPUT_PIXELS", 191)
    put(tmp_path / "a.png")
    model = nearest_model(2)
    assert "would become 16x12, more than the 191 pixels" in upscale([tmp_path], model).failed[0].reason
    assert model.inputs == []


@pytest.mark.parametrize("alpha", [None, torch.linspace(0, 1, 48).reshape(1, 6, 8)])
def test_lossless_webp_stays_lossless(alpha: torch.Tensor | None, tmp_path: Path) -> None:
    """The output has the network's colours, even where they are fully transparent."""
    rgb = (np.random.default_rng(1).random((6, 8, 3)) * 255).astype(np.uint8)
    planes = rgb if alpha is None else np.concatenate([rgb, (alpha[0].numpy() * 255).astype(np.uint8)[..., None]], 2)
    Image.fromarray(planes).save(tmp_path / "sharp.webp", lossless=True, exact=True, exif=Image.Exif())
    (done,) = upscale([tmp_path], nearest_model(2)).done
    sharp = read_picture(done.output)
    assert sharp.lossless
    assert torch.equal(sharp.rgb, nearest(2)(torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255)[0])


@pytest.mark.parametrize(
    ("name", "options", "lossless"),
    [
        ("a.png", {}, True),
        ("a.bmp", {}, True),
        ("a.tif", {"compression": "tiff_lzw"}, True),
        ("a.tif", {"compression": "jpeg"}, False),
        ("a.jpg", {"quality": 95}, False),
        ("a.webp", {"quality": 90}, False),
    ],
)
def test_webp_is_lossless_where_its_source_is(
    name: str, options: dict[str, Any], lossless: bool, tmp_path: Path
) -> None:
    """Another format must not add a loss, and the losses of a JPEG need no exact copy."""
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)).save(tmp_path / name, **options)
    assert upscale([tmp_path / name], nearest_model(2), UpscaleSettings(extension=".webp")).failed == ()
    picture = read_picture(tmp_path / "a_x2.webp")
    assert picture.lossless == lossless
    assert torch.equal(picture.rgb, nearest(2)(read_picture(tmp_path / name).rgb[None])[0]) == lossless


def test_what_is_no_picture_to_enlarge_is_named(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "scan.tiff", save_all=True, append_images=pages[1:])
    for name in ("cat.jxl", ".hidden.jxl", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    put(tmp_path / "a.png")
    for inputs, names_of_failed in (([tmp_path], ["gone.png", "scan.tiff"]), ([f"{tmp_path}/*"], ["scan.tiff"])):
        report = upscale(inputs, nearest_model(2), UpscaleSettings(overwrite=True, output=tmp_path / "out"))
        assert [done.output.name for done in report.done] == ["a_x2.png"]
        reasons = {failed.source.name: failed.reason for failed in report.failed}
        assert list(reasons) == names_of_failed and "holds 2 pages" in reasons["scan.tiff"]
        assert "is a link to what does not exist" in reasons.get("gone.png", "is a link to what does not exist")
        (skipped,) = report.skipped
        assert skipped.source.name == "cat.jxl" and ".jxl files are not read: convert" in skipped.reason


def test_of_an_animation_the_first_frame_is_enlarged_with_a_note(tmp_path: Path) -> None:
    frames, notes = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")], list[str]()
    for name in ("a.gif", "b.webp", "c.avif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], quality=100)
    frames[1].save(tmp_path / "still.gif")
    report = upscale([tmp_path], nearest_model(2), UpscaleSettings(output=tmp_path / "out"), Context(note=notes.append))
    assert names(tmp_path / "out") == ["a_x2.png", "b_x2.webp", "c_x2.png", "still_x2.png"] and report.failed == ()
    assert notes == [f"{name} holds 2 frames: the first is enlarged" for name in ("a.gif", "b.webp", "c.avif")]
    for output in report.done:
        red, _, blue = read_picture(output.output).rgb[:, 3, 3]
        is_blue = output.source.name == "still.gif"
        assert ((red > 0.9), (blue > 0.9)) == (not is_blue, is_blue)


def test_folders_inside_are_named_or_taken(tmp_path: Path) -> None:
    for name in ("a.png", "in/b.png", "in/deep/c.png", "in/deep/d.png", ".hidden/e.png"):
        put(tmp_path / name)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "in")
    report = upscale([tmp_path], nearest_model(2))
    assert [done.output.name for done in report.done] == ["a_x2.png"]
    (skipped,) = report.skipped
    assert skipped.source == tmp_path / "in" and "with 3 pictures: --recursive takes" in skipped.reason
    settings = UpscaleSettings(recursive=True, output=tmp_path / "in" / "out", suffix="")
    for times, _ in enumerate(range(2)):
        report = upscale([tmp_path / "in"], nearest_model(2), settings)
        assert names(tmp_path / "in" / "out" / "deep") == ["c.png", "d.png"]
        assert len(report.failed) == 3 * times
    settings = UpscaleSettings(recursive=True, skip_existing=True)
    upscale([tmp_path / "in" / "deep"], nearest_model(2))
    beside = upscale([tmp_path], nearest_model(2), settings)
    done = {done.output.relative_to(tmp_path).as_posix() for done in beside.done}
    assert done == {"in/b_x2.png", "in/out/b_x2.png", "in/out/deep/c_x2.png", "in/out/deep/d_x2.png"}
    others = [skipped.source.name for skipped in beside.skipped if not skipped.output_exists]
    assert others == ["elsewhere"] and len(beside.skipped) == 4


def test_names_that_differ_in_case_alone_are_two_files_where_the_disk_says_so(tmp_path: Path) -> None:
    for name in ("Foo.png", "foo.png"):
        put(tmp_path / name)
    count = len(list(tmp_path.iterdir()))
    for inputs in ([tmp_path], [tmp_path / "Foo.png", tmp_path / "foo.png"]):
        report = upscale(inputs, nearest_model(2), UpscaleSettings(overwrite=True))
        assert len({done.output for done in report.done}) == count and report.failed == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"codec": "vp9", "crf": 63},
        {"output": "large.png", "suffix": "_y"},
        {"output": "large.gif"},
        {"output": "large.png", "extension": ".jpg"},
        {"suffix": "/../x"},
    ],
)
def test_options_that_no_input_uses_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    put(tmp_path / "a.png")
    if "output" in settings:
        settings = {**settings, "output": tmp_path / settings["output"]}
    with pytest.raises(UsageError):
        upscale([tmp_path / "a.png"], nearest_model(2), UpscaleSettings(**settings))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_job_that_was_cut_short_is_continued(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        put(tmp_path / name)
    upscale([tmp_path / "a.png"], nearest_model(2))
    before = (tmp_path / "a_x2.png").stat().st_mtime_ns
    report = upscale([tmp_path], nearest_model(2), UpscaleSettings(skip_existing=True))
    assert [done.source.name for done in report.done] == ["b.png"] and report.failed == ()
    (skipped,) = report.skipped
    assert skipped.source.name == "a.png" and skipped.output_exists
    assert (tmp_path / "a_x2.png").stat().st_mtime_ns == before
    (tmp_path / "b_x2.png").unlink()
    (tmp_path / "b_x2.png").mkdir()
    for settings in (UpscaleSettings(skip_existing=True), UpscaleSettings(overwrite=True)):
        (failed,) = upscale([tmp_path / "b.png"], nearest_model(2), settings).failed
        assert failed.reason == f"{tmp_path / 'b_x2.png'} is a folder: choose another suffix or output folder"
    with pytest.raises(UsageError, match="--overwrite and --skip-existing"):
        UpscaleSettings(overwrite=True, skip_existing=True)
