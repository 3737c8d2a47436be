"""A film enlarged frame by frame, in segments that outlive a kill: the same command goes on after the last whole one.

Frames are independent of each other, so scene cuts need no care, and a frame equal to the one before takes its output.
Beside the output lies a folder `NAME.part` with the packets of each segment, encoded on its own, and what they were
made with. At the end the packets are joined with the streams that are copied, and the folder is removed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError, report_unwritable
from compressor.base.files import atomic_path, file_sha256, flush_file, lock_file, temporary_files
from compressor.images.suffixes import CONTAINER_OF_SUFFIX
from compressor.inference.background import OneBehind, one_ahead
from compressor.inference.lower_precision import MAX_FRAME_LEVELS, MAX_SAMPLE_LEVELS
from compressor.inference.super_resolve import super_resolve
from compressor.runtimes.base import Runtime
from compressor.video.colours import BT601, BT709, LIMITED, MANY_COLUMNS, MANY_ROWS, RGB, FramePlanes, to_planes
from compressor.video.encoding import (
    CODECS,
    DEFAULT_CRF,
    Encoding,
    SegmentEncoder,
    default_codec,
    output_layout,
    require_codec,
)
from compressor.video.joining import PacketRecord, Segment, join, other_streams
from compressor.video.library import load_av
from compressor.video.reading import Facts, Film, FilmFrame

FRAMES_OF_A_SEGMENT = 120
"""About five seconds: as much as a kill loses at most. Each segment costs a key frame, a few percent of the file."""

FRAMES_OF_A_CHOICE = 12
"""Half a second: so many frames are computed in the precision that the first of them allows."""

PROBE_SIDE, PROBE_VALUES, PROBE_TOLERANCE = 24, 64, 2e-3
"""A model is known by its output for an image of noise: by so many values of it, within a tolerance."""


@dataclass(frozen=True)
class FilmSettings:
    """How films are encoded, and how many frames a segment has. `codec` None: by container and source
    (`encoding.default_codec`).
    """

    codec: str | None = None
    crf: int = DEFAULT_CRF
    segment: int = FRAMES_OF_A_SEGMENT


@dataclass(frozen=True)
class EnlargedFrame:
    """The output of a frame, and how it was computed."""

    rgb: Tensor
    tile: int | None
    precision: str
    psnr_to_exact: float | None


Enlarge: TypeAlias = Callable[[Tensor, int, "int | None"], EnlargedFrame]
"""Takes RGB, its bit depth and, where the precision is to be chosen anew, by how many 8-bit steps values may differ."""


@dataclass(frozen=True)
class UpscaledFilm:
    """A film that was written; sizes are (width, height). `fps` counts the frames of this call, over `seconds`.

    `reused` frames were equal to the one before, and `resumed` ones are those of an earlier call. `precisions` are
    those of all frames; `psnr_to_exact` is the least PSNR of frames in a lower one than the model's.
    """

    source: Path
    output: Path
    lr_size: tuple[int, int]
    sr_size: tuple[int, int]
    frames: int
    reused: int
    resumed: int
    seconds: float
    fps: float
    codec: str
    pixel_format: str
    copied: tuple[str, ...]
    notes: tuple[str, ...]
    precisions: tuple[str, ...]
    psnr_to_exact: float | None


@dataclass(frozen=True)
class _Written:
    """A whole segment, and what its frames were."""

    segment: Segment
    reused: int
    precisions: tuple[str, ...]
    psnr_to_exact: float | None

    @property
    def frames(self) -> int:
        return len(self.segment.packets)


def upscale_film(
    source: Path,
    output: Path,
    runtime: Runtime,
    enlarge: Enlarge,
    settings: FilmSettings,
    made_with: Mapping[str, object],
    context: Context,
) -> UpscaledFilm:
    """Enlarge a film. `made_with` is what else the output depends on."""
    start, suffix, notes = time.perf_counter(), output.suffix.lower(), list[str]()

    def note(line: str) -> None:
        notes.append(line)
        context.note(f"{source.name}: {line}")

    with Film(source) as film, ExitStack() as held:
        facts = film.facts
        codec = settings.codec or default_codec(suffix, facts.codec, facts.layout.bits)
        require_codec(codec, suffix)
        encoding, lines = _encoding(facts, runtime.descriptor.scale, codec, settings.crf)
        streams = other_streams(source, suffix)
        for line in (*facts.notes, *lines, *streams.left_out):
            note(line)
        work = _Work(output.with_name(f"{output.name}.part"))
        held.enter_context(work.held())
        work.begin(_made_with(source, runtime, settings, encoding, made_with))
        whole = work.whole_segments()
        resumed = sum(written.frames for written in whole)
        if resumed:
            context.note(f"{source.name}: goes on after {resumed} frames of an earlier call")
        new = _Enlarging(film, encoding, settings, enlarge, work, context, resumed)
        with closing(one_ahead(film.frames())) as frames:
            # Frames that are done are decoded all the same, as not every container can be entered exactly.
            whole += new.segments(islice(frames, resumed, None), first=len(whole))
        context.progress(source.name, new.done, new.done)
        for line in film.lines:
            note(line)
        with report_unwritable(output):
            for left in temporary_files(output.parent, [output.name]):
                left.unlink(missing_ok=True)
        with atomic_path(output) as temporary:
            join([written.segment for written in whole], encoding, source, streams, temporary, suffix)
        shutil.rmtree(work.folder, ignore_errors=True)
    seconds = time.perf_counter() - start
    total = sum(written.frames for written in whole)
    measured = [written.psnr_to_exact for written in whole if written.psnr_to_exact is not None]
    return UpscaledFilm(
        source,
        output,
        facts.shown_size,
        encoding.size,
        total,
        sum(written.reused for written in whole),
        resumed,
        seconds,
        (total - resumed) / seconds,
        codec,
        encoding.layout.pixel_format,
        streams.copied,
        tuple(notes),
        tuple(sorted({name for written in whole for name in written.precisions})),
        min(measured, default=None),
    )


def _encoding(facts: Facts, scale: int, codec: str, crf: int) -> tuple[Encoding, list[str]]:
    """Return the encoding of a film's output, and what there is to say about it."""
    if crf > CODECS[codec].most_crf:
        raise UsageError(f"--crf {crf}: {codec} takes 0 to {CODECS[codec].most_crf}; lower is better")
    layout, line = output_layout(codec, facts.layout)
    lines = [] if line is None else [line]
    size = (facts.shown_size[0] * scale, facts.shown_size[1] * scale)
    if layout.chroma in ("420", "422"):
        even = (size[0] + size[0] % 2, size[1] + size[1] % 2 if layout.chroma == "420" else size[1])
        if even != size:
            lines.append(f"{even[0]}x{even[1]} in place of {size[0]}x{size[1]}: {layout.pixel_format} needs even sizes")
        size = even
    colours = facts.colours
    if colours.matrix == RGB:
        large = size[0] >= MANY_COLUMNS or size[1] >= MANY_ROWS
        colours = replace(colours, matrix=BT709 if large else BT601, range=LIMITED)
    mastering, light_level = facts.mastering, facts.light_level
    if (mastering or light_level) and codec not in ("h264", "hevc"):
        lines.append(f"{codec} is written without the facts of the mastering display")
        mastering = light_level = ""
    encoding = Encoding(
        codec, crf, size, layout, colours, facts.time_base, facts.rate, facts.shown_aspect, mastering, light_level
    )
    return encoding, lines


