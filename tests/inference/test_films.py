"""Films in, films out: frames, times, colours, other streams, and what happens when something is wrong."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.base.choices import FilmCodec
from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.base.locks import hold_lock
from compressor.inference.upscale import upscale
from compressor.inference.upscale_outputs import UpscaleSettings
from compressor.inference.upscale_report import UpscaledFilm, UpscaleReport
from compressor.models.networks.base import Descriptor
from compressor.video.reading import FULL, LIMITED, Colours, Film, is_cover
from compressor.video.writing import CODECS, packet_of
from tests.support.commands import ROOT
from tests.support.deaths import file_size_limit
from tests.support.fakes import Fake, nearest, nearest_model
from tests.support.films import decoded, frames_of, make_film, packets_of, picture, remux, require_av, streams_of

av = require_av()


def enlarge(source: Path, scale: int = 2, **settings: object) -> UpscaledFilm:
    report = upscale([source], nearest_model(scale), UpscaleSettings(**settings))  # type: ignore[arg-type]
    assert report.failed == ()
    return report.films[0]


def reason(report: UpscaleReport) -> str:
    (failed,) = report.failed
    assert "\n" not in failed.reason
    return failed.reason


def largest_difference(source: Path, output: Path, scale: int = 2) -> float:
    """Return the largest mean difference in [0,1] of a frame to the source's with repeated pixels."""
    pairs = zip(frames_of(source), frames_of(output), strict=True)
    return max(float((nearest(scale)(one.rgb) - other.rgb).abs().mean()) for one, other in pairs)


def times_of(path: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in decoded(path)]


def test_frames_times_sound_and_subtitles(tmp_path: Path) -> None:
    options = {"codec": "h264", "pixel_aspect": Fraction(4, 3), "sound_seconds": 0.5, "subtitles": ("Hello", "World")}
    source = make_film(tmp_path / "film.mp4", [picture(number) for number in range(12)], **options)
    done = enlarge(source)
    assert done.output == tmp_path / "film_x2.mp4" and not (tmp_path / "film_x2.mp4.part").exists()
    assert (done.frames, done.reused, done.resumed, done.lr_size, done.sr_size) == (12, 0, 0, (64, 48), (128, 96))
    assert streams_of(done.output) == streams_of(source)
    assert times_of(done.output) == times_of(source) == [Fraction(1001 * number, 24000) for number in range(12)]
    assert [frame.duration for frame in decoded(done.output)] == [frame.duration for frame in decoded(source)]
    for kind in ("audio", "subtitle"):
        assert packets_of(done.output, kind) == packets_of(source, kind)
    with Film(source) as before, Film(done.output) as after:
        assert after.facts.pixel_aspect == Fraction(4, 3) and after.facts.colours == before.facts.colours
    assert largest_difference(source, done.output) < 3 / 255


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_variable_rates_and_a_late_start_hold(tmp_path: Path, codec: str) -> None:
    """Frames of one segment may be decoded when those of the one before are still shown."""
    times = np.cumsum(np.random.default_rng(0).choice([1, 500, 1001, 20000], 40)).tolist()
    source = make_film(tmp_path / "film.mp4", [picture(number) for number in range(40)], times, codec="h264")
    output = enlarge(source, codec=codec, segment=9).output
    assert times_of(source) == [Fraction(tick, 24000) for tick in times] == times_of(output)
    with av.open(str(output)) as film:
        packets = [(packet.dts, packet.pts) for packet in film.demux(video=0) if packet.size]
    assert all(one[0] < two[0] for one, two in pairwise(packets)) and all(dts <= pts for dts, pts in packets)
    assert largest_difference(source, output) < 3 / 255


def test_a_broadcast_keeps_its_times_to_the_tick(tmp_path: Path) -> None:
    """A transport stream begins late, in ticks of 1/90000 s, and its sound has headers that mp4 does not take."""
    film = make_film(tmp_path / "film.mp4", [picture(number) for number in range(12)], codec="h264", sound_seconds=0.5)
    source = remux(film, tmp_path / "film.ts")
    done = enlarge(source, output=tmp_path / "large.mp4")
    assert times_of(source)[0] > 0 and times_of(done.output) == times_of(source)
    assert len(packets_of(done.output, "audio")) == len(packets_of(source, "audio"))
    assert abs(packets_of(done.output, "audio")[0][1] - packets_of(source, "audio")[0][1]) < Fraction(1, 44100)
    assert enlarge(source).output.suffix == ".mkv"


