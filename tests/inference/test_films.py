"""Films in, films out: frames, times, colours, other streams, and what happens when something is wrong."""

from __future__ import annotations

import fcntl
import re
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.base.choices import FilmCodec
from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.images.files import Picture, write_picture
from compressor.inference.films import UpscaledFilm
from compressor.inference.upscale import UpscaleReport, UpscaleSettings, upscale
from compressor.models.networks.base import Descriptor
from compressor.video.colours import FULL, LIMITED, Colours, Layout
from compressor.video.encoding import CODECS
from compressor.video.joining import decoding_times, packet_of
from compressor.video.reading import Film, FilmFrame, is_cover
from tests.support.commands import ROOT
from tests.support.fakes import Fake, nearest, nearest_model
from tests.support.films import frames_of, make_film, packets_of, picture, remux, require_av, streams_of

require_av()


def enlarge(source: Path, scale: int = 2, **settings: object) -> UpscaledFilm:
    """Enlarge a film by repeating pixels."""
    report = upscale([source], nearest_model(scale), UpscaleSettings(**settings))  # type: ignore[arg-type]
    assert report.failed == ()
    return report.films[0]


def reason(report: UpscaleReport) -> str:
    (failed,) = report.failed
    assert "\n" not in failed.reason
    return failed.reason


def largest_difference(source: Path, output: Path, scale: int = 2) -> float:
    """Return the largest mean difference in [0,1] of a frame to the source's with repeated pixels."""
    with Film(source) as before, Film(output) as after:
        pairs = list(zip(before.frames(), after.frames(), strict=True))
        return max(
            float((nearest(scale)(before.facts.rgb(one)) - after.facts.rgb(other)).abs().mean()) for one, other in pairs
        )


def test_frames_times_sound_and_subtitles(tmp_path: Path) -> None:
    source = make_film(
        tmp_path / "film.mp4",
        [picture(number) for number in range(12)],
        codec="h264",
        pixel_aspect=Fraction(4, 3),
        sound_seconds=0.5,
        subtitles=("Hello", "World"),
    )
    done = enlarge(source)
    assert done.output == tmp_path / "film_x2.mp4" and not (tmp_path / "film_x2.mp4.part").exists()
    assert (done.frames, done.reused, done.resumed, done.lr_size, done.sr_size) == (12, 0, 0, (64, 48), (128, 96))
    assert streams_of(done.output) == streams_of(source)
    assert [frame.pts for frame in frames_of(done.output)] == [frame.pts for frame in frames_of(source)]
    for kind in ("audio", "subtitle"):
        assert packets_of(done.output, kind) == packets_of(source, kind)
    with Film(source) as before, Film(done.output) as after:
        assert after.facts.time_base == before.facts.time_base == Fraction(1, 24000)
        assert after.facts.pixel_aspect == Fraction(4, 3) and after.facts.colours == before.facts.colours
    assert largest_difference(source, done.output) < 3 / 255


def test_ten_seconds_at_the_rate_of_cinema(tmp_path: Path) -> None:
    pictures = [picture(number % 7, (32, 24)) for number in range(240)]
    source = make_film(tmp_path / "film.mp4", pictures, codec="h264", sound_seconds=10)
    done = enlarge(source, crf=30)
    before, after = frames_of(source), frames_of(done.output)
    assert [frame.pts for frame in after] == [number * 1001 for number in range(240)]
    assert [frame.duration for frame in after] == [frame.duration for frame in before]
    assert packets_of(done.output, "audio") == packets_of(source, "audio")


def test_variable_rates_and_a_late_start_hold(tmp_path: Path) -> None:
    times = [12000, 12500, 14000, 14001, 20000, 21000, 33333]
    source = make_film(tmp_path / "film.mp4", [picture(number) for number in range(7)], times, codec="h264")
    assert [frame.pts for frame in frames_of(source)] == times
    assert [frame.pts for frame in frames_of(enlarge(source).output)] == times