def _made_with(
    source: Path, runtime: Runtime, settings: FilmSettings, encoding: Encoding, others: Mapping[str, object]
) -> dict[str, Any]:
    """Return all that the segments depend on, in types of JSON, by the name that a message gives it."""
    av = load_av()
    return {
        "film": file_sha256(source),
        "codec": encoding.codec,
        "crf": encoding.crf,
        "segment": settings.segment,
        **others,
        "runtime": f"{runtime.name} {runtime.device} {runtime.precision}",
        "encoder": {"options": encoding.options(), "av": av.__version__, "size": list(encoding.size)},
        "model": _probe(runtime),
    }


def _probe(runtime: Runtime) -> list[float]:
    """Return some values of the model's output for an image of noise."""
    side = max(PROBE_SIDE, runtime.descriptor.min_size)
    noise = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0))
    values = super_resolve(runtime, noise).sr.flatten()
    return [round(float(value), 5) for value in values[:: values.numel() // PROBE_VALUES]]


def _differs(name: str, before: Any, now: Any) -> bool:
    if name != "model":
        return bool(before != now)
    return len(before) != len(now) or any(abs(a - b) > PROBE_TOLERANCE for a, b in zip(before, now, strict=True))


STATE = "made_with.json"


@dataclass(frozen=True)
class _Work:
    """The folder of a film's segments."""

    folder: Path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Create the folder and hold it: one process at a time fills it.

        It is deleted at the end, and after a failure before its first segment was whole.
        """
        with report_unwritable(self.folder):
            if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / "lock").exists():
                raise SrkdError(
                    f"{self.folder} is where the film's segments would be kept, and holds files of yours: move it "
                    "away, or choose another output"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / "lock", "w")  # noqa: SIM115
        with lock:
            if not lock_file(lock.fileno(), shared=False, wait=False):
                raise SrkdError(
                    f"{self.folder} is in use by another process, which enlarges this film: wait for it, or choose "
                    "another output"
                )
            try:
                yield
            except BaseException:
                with suppress(SrkdError):
                    if not self.whole_segments():
                        shutil.rmtree(self.folder, ignore_errors=True)
                raise

    def begin(self, made_with: dict[str, Any]) -> None:
        """Note what segments are made with, or check that those that are here were made in the same way."""
        if self.whole_segments():
            before = _read_json(self.folder / STATE)
            different = [name for name, value in made_with.items() if _differs(name, before.get(name), value)]
            if different:
                raise SrkdError(
                    f"{self.folder} holds segments of an earlier call with another {' and '.join(different)}: delete "
                    "this folder to begin anew, or repeat the command as it was"
                )
        else:
            _write_json(self.folder / STATE, made_with)

    def whole_segments(self) -> list[_Written]:
        """Return the segments that are whole, from the first on."""
        found: list[_Written] = []
        while (facts := self.folder / f"{len(found):05d}.json").exists():
            found.append(_written_of(_read_json(facts), self.packets(len(found))))
        return found

    def packets(self, number: int) -> Path:
        return self.folder / f"{number:05d}.packets"

    def finish(self, number: int, written: _Written) -> None:
        """Mark a segment as whole, once its packets are on the disk."""
        segment = written.segment
        _write_json(
            self.folder / f"{number:05d}.json",
            {
                "header": segment.header.hex(),
                "packets": [[record.pts, record.length, record.is_key] for record in segment.packets],
                "durations": segment.durations,
                "reused": written.reused,
                "precisions": written.precisions,
                "psnr_to_exact": written.psnr_to_exact,
            },
        )


def _written_of(facts: dict[str, Any], packets: Path) -> _Written:
    records, start = list[PacketRecord](), 0
    for pts, length, is_key in facts["packets"]:
        records.append(PacketRecord(pts, start, length, is_key))
        start += length
    segment = Segment(packets, bytes.fromhex(facts["header"]), tuple(records), tuple(facts["durations"]))
    return _Written(segment, facts["reused"], tuple(facts["precisions"]), facts["psnr_to_exact"])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(content, dict)
    except (OSError, ValueError, AssertionError) as error:
        raise SrkdError(f"{path} cannot be read: delete the folder {path.parent.name} to begin anew") from error
    return content


def _write_json(path: Path, content: object) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


@dataclass
class _Enlarging:
    """The frames of one call: computed here, converted and encoded one behind in another thread."""

    film: Film
    encoding: Encoding
    settings: FilmSettings
    enlarge: Enlarge
    work: _Work
    context: Context
    done: int
    """Frames so far, those of earlier calls included."""

    def segments(self, frames: Iterator[FilmFrame], first: int) -> list[_Written]:
        """Enlarge the frames; return the segments that they fill, of which the first has a number."""
        written: list[_Written] = []
        begun, before = time.monotonic(), self.done
        for group in _groups(frames, self.settings.segment):
            number = first + len(written)
            with report_unwritable(self.work.packets(number)):
                written.append(self._segment(group, number, lambda: self._report(begun, before)))
                self.work.finish(number, written[-1])
        return written

    def _segment(self, frames: Iterator[FilmFrame], number: int, report: Callable[[], None]) -> _Written:
        last: FilmFrame | None = None
        reused, durations, outputs = 0, list[int](), list[EnlargedFrame]()
        choose_at, max_levels = 0, MAX_SAMPLE_LEVELS if self.encoding.is_lossless else MAX_FRAME_LEVELS
        path, facts = self.work.packets(number), self.film.facts
        with open(path, "wb") as file, OneBehind() as behind:
            writer = _PacketWriter(SegmentEncoder(self.encoding), file)
            planes: Future[FramePlanes] | None = None
            for frame in frames:
                if planes is not None and frame.equals(last):
                    reused += 1
                    planes = behind.submit(partial(writer.add_again, planes, frame.pts))
                else:
                    # By the number in the segment: a film that is continued is the film of one call.
                    is_due = len(durations) >= choose_at
                    choose_at = len(durations) + FRAMES_OF_A_CHOICE if is_due else choose_at
                    output = self.enlarge(facts.rgb(frame), facts.layout.bits, max_levels if is_due else None)
                    planes = behind.submit(partial(writer.add, output.rgb, frame.pts))
                    outputs.append(replace(output, rgb=torch.empty(0)))
                last = frame
                durations.append(frame.duration)
                self.done += 1
                report()
            behind.finish()
            writer.end()
        flush_file(path)
        segment = Segment(path, writer.encoder.header, tuple(writer.records), tuple(durations))
        measured = [output.psnr_to_exact for output in outputs if output.psnr_to_exact is not None]
        precisions = tuple(sorted({output.precision for output in outputs}))
        return _Written(segment, reused, precisions, min(measured, default=None))

    def _report(self, begun: float, before: int) -> None:
        # The headers of a film may tell fewer frames than there are, or none.
        stated = self.film.facts.frames
        total = stated if stated >= self.done else self.done + 1
        self.context.progress(self.film.path.name, self.done, total)
        if self.context.status is not None:
            fps = (self.done - before) / max(time.monotonic() - begun, 1e-9)
            self.context.status(f"{fps:.2f} fps", (total - self.done) / fps)


@dataclass
class _PacketWriter:
    """Encodes frames and appends their packets to a file."""

    encoder: SegmentEncoder
    file: Any

    def __post_init__(self) -> None:
        self.records: list[PacketRecord] = []
        self._position = 0

    def add(self, rgb: Tensor, pts: int) -> FramePlanes:
        """Convert and encode an output; return its planes."""
        encoding = self.encoder.encoding
        width, height = encoding.size
        more = (0, width - rgb.shape[-1], 0, height - rgb.shape[-2])
        planes = to_planes(pad(rgb, more, mode="replicate") if any(more) else rgb, encoding.layout, encoding.colours)
        self._write(self.encoder.add(planes, pts))
        return planes

    def add_again(self, planes: Future[FramePlanes], pts: int) -> FramePlanes:
        """Encode the planes of the frame before once more."""
        again = planes.result()
        self._write(self.encoder.add(again, pts))
        return again

    def end(self) -> None:
        self._write(self.encoder.end())

    def _write(self, packets: Iterator[Any]) -> None:
        for packet in packets:
            content = bytes(packet)
            self.file.write(content)
            self.records.append(PacketRecord(packet.pts, self._position, len(content), packet.is_keyframe))
            self._position += len(content)


def _groups(frames: Iterator[FilmFrame], size: int) -> Iterator[Iterator[FilmFrame]]:
    """Yield iterators over so many frames each, the last over the rest; each is to be used up before the next."""
    for first in frames:
        yield chain([first], islice(frames, size - 1))


def film_suffix(source: Path) -> str:
    """Return the suffix of a film's output beside its source: the same if it is written, else .mkv, which holds all."""
    return source.suffix if source.suffix.lower() in CONTAINER_OF_SUFFIX else ".mkv"