@pytest.mark.parametrize(
    ("pixel_format", "colours", "codec"),
    [
        ("yuv420p", Colours(6, FULL, 6, 6), "h264"),
        ("yuv444p", Colours(1, LIMITED, 1, 1), "h264"),
        ("yuv422p", Colours(5, LIMITED, 5, 6), "h264"),
        ("yuv420p10le", Colours(1, LIMITED, 1, 1), "hevc"),
        ("yuv420p10le", Colours(9, LIMITED, 9, 16), "hevc"),
    ],
)
def test_depth_chroma_and_colours_stay(tmp_path: Path, pixel_format: str, colours: Colours, codec: str) -> None:
    source = make_film(tmp_path / "film.mkv", [picture(1), picture(2)], pixel_format=pixel_format, colours=colours)
    done = enlarge(source)
    assert done.codec == codec and done.pixel_format == pixel_format and done.notes == ()
    with Film(done.output) as film:
        assert (film.facts.pixel_format.replace("yuvj", "yuv"), film.facts.colours) == (pixel_format, colours)
    assert largest_difference(source, done.output) < 2 / 255


def test_ten_bits_are_not_rounded_to_eight(tmp_path: Path) -> None:
    ramp = torch.linspace(0.4, 0.45, 64).expand(1, 3, 48, 64)
    source = make_film(tmp_path / "film.mkv", [ramp], pixel_format="yuv420p10le")
    done = enlarge(source, codec="ffv1")
    after, before = (
        np.frombuffer(frame.planes[0], np.uint16).reshape(frame.height, -1)[:, : frame.width]
        for frame in (*decoded(done.output), *decoded(source))
    )
    assert len(np.unique(before % 4)) == 4 and np.array_equal(after, before.repeat(2, 0).repeat(2, 1))


def test_equal_frames_are_computed_once(tmp_path: Path) -> None:
    source = make_film(tmp_path / "film.mkv", [picture(number) for number in [0, 0, 0, 1, 1, 0, 2]])
    model = nearest_model(2)
    report = upscale([source], model, UpscaleSettings(codec="ffv1"))
    assert (report.films[0].reused, report.films[0].frames) == (3, 7)
    assert len([size for size in model.inputs if size[-2:] == (48, 64)]) == 4
    assert largest_difference(source, report.films[0].output) < 2 / 255


def test_a_matrix_that_is_not_stated_is_told_and_written(tmp_path: Path) -> None:
    done = enlarge(make_film(tmp_path / "film.mkv", [picture(1)], colours=Colours(2, LIMITED)))
    assert done.notes == ("its colour matrix is not declared: taken as BT.601, by its size, as players do",)
    with Film(done.output) as film:
        assert film.facts.colours.matrix == 6


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((0, 1, -1, 0), lambda frame: torch.rot90(frame, -1, (-2, -1))),  # a phone held upright
        ((-1, 0, 0, 1), lambda frame: frame.flip(-1)),
        ((1, 0, 0, -1), lambda frame: frame.flip(-2)),
        ((-1, 0, 0, -1), lambda frame: frame.flip(-2, -1)),
        ((0, 1, 1, 0), lambda frame: frame.transpose(-2, -1)),
        ((0, -1, -1, 0), lambda frame: frame.transpose(-2, -1).flip(-2, -1)),
    ],
)
def test_a_turned_or_mirrored_film_is_written_as_it_is_shown(
    tmp_path: Path, matrix: tuple[int, ...], shown: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """A pixel at (x, y) is shown at (ax + cy, bx + dy): a, b, c and d of the header of the track."""
    source = make_film(tmp_path / "film.mp4", [picture(1)], codec="h264", pixel_aspect=Fraction(4, 3))
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 16
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    source.write_bytes(content)
    upright = shown(picture(1))
    with Film(source) as film:
        assert film.facts.notes == () and film.facts.size == (upright.shape[-1], upright.shape[-2])
        assert film.facts.pixel_aspect == (Fraction(4, 3) if a else Fraction(3, 4))
        assert float((next(film.frames()).rgb - upright).abs().mean()) < 3 / 255
    assert largest_difference(source, enlarge(source).output) < 2 / 255


def test_an_encoder_that_does_not_start_leaves_nothing(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(1)[..., :4, :4]])
    failed = reason(upscale([film], nearest_model(2), UpscaleSettings(codec="hevc")))
    assert "libx265 does not start" in failed
    assert [path.name for path in tmp_path.iterdir()] == ["film.mkv"]