def test_a_broadcast_keeps_its_times_to_the_tick(tmp_path: Path) -> None:
    """A transport stream begins late, in ticks of 1/90000 s, and its sound has headers that mp4 does not take."""
    film = make_film(tmp_path / "film.mp4", [picture(number) for number in range(12)], codec="h264", sound_seconds=0.5)
    source = remux(film, tmp_path / "film.ts")
    done = enlarge(source, output=tmp_path / "large.mp4")
    before, after = frames_of(source), frames_of(done.output)
    assert before[0].pts > 0 and [frame.pts for frame in after] == [frame.pts for frame in before]
    assert len(packets_of(done.output, "audio")) == len(packets_of(source, "audio"))
    assert abs(packets_of(done.output, "audio")[0][1] - packets_of(source, "audio")[0][1]) < Fraction(1, 44100)
    assert enlarge(source).output.suffix == ".mkv"


@pytest.mark.parametrize(
    ("layout", "colours", "codec"),
    [
        (Layout("420", 8), Colours(6, FULL, 6, 6), "h264"),
        (Layout("444", 8), Colours(1, LIMITED, 1, 1), "h264"),
        (Layout("422", 8), Colours(5, LIMITED, 5, 6), "h264"),
        (Layout("420", 10), Colours(1, LIMITED, 1, 1), "hevc"),
        (Layout("420", 10), Colours(9, LIMITED, 9, 16), "hevc"),
    ],
)
def test_depth_chroma_and_colours_stay(tmp_path: Path, layout: Layout, colours: Colours, codec: str) -> None:
    source = make_film(tmp_path / "film.mkv", [picture(1), picture(2)], layout=layout, colours=colours)
    done = enlarge(source)
    assert done.codec == codec and done.pixel_format == layout.pixel_format and done.notes == ()
    with Film(done.output) as film:
        assert (film.facts.layout, film.facts.colours) == (layout, colours)
    assert largest_difference(source, done.output) < 2 / 255


def test_ten_bits_are_not_rounded_to_eight(tmp_path: Path) -> None:
    ramp = torch.linspace(0.4, 0.45, 64).expand(1, 3, 48, 64)
    source = make_film(tmp_path / "film.mkv", [ramp], layout=Layout("420", 10))
    done = enlarge(source, codec="ffv1")
    (luma, *_), (before, *_) = frames_of(done.output)[0].planes, frames_of(source)[0].planes
    assert len(np.unique(before % 4)) == 4 and np.array_equal(luma, before.repeat(2, 0).repeat(2, 1))


def test_lossless_frames_are_those_of_the_network(tmp_path: Path) -> None:
    source = make_film(tmp_path / "film.mkv", [picture(number) for number in range(3)], layout=Layout("444", 8))
    done = enlarge(source, codec="ffv1")
    for before, after in zip(frames_of(source), frames_of(done.output), strict=True):
        for one, other in zip(before.planes, after.planes, strict=True):
            assert np.abs(one.repeat(2, 0).repeat(2, 1).astype(int) - other).max() <= 1


def test_equal_frames_are_computed_once(tmp_path: Path) -> None:
    shown = [0, 0, 0, 1, 1, 0, 2]
    source = make_film(tmp_path / "film.mkv", [picture(number) for number in shown])
    model = nearest_model(2)
    report = upscale([source], model, UpscaleSettings(codec="ffv1"))
    assert (report.films[0].reused, report.films[0].frames) == (3, 7)
    assert len([size for size in model.inputs if size[-2:] == (48, 64)]) == 4
    assert largest_difference(source, report.films[0].output) < 2 / 255


def test_a_matrix_that_is_not_stated_is_told_and_written(tmp_path: Path) -> None:
    source = make_film(tmp_path / "film.mkv", [picture(1)], colours=Colours(2, LIMITED))
    done = enlarge(source)
    assert done.notes == ("its colour matrix is not stated: taken as BT.601, by its size, as players do",)
    with Film(done.output) as film:
        assert film.facts.colours.matrix == 6


