"""Crops of photos by student, teacher and bicubic or the input, chosen by their differences, and maps of these."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from compressor.base.choices import Goal
from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.degradation.chain import Degradation
from compressor.images.files import read_rgb_u8
from compressor.images.looks import MIN_SPECTRUM_SIDE
from compressor.images.metrics import finite_or_none, luma_of, psnr, to_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.scores import EQUAL_DB, LANCZOS, goal_of
from compressor.images.sets import ImagePair
from compressor.inference.evaluated_images import read_stored_lr
from compressor.inference.metric_table import METRICS
from compressor.inference.super_resolve import Enlargement, super_resolve
from compressor.runtimes.base import Runtime

SIDE = 160
"""Side of a crop in pixels of the enlarged image."""
STEPS_A_SIDE = 4
"""Number of windows that begin within one side: the stride is the side divided by this."""
MOST_PHOTOS = 8
LARGEST_SIDE = 256
"""Largest side in LR pixels of the middle part of a photo that is used: a large teacher takes seconds for one."""
MEASURES: tuple[str, ...] = ("psnr", "ssim", "gradient", "sharpness", "overshoot", "spectrum")
"""What is measured of whole images to the teacher's."""
OF_STRENGTH = "strength "
"""Begin of the names of a student's strengths."""
MAP_LEVELS = 32
"""Difference in grey levels of 255 at which a map reaches its last colour."""
MAP_COLOURS = "inferno"
"""Colours from no difference to the largest, which stay in order when printed in grey; report.css shows them, too."""


@dataclass(frozen=True)
class Crop:
    """A square of one photo by each network. `apart_db` is the Y-PSNR between `compared`, None if they are equal."""

    photo: str
    left: int
    top: int
    side: int
    compared: tuple[str, str]
    apart_db: float | None
    goal: Goal
    psnr_y: Mapping[str, float | None]
    """Y-PSNR in dB of each network's crop to the goal's."""
    pictures: Mapping[str, bytes]
    """Lossless WebP pictures by name; the last is the original."""
    difference: bytes
    """PNG of the map of differences between `compared`."""

    @property
    def caption(self) -> str:
        """A line on the crop, such as `butterfly: 31.2 dB apart`."""
        apart = "equal" if self.apart_db is None else f"{self.apart_db:.1f} dB apart"
        return f"{self.photo}: {apart}"


@dataclass(frozen=True)
class _Photo:
    """A photo enlarged by each network, (1,3,H,W) in bytes; the original is the last."""

    name: str
    images: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class _Window:
    photo: _Photo
    left: int
    top: int
    side: int
    difference: float

    def overlaps(self, other: _Window) -> bool:
        apart = max(abs(self.left - other.left), abs(self.top - other.top))
        return self.photo is other.photo and apart < self.side


@dataclass(frozen=True)
class Pictures:
    """The crops of a run, and what was measured of its images to the teacher's: means over photos, by network and name
    of METRICS; empty without a teacher.
    """

    crops: tuple[Crop, ...] = ()
    to_teacher: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    photos: int = 0
    degradation: str | None = None
    """What the inputs suffered, as the student's training images did."""

    @property
    def strengths(self) -> list[str]:
        """The networks of the student's strengths, from faithful to textured."""
        return [name for name in self.crops[0].pictures if name.startswith(OF_STRENGTH)]


def make_pictures(
    pairs: Sequence[ImagePair],
    student: Runtime,
    teacher: Runtime | None,
    context: Context,
    *,
    others: Mapping[str, Runtime] | None = None,
    most: int = 3,
) -> Pictures:
    """The crops in which student and teacher (without one: original) differ most; `others` are shown there as well."""
    scale, degradation = student.descriptor.scale, Degradation.of_header(student.metadata)
    networks: dict[str, Runtime] = {"student": student, **(others or {}), (plain := Enlargement(scale)).label: plain}
    if teacher is not None:
        networks = {"teacher": teacher, **networks} | ({LANCZOS: Enlargement(scale, "lanczos")} if scale > 1 else {})
    some = pairs[:: math.ceil(len(pairs) / MOST_PHOTOS)] if pairs else ()
    photos = []
    for pair in context.each("photos", some):
        photo = _enlarge(pair, networks, scale, degradation)
        if photo is not None:
            photos.append(photo)
    if not photos:
        raise SrkdError("no photo is large enough to compare the networks on: give others with --data")
    compared = ("student", "teacher" if teacher is not None else "original")
    goal: Goal = goal_of(student.metadata) if teacher is not None else "original"
    crops = [_crop(window, compared, goal) for window in _most_different(photos, compared, most)]
    large = [photo for photo in photos if min(photo.images["student"].shape[-2:]) >= MIN_SPECTRUM_SIDE + 2 * scale]
    to_teacher = _to_teacher(large, scale) if teacher is not None and large else {}
    return Pictures(tuple(crops), to_teacher, len(large), None if degradation is None else degradation.label)