def test_odd_sizes_gain_a_row_and_a_column(tmp_path: Path) -> None:
    """4:2:0 has no odd ones; 4:4:4 does."""
    source = make_film(tmp_path / "film.mkv", [picture(1, (33, 25))], pixel_format="yuv444p")
    assert enlarge(source, 3).sr_size == (99, 75)
    grey = make_film(tmp_path / "grey.mkv", [picture(1, (33, 25))], pixel_format="gray")
    done = enlarge(grey, 3, codec="ffv1")
    assert done.sr_size == (100, 76) and "100x76 in place of 99x75: yuv420p needs even sizes" in done.notes
    planes = decoded(done.output)[0].to_ndarray()
    assert np.array_equal(planes[75], planes[74]) and set(planes[76:].ravel().tolist()) == {128}
    expected, large = frames_of(grey)[0].rgb, frames_of(done.output)[0].rgb
    assert float((nearest(3)(expected) - large[..., :75, :99]).abs().max()) < 2 / 255


def test_interlaced_and_transparent_films_are_told(tmp_path: Path) -> None:
    alpha = make_film(tmp_path / "alpha.mkv", [picture(1)], pixel_format="yuva420p")
    fields = make_film(tmp_path / "fields.mkv", [picture(1)], codec="h264", **{"x264-params": "interlaced=1"})
    assert "its transparency is left out" in enlarge(alpha).notes
    assert any("it is interlaced" in line for line in enlarge(fields).notes)


def test_a_cover_is_copied_and_is_not_the_film(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mp4", [picture(number) for number in range(3)], codec="h264")
    cover = BytesIO()
    Image.new("RGB", (16, 16), "red").save(cover, "JPEG")
    with (
        av.open(BytesIO(cover.getvalue()), format="jpeg_pipe") as picture_file,
        av.open(str(film)) as source,
        av.open(str(tmp_path / "covered.mp4"), "w") as out,
    ):
        image = out.add_stream_from_template(picture_file.streams.video[0], opaque=True)
        image.disposition = 1 << 10  # attached_pic
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        packet = next(picture_file.demux())
        packet.stream, packet.pts, packet.dts = image, 0, 0
        out.mux(packet)
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    done = enlarge(tmp_path / "covered.mp4")
    assert done.frames == 3 and len(done.copied) == 1 and done.copied[0].startswith("video stream")
    with av.open(str(done.output)) as written:
        (kept,) = (stream for stream in written.streams.video if is_cover(stream))
        assert bytes(next(written.demux(kept))) == cover.getvalue()


def test_hevc_has_the_name_that_apple_knows(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mp4", [picture(1)], codec="h264")
    with av.open(str(enlarge(film, codec="hevc").output)) as written:
        assert written.streams.video[0].codec_context.codec_tag == "hvc1"


def test_a_stream_that_the_container_does_not_take_is_named(tmp_path: Path) -> None:
    source = make_film(tmp_path / "film.mp4", [picture(1)], codec="h264", sound_seconds=0.1, subtitles=("Hello",))
    done = enlarge(source, output=tmp_path / "out.mkv")
    assert done.copied == ("audio stream 1 (aac, fin)",)
    assert done.notes == ("subtitle stream 2 (mov_text, swe) is left out: matroska does not take it",)
    assert enlarge(source, output=tmp_path / "out.webm").codec == "vp9"


def test_attachments_are_copied_and_a_second_film_is_not(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(number) for number in range(3)], codec="h264")
    with av.open(str(film)) as source, av.open(str(tmp_path / "many.mkv"), "w") as out:
        streams = [out.add_stream_from_template(source.streams.video[0], opaque=True) for _ in range(2)]
        out.add_attachment("font.ttf", "font/ttf", b"glyphs")
        for packet in source.demux(video=0):
            for stream in streams if packet.size else ():
                copy = packet_of(bytes(packet))
                copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
                out.mux(copy)
    done = enlarge(tmp_path / "many.mkv")
    assert done.copied == ("attachment stream 2 (unknown)",) and "stream 1 (h264) is left out" in done.notes[0]
    with av.open(str(done.output)) as written:
        (attached,) = (stream for stream in written.streams if stream.type == "attachment")
        assert attached.data == b"glyphs" and len(written.streams.video) == 1


def test_films_stand_beside_pictures(tmp_path: Path) -> None:
    film = make_film(tmp_path / "in" / "film.avi", [picture(1)])
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "photo.png")
    report = upscale([tmp_path / "in"], nearest_model(2), UpscaleSettings(output=tmp_path / "out"))
    assert [done.source.name for done in report.done] == ["photo.png"] and report.films == ()
    assert [left.source for left in report.skipped] == [film]
    report = upscale([tmp_path / "in", film], nearest_model(2), UpscaleSettings(output=tmp_path / "all"))
    assert [done.output.name for done in report.films] == ["film_x2.mkv"] and len(report.done) == 1
    assert "exists" in reason(upscale([film], nearest_model(2), UpscaleSettings(output=tmp_path / "all")))
    kept = upscale([film], nearest_model(2), UpscaleSettings(output=tmp_path / "all", skip_existing=True))
    assert [left.output_exists for left in kept.skipped] == [True]