def test_a_turned_film_is_written_as_it_is_shown(tmp_path: Path) -> None:
    """The matrix of a phone held upright, in the header of the track: a quarter turn clockwise."""
    source = make_film(tmp_path / "film.mp4", [picture(1)], codec="h264", pixel_aspect=Fraction(4, 3))
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 16
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    source.write_bytes(content)
    done = enlarge(source)
    assert (done.lr_size, done.sr_size) == ((48, 64), (96, 128))
    with Film(source) as before, Film(done.output) as after:
        assert (before.facts.turns, after.facts.turns) == (3, 0) and after.facts.pixel_aspect == Fraction(3, 4)
        upright = torch.rot90(picture(1), -1, (-2, -1))  # clockwise
        assert float((before.facts.rgb(next(before.frames())) - upright).abs().mean()) < 3 / 255
    assert largest_difference(source, done.output) < 2 / 255


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((-1, 0, 0, 1), lambda frame: frame.flip(-1)),
        ((1, 0, 0, -1), lambda frame: frame.flip(-2)),
        ((-1, 0, 0, -1), lambda frame: frame.flip(-2, -1)),
        ((0, 1, 1, 0), lambda frame: frame.transpose(-2, -1)),
        ((0, -1, -1, 0), lambda frame: frame.transpose(-2, -1).flip(-2, -1)),
    ],
)
def test_a_mirrored_film_is_written_as_it_is_shown(
    tmp_path: Path, matrix: tuple[int, ...], shown: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """A pixel at (x, y) is shown at (ax + cy, bx + dy): a, b, c and d of the header of the track."""
    source = make_film(tmp_path / "film.mp4", [picture(1)], codec="h264")
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 16
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    source.write_bytes(content)
    with Film(source) as film:
        assert film.facts.notes == ()
        assert float((film.facts.rgb(next(film.frames())) - shown(picture(1))).abs().mean()) < 3 / 255
    assert largest_difference(source, enlarge(source).output) < 2 / 255


def test_a_film_of_floats_is_one_line_and_stops_no_other(tmp_path: Path) -> None:
    av, other = require_av(), make_film(tmp_path / "other.mkv", [picture(1)])
    with av.open(str(tmp_path / "floats.mov"), "w") as container:
        stream = container.add_stream("exr", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gbrpf32le"
        container.mux(stream.encode(av.VideoFrame(64, 48, "rgb24").reformat(format="gbrpf32le")))
        container.mux(stream.encode())
    report = upscale([tmp_path / "floats.mov", other], nearest_model(2))
    (failed,) = report.failed
    assert failed.reason.endswith("its frames are floats (gbrpf32le), and 8 to 16 bits are read: convert it")
    assert [film.source for film in report.films] == [other]


def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path: Path) -> None:
    film = Film(tmp_path / "film.mp4")
    film._stream = SimpleNamespace(frames=20)
    film.read, film.hidden = 15, 5
    assert film.lines == ()
    film.hidden = 0
    assert film.lines == ("it ends early: 15 of the 20 frames that its headers tell",)


def test_an_encoder_that_does_not_start_leaves_nothing(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(1)[..., :4, :4]])
    failed = reason(upscale([film], nearest_model(2), UpscaleSettings(codec="hevc")))
    assert "libx265 does not start" in failed
    assert [path.name for path in tmp_path.iterdir()] == ["film.mkv"]


