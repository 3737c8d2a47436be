"""What became of the pictures and films of `upscale`: enlarged, failed or left out, each with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.inference.numbers import Numbers


@dataclass(frozen=True)
class Upscaled:
    """A picture that was written; sizes are (width, height), `tile` and `seam` as in `tiling.Tiled`.

    `precision` and `runtime` are those used for this picture. If they are not the model's own, `psnr_to_exact` is the
    PSNR in dB of its worst sample to that sample as the model was opened.
    """

    source: Path
    output: Path
    lr_size: tuple[int, int]
    sr_size: tuple[int, int]
    tile: int | None
    seam: float | None
    precision: str
    runtime: str
    psnr_to_exact: float | None
    seconds: float


@dataclass(frozen=True)
class UpscaledFilm:
    """A film that was written; sizes are (width, height). `fps` counts the frames of this call, over `seconds`.

    `reused` frames were equal to the one before, and `resumed` ones are those of an earlier call. `precisions` and
    `runtimes` are those of all frames; `psnr_to_exact` is the least PSNR of frames that were not computed as the model
    was opened.
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
    runtimes: tuple[str, ...]
    psnr_to_exact: float | None


@dataclass(frozen=True)
class Failed:
    """A picture or film that was not enlarged, and the reason."""

    source: Path
    reason: str


@dataclass(frozen=True)
class SkippedPicture:
    """A picture or film that was left out on purpose, or a folder with such pictures, and the reason."""

    source: Path
    reason: str
    output_exists: bool = False
    """True if the output exists already, and `skip_existing` keeps it."""


@dataclass(frozen=True)
class Outcomes:
    """What became of some pictures and films."""

    done: Sequence[Upscaled] = ()
    failed: Sequence[Failed] = ()
    skipped: Sequence[SkippedPicture] = ()
    films: Sequence[UpscaledFilm] = ()

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(
            done=(*self.done, *other.done),
            failed=(*self.failed, *other.failed),
            skipped=(*self.skipped, *other.skipped),
            films=(*self.films, *other.films),
        )


@dataclass(frozen=True, kw_only=True)
class UpscaleReport(Outcomes):
    numbers: Numbers
    """The model's precision and quantisation; single pictures may have used a lower precision."""
