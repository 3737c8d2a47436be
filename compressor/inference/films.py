"""A film enlarged frame by frame, in segments that outlive a kill: the same command goes on after the last whole one.

Beside the output lies a folder `NAME.part` with the packets of each segment and what they were made with. At the end
they are joined with the streams that are copied, and the folder is removed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError, report_unwritable
from compressor.base.files import atomic_path, file_sha256, temporary_files, write_text
from compressor.base.locks import hold_lock
from compressor.inference.background import OneBehind, one_ahead
from compressor.inference.runtime_choice import MAX_FRAME_LEVELS, MAX_SAMPLE_LEVELS, RuntimeChoice, Selected
from compressor.inference.super_resolve import super_resolve
from compressor.inference.upscale_outputs import Job, UpscaleSettings, require_size
from compressor.inference.upscale_report import UpscaledFilm
from compressor.runtimes.base import Runtime
from compressor.video.library import load_av
from compressor.video.reading import Film, FilmFrame
from compressor.video.writing import Encoding, SegmentWriter, encoding_of, join, other_streams

FRAMES_OF_A_CHOICE = 24
"""A second: so many frames are computed in the precision that the first of them allows."""

PROBE_SIDE, PROBE_VALUES, PROBE_TOLERANCE = 24, 64, 2e-3
"""A model is known by its output for an image of noise: by so many values of it, within a tolerance."""

STATE, LOCK = "made_with.json", "lock"


@dataclass
class _Segment:
    """What became of a segment's frames, as the JSON file of a whole one holds it."""

    frames: int = 0
    reused: int = 0
    precisions: list[str] = field(default_factory=list)
    runtimes: list[str] = field(default_factory=list)
    psnr_to_exact: float | None = None

    def add(self, used: Selected) -> None:
        """Count what a frame was computed with."""
        self.precisions = sorted({*self.precisions, used.runtime.precision})
        self.runtimes = sorted({*self.runtimes, used.runtime.name})
        if used.psnr_to_exact is not None:
            self.psnr_to_exact = min(used.psnr_to_exact, self.psnr_to_exact or used.psnr_to_exact)


def upscale_film(job: Job, choice: RuntimeChoice, settings: UpscaleSettings, context: Context) -> UpscaledFilm:
    """Enlarge the rest of a film in segments, and join them with those of an earlier call."""
    start, scale, output = time.perf_counter(), choice.runtime.descriptor.scale, job.output
    folder = output.with_name(f"{output.name}.part")
    with Film(job.source) as film:
        require_size(job.source, *film.facts.size, scale)
        encoding, lines = encoding_of(film.facts, scale, output.suffix.lower(), settings.codec, settings.crf)
        copied, left_out = other_streams(job.source, output.suffix.lower())
        notes = [*film.facts.notes, *lines, *left_out]
        _note(context, job, notes)
        with _held(folder):
            segments = _whole_segments(folder, _made_with(job, encoding, choice.runtime, settings))
            resumed = sum(segment.frames for segment in segments)
            if resumed:
                _note(context, job, [f"goes on after {resumed} frames of an earlier call"])
            rest = _Rest(film, encoding, choice, settings, context, resumed)
            segments += rest.enlarge_into(folder, len(segments))
            _note(context, job, film.lines)
            with report_unwritable(output):
                for left in temporary_files(output.parent, [output.name]):
                    left.unlink(missing_ok=True)
            with atomic_path(output) as temporary:
                files = [_packets(folder, number) for number in range(len(segments))]
                join(files, encoding, job.source, copied, temporary)
            _remove_segments(folder)
    seconds = time.perf_counter() - start
    measured = [segment.psnr_to_exact for segment in segments if segment.psnr_to_exact is not None]
    return UpscaledFilm(
        job.source,
        output,
        film.facts.size,
        encoding.size,
        rest.done,
        sum(segment.reused for segment in segments),
        resumed,
        seconds,
        (rest.done - resumed) / seconds,
        encoding.codec,
        encoding.pixel_format,
        tuple(copied.values()),
        (*notes, *film.lines),
        _all_names(segment.precisions for segment in segments),
        _all_names(segment.runtimes for segment in segments),
        min(measured, default=None),
    )


def _all_names(lists: Iterable[list[str]]) -> tuple[str, ...]:
    return tuple(sorted({name for names in lists for name in names}))


def _note(context: Context, job: Job, lines: Iterable[str]) -> None:
    for line in lines:
        context.note(f"{job.source.name}: {line}")