def test_odd_sizes_gain_a_row_and_a_column(tmp_path: Path) -> None:
    """4:2:0 has no odd ones; 4:4:4 does."""
    source = make_film(tmp_path / "film.mkv", [picture(1, (33, 25))], layout=Layout("444", 8))
    assert enlarge(source, 3).sr_size == (99, 75)
    av, grey = require_av(), np.random.default_rng(0).integers(16, 236, (25, 33), np.uint8)
    with av.open(str(tmp_path / "grey.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25, width=33, height=25, pix_fmt="gray")
        out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray")))
        out.mux(stream.encode())
    done = enlarge(tmp_path / "grey.mkv", 3, codec="ffv1")
    assert done.sr_size == (100, 76) and "100x76 in place of 99x75: yuv420p needs even sizes" in done.notes
    luma, blue, red = frames_of(done.output)[0].planes
    assert np.array_equal(luma[:75, :99], grey.repeat(3, 0).repeat(3, 1)) and np.array_equal(luma[75], luma[74])
    assert set(blue.ravel().tolist()) == set(red.ravel().tolist()) == {128}


def test_the_mastering_display_of_hdr_is_kept(tmp_path: Path) -> None:
    mastering, light = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)", "1000,400"
    hdr = {"layout": Layout("420", 10), "colours": Colours(9, LIMITED, 9, 16), "codec": "hevc"}
    source = make_film(tmp_path / "film.mp4", [picture(1)], **hdr, mastering=mastering, light_level=light)  # type: ignore[arg-type]
    with Film(source) as before, Film(enlarge(source).output) as after:
        assert (before.facts.mastering, before.facts.light_level) == (mastering, light)
        assert (after.facts.mastering, after.facts.light_level) == (mastering, light)
    done = enlarge(source, output=tmp_path / "out.mkv", codec="ffv1")
    assert done.notes == ("ffv1 is written without the facts of the mastering display",)


def test_interlaced_and_transparent_films_are_told(tmp_path: Path) -> None:
    av, frames = require_av(), {"fields.mkv": ("yuv420p", {"flags": "+ildct"}), "alpha.mkv": ("yuva420p", {})}
    for name, (pixel_format, options) in frames.items():
        with av.open(str(tmp_path / name), "w") as out:
            codec = "mpeg2video" if options else "ffv1"
            stream = out.add_stream(codec, rate=25, width=64, height=48, pix_fmt=pixel_format, options=options)
            frame = av.VideoFrame(64, 48, pixel_format)
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            out.mux(stream.encode(frame))
            out.mux(stream.encode())
    assert "its transparency is left out" in enlarge(tmp_path / "alpha.mkv").notes
    assert any("it is interlaced" in line for line in enlarge(tmp_path / "fields.mkv").notes)


def test_a_cover_is_copied_and_is_not_the_film(tmp_path: Path) -> None:
    av, film = require_av(), make_film(tmp_path / "film.mp4", [picture(number) for number in range(3)], codec="h264")
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
    with require_av().open(str(enlarge(film, codec="hevc").output)) as written:
        assert written.streams.video[0].codec_context.codec_tag == "hvc1"


def test_a_stream_that_the_container_does_not_take_is_named(tmp_path: Path) -> None:
    source = make_film(tmp_path / "film.mp4", [picture(1)], codec="h264", sound_seconds=0.1, subtitles=("Hello",))
    done = enlarge(source, output=tmp_path / "out.mkv")
    assert done.copied == ("audio stream 1 (aac, fin)",)
    assert done.notes == ("subtitle stream 2 (mov_text, swe) is left out: matroska does not take it",)
    assert enlarge(source, output=tmp_path / "out.webm").codec == "vp9"


def test_films_stand_beside_pictures(tmp_path: Path) -> None:
    film = make_film(tmp_path / "in" / "film.avi", [picture(1)])
    write_picture(Picture(picture(2)[0]), tmp_path / "in" / "photo.png")
    report = upscale([tmp_path / "in"], nearest_model(2), UpscaleSettings(output=tmp_path / "out"))
    assert [done.source.name for done in report.done] == ["photo.png"] and report.films == ()
    assert [(left.source, left.reason) for left in report.skipped] == [
        (film, "a film in a folder is not enlarged: name it too")
    ]
    report = upscale([tmp_path / "in", film], nearest_model(2), UpscaleSettings(output=tmp_path / "all"))
    assert [done.output.name for done in report.films] == ["film_x2.mkv"] and len(report.done) == 1
    again = upscale([film], nearest_model(2), UpscaleSettings(output=tmp_path / "all"))
    assert "--overwrite replaces it, --skip-existing leaves it alone" in reason(again)
    kept = upscale([film], nearest_model(2), UpscaleSettings(output=tmp_path / "all", skip_existing=True))
    assert [left.output_exists for left in kept.skipped] == [True]
    (large,) = (done.output for done in report.films)
    itself = UpscaleSettings(output=large, overwrite=True)
    assert "is one of the inputs" in reason(upscale([large], nearest_model(2), itself))


@pytest.mark.parametrize(
    ("out", "error"),
    [("out.png", "out.png is a picture, and the input a film"), ("out.avi", ".avi is not written, choose one of")],
)
def test_the_output_of_a_film_is_a_film(tmp_path: Path, out: str, error: str) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(1)])
    with pytest.raises(UsageError, match=error):
        upscale([film], nearest_model(2), UpscaleSettings(output=tmp_path / out))


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(number) for number in range(9)], sound_seconds=0.5)
    av = require_av()
    with av.open(str(tmp_path / "sound.mp4"), "w") as out, av.open(str(film)) as source:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = film.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: whole.index(b"matroska") + 100])
    expected = {
        "sound.mp4": "holds no film, only audio",
        "text.mp4": "cannot be read as a film: Invalid data",
        "empty.mp4": "cannot be read as a film",
        "cut.mkv": "cannot be read as a film|holds no frames",
    }
    for name, error in expected.items():
        assert re.search(error, reason(upscale([tmp_path / name], nearest_model(2)))), name
        assert not list(tmp_path.glob("*.part"))
    assert "frames" in reason(upscale([without_frames(film, tmp_path / "none.mkv")], nearest_model(2)))