def _to_teacher(photos: Sequence[_Photo], scale: int) -> dict[str, dict[str, float]]:
    """The means over photos of each measure of each network's luminance to the teacher's."""
    measures = {name: METRICS[name].load() for name in MEASURES}
    names = [name for name in photos[0].images if name not in ("teacher", "original")]
    sums = {name: dict.fromkeys(MEASURES, 0.0) for name in names}
    for photo in photos:
        planes = {name: luma_of(image) for name, image in photo.images.items()}
        for name in names:
            for measure, of in measures.items():
                figure = float(of(planes[name], planes["teacher"], border=scale))
                sums[name][measure] += min(EQUAL_DB, figure) / len(photos)
    return sums


def _enlarge(
    pair: ImagePair, networks: Mapping[str, Runtime], scale: int, degradation: Degradation | None
) -> _Photo | None:
    """The middle of a photo enlarged by each network; None if it is too small."""
    hr = read_rgb_u8(pair.hr)
    if degradation is not None and min(hr.shape[-2:]) >= 2 * scale:
        lr = degradation.of_image(mod_crop(hr, scale), scale, pair.stem)
    elif pair.lr is None:
        if min(hr.shape[-2:]) < 2 * scale:
            return None
        lr = downscale_u8(mod_crop(hr, scale), scale)
    else:
        lr = read_stored_lr(pair.lr, hr, scale)
    top, left = ((length - min(length, LARGEST_SIDE)) // 2 for length in lr.shape[-2:])
    lr = lr[:, top : top + LARGEST_SIDE, left : left + LARGEST_SIDE]
    smallest = max(runtime.descriptor.min_size for runtime in networks.values())
    if min(lr.shape[-2:]) < max(smallest, 2):
        return None
    rows, columns = (
        slice(at * scale, (at + length) * scale) for at, length in zip((top, left), lr.shape[-2:], strict=True)
    )
    images = {name: to_u8(super_resolve(runtime, lr[None].float() / 255).sr) for name, runtime in networks.items()}
    return _Photo(pair.stem, {**images, "original": hr[None, :, rows, columns]})


def _most_different(photos: Sequence[_Photo], compared: tuple[str, str], count: int) -> list[_Window]:
    """The windows with the largest mean squared differences of Y that do not overlap each other."""
    windows, chosen = list[_Window](), list[_Window]()
    for photo in photos:
        a, b = (luma_of(photo.images[name]) for name in compared)
        side = min(SIDE, *a.shape[-2:])
        stride = max(1, side // STEPS_A_SIDE)
        difference = torch.nn.functional.avg_pool2d((a - b).square(), side, stride)[0, 0]
        for row, means in enumerate(difference.tolist()):
            windows += [_Window(photo, at * stride, row * stride, side, mean) for at, mean in enumerate(means)]
    for window in sorted(windows, key=lambda window: -window.difference):
        if len(chosen) < count and not any(window.overlaps(other) for other in chosen):
            chosen.append(window)
    return chosen


def _crop(window: _Window, compared: tuple[str, str], goal: Goal) -> Crop:
    rows, columns = (slice(at, at + window.side) for at in (window.top, window.left))
    images = {name: image[..., rows, columns] for name, image in window.photo.images.items()}
    planes = {name: luma_of(image) for name, image in images.items()}
    a, b = (planes[name] for name in compared)
    return Crop(
        photo=window.photo.name,
        left=window.left,
        top=window.top,
        side=window.side,
        compared=compared,
        apart_db=_psnr(a, b),
        goal=goal,
        psnr_y={name: _psnr(plane, planes[goal]) for name, plane in planes.items() if name not in (goal, "original")},
        pictures={name: _webp(image) for name, image in images.items()},
        difference=_map((a - b).abs()[0, 0]),
    )


def _psnr(a: torch.Tensor, b: torch.Tensor) -> float | None:
    """The Y-PSNR of a whole crop: a border need not be left out inside a photo. None: equal or not finite."""
    return finite_or_none(float(psnr(a, b)))


def _webp(image_u8: torch.Tensor) -> bytes:
    picture, stream = Image.fromarray(image_u8[0].permute(1, 2, 0).contiguous().numpy()), io.BytesIO()
    picture.save(stream, format="WEBP", lossless=True, quality=80, method=4)
    return stream.getvalue()


def _map(difference: torch.Tensor) -> bytes:
    from matplotlib import colormaps

    levels = (difference / MAP_LEVELS).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    picture, stream = Image.fromarray(levels, mode="P"), io.BytesIO()
    picture.putpalette(colormaps[MAP_COLOURS](range(256), bytes=True)[:, :3].tobytes())
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