@dataclass
class _Rest:
    """The frames of one call: computed here, converted and encoded one behind in another thread."""

    film: Film
    encoding: Encoding
    choice: RuntimeChoice
    settings: UpscaleSettings
    context: Context
    done: int
    """Frames so far, those of earlier calls included."""

    def __post_init__(self) -> None:
        self._begun, self._before = time.monotonic(), self.done

    def enlarge_into(self, folder: Path, first: int) -> list[_Segment]:
        segments = list[_Segment]()
        # Frames that are done are decoded all the same, as not every container can be entered exactly.
        with one_ahead(self.film.frames(start=self.done)) as futures:
            frames = (future.result() for future in futures)
            for frame in frames:
                number = first + len(segments)
                with atomic_path(_packets(folder, number)) as path:
                    segment = self._segment(chain([frame], islice(frames, self.settings.segment - 1)), path)
                write_text(_facts(folder, number), json.dumps(asdict(segment)))
                segments.append(segment)
        self.context.progress(self.film.path.name, self.done, self.done)
        return segments

    def _segment(self, frames: Iterator[FilmFrame], path: Path) -> _Segment:
        segment, selected = _Segment(), Selected(self.choice.runtime)
        settings, bits = self.settings, 8 if self.film.facts.bits == 8 else 16
        last: FilmFrame | None = None
        choose_at, max_levels = 0, MAX_SAMPLE_LEVELS if self.encoding.is_lossless else MAX_FRAME_LEVELS
        with open(path, "wb") as file, OneBehind() as behind:
            writer = SegmentWriter(self.encoding, file)
            for number, frame in enumerate(frames):
                rgb = None
                if last is not None and torch.equal(frame.rgb, last.rgb):
                    segment.reused += 1
                else:
                    # By the number in the segment: a film that is continued is the film of one call.
                    if number >= choose_at:
                        choose_at = number + FRAMES_OF_A_CHOICE
                        ahead = self.film.facts.frames - self.done - FRAMES_OF_A_CHOICE
                        selected = self.choice.select(
                            frame.rgb, bits=bits, pictures=FRAMES_OF_A_CHOICE, ahead=ahead, max_levels=max_levels
                        )
                    rgb = super_resolve(
                        selected.runtime,
                        frame.rgb,
                        tile=settings.tile,
                        overlap=settings.overlap,
                        self_ensemble=settings.self_ensemble,
                    ).sr
                    segment.add(selected)
                behind.submit(partial(writer.add, rgb, frame.pts))
                last = frame
                segment.frames += 1
                self.done += 1
                self._report()
            behind.finish()
            writer.end()
        return segment

    def _report(self) -> None:
        # The headers of a film may tell fewer frames than there are, or none.
        total = max(self.film.facts.frames, self.done)
        self.context.progress(self.film.path.name, self.done, total)
        if self.context.status is not None:
            fps = (self.done - self._before) / max(time.monotonic() - self._begun, 1e-9)
            self.context.status(f"{fps:.2f} fps", (total - self.done) / fps)


def _made_with(job: Job, encoding: Encoding, runtime: Runtime, settings: UpscaleSettings) -> dict[str, Any]:
    """Return all that the frames of a segment depend on."""
    # The model shows in some values of its output for an image of noise.
    side = max(PROBE_SIDE, runtime.descriptor.min_size)
    noise = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0))
    values = super_resolve(runtime, noise).sr.flatten()
    some = values[:: values.numel() // PROBE_VALUES][:PROBE_VALUES]
    names = ("segment", "tile", "overlap", "self_ensemble", "exact")
    return {
        "film": file_sha256(job.source),
        "codec": encoding.codec,
        "crf": encoding.crf,
        **{name.replace("_", "-"): getattr(settings, name) for name in names},
        "runtime": f"{runtime.name} {runtime.device} {runtime.precision}",
        "encoder": [load_av().__version__, repr(encoding)],
        "model": [round(float(value), 5) for value in some],
    }


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Create the folder and hold it: one process at a time fills it. Without a whole segment it does not stay."""
    with report_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold_lock(folder / LOCK):
            try:
                yield
            finally:
                if not _facts(folder, 0).exists():
                    _remove_segments(folder)
    finally:
        with suppress(OSError):  # it holds segments, or files of the user's
            folder.rmdir()


def _whole_segments(folder: Path, made_with: dict[str, Any]) -> list[_Segment]:
    """Return the segments that are there; check that they were made in the same way."""
    segments = list[_Segment]()
    if not _facts(folder, 0).exists():
        write_text(folder / STATE, json.dumps(made_with))
        return segments
    before = _read_json(folder / STATE)
    different = [name for name, value in made_with.items() if name != "model" and before.get(name) != value]
    if not np.allclose(before["model"], made_with["model"], rtol=0, atol=PROBE_TOLERANCE):
        different.append("model")
    if different:
        raise SrkdError(
            f"{folder} holds segments of an earlier call with another {' and '.join(different)}: delete "
            "this folder to begin anew, or repeat the command as it was"
        )
    while (facts := _facts(folder, len(segments))).exists():
        segments.append(_Segment(**_read_json(facts)))
    return segments


def _remove_segments(folder: Path) -> None:
    for file in folder.iterdir():
        if file.suffix in (".packets", ".json"):
            file.unlink()


def _packets(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.packets"


def _facts(folder: Path, number: int) -> Path:
    """The file that marks a segment as whole."""
    return folder / f"{number:05d}.json"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SrkdError(f"{path} cannot be read: delete the folder {path.parent.name} to begin anew") from error