def without_frames(film: Path, path: Path) -> Path:
    """Write a film with its headers and sound, and no frame."""
    av = require_av()
    with av.open(str(path), "w") as out, av.open(str(film)) as source:
        streams = {stream.index: out.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None and packet.stream.type == "audio":
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    return path


def test_a_damaged_film_gives_what_can_be_read(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(number) for number in range(9)])
    av, damaged = require_av(), tmp_path / "damaged.mkv"
    with av.open(str(film)) as source, av.open(str(damaged), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        for number, packet in enumerate(source.demux()):
            if packet.size:
                written = packet_of(bytes(range(256))) if number in (4, 5) else packet
                written.pts, written.dts, written.time_base = packet.pts, packet.dts, packet.time_base
                written.stream = stream
                out.mux(written)
    done = enlarge(damaged)
    assert done.frames == 7 and done.notes == ("2 damaged packets gave no frame, the first after frame 4",)
    kept = [frame.pts for number, frame in enumerate(frames_of(film)) if number not in (4, 5)]
    assert [frame.pts for frame in frames_of(done.output)] == kept


def test_a_film_that_ends_early_is_told(tmp_path: Path) -> None:
    """As a download that was broken off, with its index in front."""
    film = make_film(tmp_path / "film.mp4", [picture(number) for number in range(20)], codec="h264")
    front = remux(film, tmp_path / "front.mp4", movflags="faststart")
    assert enlarge(front).notes == ()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(front.read_bytes()[: front.stat().st_size * 2 // 3])
    done = enlarge(cut)
    assert 0 < done.frames < 19
    assert any(re.fullmatch(rf"it ends early: {done.frames} of the 20 frames .*", line) for line in done.notes)


def test_the_option_names_every_codec_that_is_written() -> None:
    assert get_args(FilmCodec) == tuple(CODECS)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"codec": "h265"}, r"--codec h265 is not written by this PyAV: did you mean '.*'\? there are h264, hevc"),
        ({"codec": "ffv1", "output": "out.mp4"}, "--codec ffv1: .mp4 does not hold it; write .mkv"),
        ({"codec": "h264", "output": "out.webm"}, "--codec h264: .webm holds vp9 only"),
        ({"codec": "h264", "crf": 60}, "--crf 60: h264 takes 0 to 51"),
    ],
)
def test_codecs_that_cannot_be(tmp_path: Path, settings: dict[str, object], error: str) -> None:
    film = make_film(tmp_path / "film.mkv", [picture(1)])
    if "output" in settings:
        settings = {**settings, "output": tmp_path / str(settings["output"])}
    assert re.search(error, reason(upscale([film], nearest_model(2), UpscaleSettings(**settings))))  # type: ignore[arg-type]