@pytest.mark.parametrize("out", ["out.png", "out.avi"])
def test_the_output_of_a_film_is_a_film(tmp_path: Path, out: str) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(1)])
    with pytest.raises(UsageError):
        upscale([film], nearest_model(2), UpscaleSettings(output=tmp_path / out))


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(number) for number in range(9)], sound_seconds=0.5)
    remux(film, tmp_path / "none.mkv", kind="audio")
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = film.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: whole.index(b"matroska") + 100])
    for name in ("none.mkv", "text.mp4", "empty.mp4", "cut.mkv"):
        assert re.search("cannot be read as a film|holds no f", reason(upscale([tmp_path / name], nearest_model(2))))
        assert not list(tmp_path.glob("*.part"))


def test_a_damaged_film_gives_what_can_be_read(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(number) for number in range(9)])
    damage = lambda number, content: bytes(range(256)) if number in (4, 5) else content  # noqa: E731
    done = enlarge(remux(film, tmp_path / "damaged.mkv", kind="video", change=damage))
    assert done.frames == 7 and done.notes == ("2 damaged packets gave no frame",)
    kept = [moment for number, moment in enumerate(times_of(film)) if number not in (4, 5)]
    assert times_of(done.output) == kept


def test_a_film_that_ends_early_is_told(tmp_path: Path) -> None:
    """As a download that was broken off, with its index in front."""
    film = make_film(tmp_path / "film.mp4", [picture(number) for number in range(20)], codec="h264")
    front = remux(film, tmp_path / "front.mp4", movflags="faststart")
    assert enlarge(front).notes == ()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(front.read_bytes()[: front.stat().st_size * 2 // 3])
    done = enlarge(cut)
    assert 0 < done.frames < 19 and "it ends early: its headers tell 20 frames" in done.notes


def test_the_option_names_every_codec_that_is_written() -> None:
    assert get_args(FilmCodec) == tuple(CODECS)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"codec": "h265"}, "--codec h265"),
        ({"codec": "ffv1", "output": "out.mp4"}, "--codec ffv1: .mp4"),
        ({"codec": "h264", "output": "out.webm"}, "--codec h264: .webm"),
        ({"codec": "h264", "crf": 60}, "--crf 60: h264 takes 0 to 51"),
    ],
)
def test_codecs_that_cannot_be(tmp_path: Path, settings: dict[str, object], error: str) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(1)])
    if "output" in settings:
        settings = {**settings, "output": tmp_path / str(settings["output"])}
    assert error in reason(upscale([film], nearest_model(2), UpscaleSettings(**settings)))  # type: ignore[arg-type]


SLOW = """
import sys, time
from pathlib import Path
from compressor.inference.upscale import upscale
from compressor.inference.upscale_outputs import UpscaleSettings
from compressor.inference.upscale_report import UpscaledFilm, UpscaleReport
from compressor.models.networks.base import Descriptor
from tests.support.fakes import Fake, nearest

def slow(lr):
    time.sleep(0.05)
    return nearest(2)(lr)

model = Fake(slow, Descriptor(scale=2, receptive_radius=0))
report = upscale([sys.argv[1]], model, UpscaleSettings(output=Path(sys.argv[2]), segment=8))
assert not report.failed, report.failed
"""


@pytest.mark.ci
def test_a_kill_in_the_middle_changes_no_frame(tmp_path: Path) -> None:
    pictures = [picture(number // 2) for number in range(60)]
    source = make_film(tmp_path / "film.mp4", pictures, codec="h264", sound_seconds=2.5)
    whole = enlarge(source, output=tmp_path / "whole.mp4", segment=8)
    output = tmp_path / "large.mp4"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(source), str(output)], cwd=ROOT)
    part = tmp_path / "large.mp4.part"
    try:
        deadline = time.monotonic() + 120
        while len(list(part.glob("0*.json"))) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    done_before = len(list(part.glob("0*.json")))
    assert 2 <= done_before < 7 and not output.exists()
    resumed = enlarge(source, output=output, segment=8)
    assert resumed.resumed == 8 * done_before and resumed.frames == 60 and not part.exists()
    assert resumed.reused == whole.reused > 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert output.read_bytes() == whole.output.read_bytes()


