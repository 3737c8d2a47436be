"""A film enlarged frame by frame, in segments that outlive a kill: the same command goes on after the last whole one.

Beside the output lies a folder `NAME.part` with the packets of each segment and what they were made with. At the end
they are joined with the streams that are copied, and the folder is removed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from compressor.base.context import Context
from compressor.base.errors import SrkdError, report_unwritable
from compressor.base.files import atomic_path, file_sha256, flush_file, temporary_files
from compressor.base.locks import LockedElsewhere, hold_lock
from compressor.images.suffixes import CONTAINER_OF_SUFFIX
from compressor.inference.background import OneBehind, one_ahead
from compressor.inference.lower_precision import MAX_FRAME_LEVELS, MAX_SAMPLE_LEVELS
from compressor.inference.super_resolve import super_resolve
from compressor.runtimes.base import Runtime
from compressor.video.library import load_av
from compressor.video.reading import Film, FilmFrame
from compressor.video.writing import (
    DEFAULT_CRF,
    Encoding,
    PacketFacts,
    SegmentWriter,
    encoding_of,
    join,
    other_streams,
)

FRAMES_OF_A_SEGMENT = 120
"""About five seconds: as much as a kill loses at most. Each segment costs a key frame, a few percent of the file."""

FRAMES_OF_A_CHOICE = 12
"""Half a second: so many frames are computed in the precision that the first of them allows."""

PROBE_SIDE, PROBE_VALUES, PROBE_TOLERANCE = 24, 64, 2e-3
"""A model is known by its output for an image of noise: by so many values of it, within a tolerance."""


@dataclass(frozen=True)
class EnlargedFrame:
    """The output of a frame, and how it was computed."""

    rgb: Tensor
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
class _WholeSegment:
    """A segment that is whole, as its JSON file holds it."""

    packets: list[PacketFacts]
    frames: int
    reused: int = 0
    precisions: list[str] = field(default_factory=list)
    psnr_to_exact: float | None = None


def upscale_film(
    source: Path,
    output: Path,
    runtime: Runtime,
    enlarge: Enlarge,
    made_with: Mapping[str, object],
    context: Context,
    *,
    codec: str | None = None,
    crf: int = DEFAULT_CRF,
    segment: int = FRAMES_OF_A_SEGMENT,
) -> UpscaledFilm:
    """Enlarge a film into segments of so many frames. `made_with` is what else the output depends on."""
    start, suffix, notes = time.perf_counter(), output.suffix.lower(), list[str]()

    def note(line: str) -> None:
        notes.append(line)
        context.note(f"{source.name}: {line}")

    with Film(source) as film, ExitStack() as held:
        scale = runtime.descriptor.scale
        encoding, lines = encoding_of(film.facts, scale, suffix, codec, crf)
        copied, left_out = other_streams(source, suffix)
        for line in (*film.facts.notes, *lines, *left_out):
            note(line)
        work = _Work(output.with_name(f"{output.name}.part"))
        held.enter_context(work.held())
        parts = work.begin(
            {
                "film": file_sha256(source),
                "codec": encoding.codec,
                "crf": encoding.crf,
                "segment": segment,
                **made_with,
                "runtime": f"{runtime.name} {runtime.device} {runtime.precision}",
                "encoder": [load_av().__version__, repr(encoding)],
                "model": _probe(runtime),
            }
        )
        resumed = sum(part.frames for part in parts)
        if resumed:
            context.note(f"{source.name}: goes on after {resumed} frames of an earlier call")
        new = _Enlarging(film, encoding, enlarge, context, resumed)
        # Frames that are done are decoded all the same, as not every container can be entered exactly.
        with closing(one_ahead(film.frames(start=resumed))) as frames:
            for group in _groups(frames, segment):
                path = work.packets(len(parts))
                with report_unwritable(path):
                    parts.append(new.part(group, path))
                    work.finish(len(parts) - 1, parts[-1])
        context.progress(source.name, new.done, new.done)
        for line in film.lines:
            note(line)
        with report_unwritable(output):
            for left in temporary_files(output.parent, [output.name]):
                left.unlink(missing_ok=True)
        segments = [(work.packets(number), part.packets) for number, part in enumerate(parts)]
        with atomic_path(output) as temporary:
            join(segments, encoding, source, copied, temporary, suffix)
        shutil.rmtree(work.folder, ignore_errors=True)
    seconds = time.perf_counter() - start
    measured = [part.psnr_to_exact for part in parts if part.psnr_to_exact is not None]
    return UpscaledFilm(
        source,
        output,
        film.facts.size,
        encoding.size,
        new.done,
        sum(part.reused for part in parts),
        resumed,
        seconds,
        (new.done - resumed) / seconds,
        encoding.codec,
        encoding.pixel_format,
        tuple(copied.values()),
        tuple(notes),
        tuple(sorted({name for part in parts for name in part.precisions})),
        min(measured, default=None),
    )


def _groups(frames: Iterator[FilmFrame], size: int) -> Iterator[Iterator[FilmFrame]]:
    """Yield iterators over so many frames each, the last over the rest; each is to be used up before the next."""
    for first in frames:
        yield chain([first], islice(frames, size - 1))


@dataclass
class _Enlarging:
    """The frames of one call: computed here, converted and encoded one behind in another thread."""

    film: Film
    encoding: Encoding
    enlarge: Enlarge
    context: Context
    done: int
    """Frames so far, those of earlier calls included."""

    def __post_init__(self) -> None:
        self._begun, self._before = time.monotonic(), self.done

    def part(self, frames: Iterator[FilmFrame], path: Path) -> _WholeSegment:
        """Enlarge some frames into a segment, whose packets are written to `path`."""
        last: FilmFrame | None = None
        reused, precisions, measured = 0, set[str](), list[float]()
        count, choose_at, max_levels = 0, 0, MAX_SAMPLE_LEVELS if self.encoding.is_lossless else MAX_FRAME_LEVELS
        with open(path, "wb") as file, OneBehind() as behind:
            writer = SegmentWriter(self.encoding, file)
            for count, frame in enumerate(frames, start=1):
                rgb: Tensor | None = None
                if frame.equals(last):
                    reused += 1
                else:
                    # By the number in the segment: a film that is continued is the film of one call.
                    is_due = count > choose_at
                    choose_at = count - 1 + FRAMES_OF_A_CHOICE if is_due else choose_at
                    output = self.enlarge(frame.rgb, self.film.facts.bits, max_levels if is_due else None)
                    rgb = output.rgb
                    precisions.add(output.precision)
                    measured += [] if output.psnr_to_exact is None else [output.psnr_to_exact]
                behind.submit(partial(writer.add, rgb, frame.pts))
                last = frame
                self.done += 1
                self._report()
            behind.finish()
            writer.end()
        flush_file(path)
        return _WholeSegment(writer.packets, count, reused, sorted(precisions), min(measured, default=None))

    def _report(self) -> None:
        # The headers of a film may tell fewer frames than there are, or none.
        total = max(self.film.facts.frames, self.done)
        self.context.progress(self.film.path.name, self.done, total)
        if self.context.status is not None:
            fps = (self.done - self._before) / max(time.monotonic() - self._begun, 1e-9)
            self.context.status(f"{fps:.2f} fps", (total - self.done) / fps)


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


STATE, LOCK = "made_with.json", "lock"


@dataclass(frozen=True)
class _Work:
    """The folder of a film's segments."""

    folder: Path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Create the folder and hold it: one process at a time fills it. Without a whole segment it does not stay."""
        is_own = not self.folder.is_dir() or (self.folder / STATE).exists()
        if not is_own and any(file.name != LOCK for file in self.folder.iterdir()):
            raise SrkdError(
                f"{self.folder} is where the film's segments would be kept, and holds files of yours: move it "
                "away, or choose another output"
            )
        with ExitStack() as stack:
            try:
                with report_unwritable(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(hold_lock(self.folder / LOCK))
            except LockedElsewhere as error:
                raise SrkdError(
                    f"{self.folder} is in use by {error.owner}, which enlarges this film: wait for it, or choose "
                    "another output"
                ) from None
            try:
                yield
            finally:
                if not self._facts(0).exists():
                    shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, made_with: dict[str, Any]) -> list[_WholeSegment]:
        """Return the segments that are whole; check that they were made in the same way."""
        state, parts = self.folder / STATE, list[_WholeSegment]()
        if not self._facts(0).exists():
            _write_json(state, made_with)
            return parts
        before = _read_json(state)
        different = [name for name, value in made_with.items() if _differs(name, before.get(name), value)]
        if different:
            raise SrkdError(
                f"{self.folder} holds segments of an earlier call with another {' and '.join(different)}: delete "
                "this folder to begin anew, or repeat the command as it was"
            )
        while (facts := self._facts(len(parts))).exists():
            parts.append(_WholeSegment(**_read_json(facts)))
        return parts

    def packets(self, number: int) -> Path:
        return self.folder / f"{number:05d}.packets"

    def finish(self, number: int, part: _WholeSegment) -> None:
        """Mark a segment as whole, once its packets are on the disk."""
        _write_json(self._facts(number), asdict(part))

    def _facts(self, number: int) -> Path:
        return self.folder / f"{number:05d}.json"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SrkdError(f"{path} cannot be read: delete the folder {path.parent.name} to begin anew") from error


def _write_json(path: Path, content: object) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def film_suffix(source: Path) -> str:
    """Return the suffix of a film's output beside its source: the same if it is written, else .mkv, which holds all."""
    return source.suffix if source.suffix.lower() in CONTAINER_OF_SUFFIX else ".mkv"