SLOW = """
import sys, time
from io import BytesIO
from pathlib import Path
from compressor.inference.upscale import UpscaleSettings, upscale
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

    with pytest.raises(KeyboardInterrupt):
        upscale(
            [source], Fake(stops, Descriptor(scale=2, receptive_radius=0)), UpscaleSettings(output=output, segment=4)
        )
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
    with open(tmp_path / "large.mkv.part" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failed = upscale([source], nearest_model(2), UpscaleSettings(output=output, segment=4))
        assert "large.mkv.part is in use by another process" in reason(failed)
    done = enlarge(source, output=output, segment=4)
    assert (done.resumed, done.frames) == (8, 12)
    assert output.read_bytes() == enlarge(source, output=tmp_path / "whole.mkv", segment=4).output.read_bytes()


def test_a_folder_of_the_user_where_segments_would_be_is_left_alone(tmp_path: Path) -> None:
    source = make_film(tmp_path / "film.mp4", [picture(0)] * 2, codec="h264")
    notes = tmp_path / "large.mp4.part" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    report = upscale([source], nearest_model(2), UpscaleSettings(output=tmp_path / "large.mp4"))
    assert "holds files of yours" in reason(report) and notes.read_text() == "mine"


def test_a_name_with_a_colon_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_film(tmp_path / "film.mp4", [picture(0)] * 2, codec="h264").rename(tmp_path / "Part: 2.mp4")
    monkeypatch.chdir(tmp_path)
    assert enlarge(Path("Part: 2.mp4"), output=tmp_path / "large.mp4").frames == 2


@pytest.mark.parametrize("limit", ["a segment", "the film"])
def test_a_full_disk_is_one_line_and_loses_no_segment(tmp_path: Path, limit: str) -> None:
    source = make_film(tmp_path / "film.mkv", [picture(number) for number in range(12)])
    whole = enlarge(source, output=tmp_path / "whole.mkv", codec="ffv1", segment=4)
    size = whole.output.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // (6 if limit == "a segment" else 2), before[1]))
    try:
        settings = UpscaleSettings(output=tmp_path / "large.mkv", codec="ffv1", segment=4)
        failed = reason(upscale([source], nearest_model(2), settings))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
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


def test_few_frames_are_held_at_once(tmp_path: Path) -> None:
    """Frames are read one ahead and encoded one behind: the network sees each before the film is read much further."""
    source = make_film(tmp_path / "film.mkv", [picture(number) for number in range(40)])
    ahead, read = list[int](), 0
    frames = Film.frames

    def counted(self: Film) -> Iterator[FilmFrame]:
        nonlocal read
        for frame in frames(self):
            read += 1
            yield frame

    seen = 0

    def look(lr: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        if lr.shape[-1] == 64:
            seen += 1
            ahead.append(read - seen)
        return nearest(2)(lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Film, "frames", counted)
        upscale([source], Fake(look, Descriptor(scale=2, receptive_radius=0)), UpscaleSettings())
    assert seen == 40 and max(ahead) <= 1


@pytest.mark.parametrize("delay", [0, 1, 2, 3])
def test_decoding_times_rise_and_precede_their_frames(delay: int) -> None:
    rng = np.random.default_rng(delay)
    shown = np.cumsum(rng.integers(1, 500, 50)).tolist()
    order = sorted(range(50), key=lambda index: index + rng.uniform(0, delay + 0.5))
    presented = [shown[index] for index in order]
    decoded = decoding_times(presented)
    assert all(first < second for first, second in pairwise(decoded))
    assert all(dts <= pts for dts, pts in zip(decoded, presented, strict=True))
    assert decoding_times([7]) == [7] and decoding_times([3, 5, 9]) == [3, 5, 9]