def test_segments_of_another_call_are_not_mixed_in(tmp_path: Path) -> None:
    source = make_film(tmp_path / "film.mkv", [picture(number) for number in range(12)])
    output, seen = tmp_path / "large.mkv", 0

    def stops(lr: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += lr.shape[-1] == 64
        if seen > 9:
            raise KeyboardInterrupt
        return nearest(2)(lr)

    stopped = Fake(stops, Descriptor(scale=2, receptive_radius=0))
    with pytest.raises(KeyboardInterrupt):
        upscale([source], stopped, UpscaleSettings(output=output, segment=4))
    assert sorted(path.name for path in (tmp_path / "large.mkv.part").glob("0*.json")) == ["00000.json", "00001.json"]
    brighter = Fake(lambda lr: nearest(2)(lr) + 0.01, Descriptor(scale=2, receptive_radius=0))
    for model, settings, name in (
        (nearest_model(2), {"crf": 20}, "crf and encoder"),
        (nearest_model(2), {"codec": "ffv1"}, "codec"),
        (nearest_model(2), {"self_ensemble": True}, "self-ensemble"),
        (brighter, {}, "model"),
    ):
        failed = upscale([source], model, UpscaleSettings(output=output, segment=4, **settings))  # type: ignore[arg-type]
        assert f"large.mkv.part holds segments of an earlier call with another {name}" in reason(failed)
    with hold_lock(tmp_path / "large.mkv.part" / "lock"):
        failed = upscale([source], nearest_model(2), UpscaleSettings(output=output, segment=4))
        assert "large.mkv.part/lock is locked by process" in reason(failed)
    done = enlarge(source, output=output, segment=4)
    assert (done.resumed, done.frames) == (8, 12)
    assert output.read_bytes() == enlarge(source, output=tmp_path / "whole.mkv", segment=4).output.read_bytes()


def test_a_folder_of_the_user_where_segments_would_be_is_left_alone(tmp_path: Path) -> None:
    source = make_film(tmp_path / "film.mp4", [picture(0)] * 2, codec="h264")
    notes = tmp_path / "large.mp4.part" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    assert enlarge(source, output=tmp_path / "large.mp4").frames == 2
    assert [path.name for path in notes.parent.iterdir()] == ["notes.txt"] and notes.read_text() == "mine"


def test_a_name_with_a_colon_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_film(tmp_path / "film.mp4", [picture(0)] * 2, codec="h264").rename(tmp_path / "Part: 2.mp4")
    monkeypatch.chdir(tmp_path)
    assert enlarge(Path("Part: 2.mp4"), output=tmp_path / "large.mp4").frames == 2


@pytest.mark.parametrize("limit", ["a segment", "the film"])
def test_a_full_disk_is_one_line_and_loses_no_segment(tmp_path: Path, limit: str) -> None:
    source = make_film(tmp_path / "film.mkv", [picture(number) for number in range(12)])
    whole = enlarge(source, output=tmp_path / "whole.mkv", codec="ffv1", segment=4)
    size = whole.output.stat().st_size
    settings = UpscaleSettings(output=tmp_path / "large.mkv", codec="ffv1", segment=4)
    with file_size_limit(size // (6 if limit == "a segment" else 2)):
        failed = reason(upscale([source], nearest_model(2), settings))
    assert re.match(r"cannot write .*large\.mkv(\.part/00000\.packets)?: File too large", failed)
    assert not (tmp_path / "large.mkv").exists() and not list(tmp_path.glob(".large*"))
    done = enlarge(source, output=tmp_path / "large.mkv", codec="ffv1", segment=4)
    assert done.resumed == (0 if limit == "a segment" else 12)
    assert done.output.read_bytes() == whole.output.read_bytes()


def test_progress_has_frames_and_a_rate(tmp_path: Path) -> None:
    source = make_film(tmp_path / "film.mp4", [picture(number) for number in range(6)], codec="h264")
    steps, states = list[tuple[str, int, int]](), list[str]()
    context = Context(lambda *step: steps.append(step), status=lambda line, seconds: states.append(line))
    upscale([source], nearest_model(2), UpscaleSettings(), context)
    assert [done for title, done, total in steps if title == "film.mp4"] == [1, 2, 3, 4, 5, 6, 6]
    assert {total for title, done, total in steps} == {6}
    assert all(re.fullmatch(r"\d+\.\d\d fps", line) for line in states) and len(states) == 6
