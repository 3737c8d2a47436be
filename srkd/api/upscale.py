"""`srkd upscale`: files, folders, films and images in memory enlarged."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, TypeAlias

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.images.in_memory import ImageInMemory, is_in_memory
from compressor.inference import upscale as upscaling
from compressor.inference.upscale_outputs import UpscaleSettings
from compressor.inference.upscale_report import UpscaleReport
from srkd.options.function import public
from srkd.options.models import open_runtime
from srkd.options.option import settings_of
from srkd.options.values import as_tuple
from srkd.options.verbs import UpscaleOptions


def run_upscale(options: UpscaleOptions, context: Context) -> UpscaleReport:
    """Enlarge files, folders and globs; a picture or film that fails does not stop the rest, and the report names it.

    Outputs are written beside their sources, with `_x4` (the scale) in their names, or to `out`.
    """
    if options.on is not None:
        from srkd.runs.on_ray import upscale_on_ray  # imports the training loop

        return upscale_on_ray(options, _upscale_settings(options), context)
    runtime = open_runtime(options.model, options, context)
    return upscaling.upscale(as_tuple(options.inputs), runtime, _upscale_settings(options), context)


UpscaleResult: TypeAlias = Annotated[Any, UpscaleReport | ImageInMemory | list[ImageInMemory]]
"""The result of `upscale`. Which of these it is depends on the inputs, so it is Any to a type checker."""


def run_upscale_any(options: UpscaleOptions, context: Context) -> UpscaleResult:
    """Enlarge pictures: images in give images back, files in are written beside their sources and give a report.

    An image is a PIL image, a NumPy array (H,W,3) or a tensor (3,H,W) or (N,3,H,W), of uint8 or of floats in [0,1]; it
    comes back enlarged in the same kind and type of numbers, a list of images as a list. Nothing is written. A PIL
    image is not turned by its EXIF orientation, which it keeps, as it does its colour profile and transparency.

    Files, folders, films and globs give an `UpscaleReport`: a picture that fails does not stop the rest, and the report
    names it. Outputs have `_x4` (the scale) in their names, or go to `out`.

        >>> large = srkd.upscale("edsr.pt", Image.open("photos/0.png"))
        >>> report = srkd.upscale("edsr.pt", "photos/0.png", out="enlarged", overwrite=True)
    """
    inputs = as_tuple(options.inputs)
    if not inputs:
        raise UsageError("nothing to enlarge: give at least one file, folder or image")
    images = [picture for picture in inputs if is_in_memory(picture)]
    if not images:
        return run_upscale(options, context)
    if len(images) < len(inputs):
        raise UsageError("files and images in memory at once: files give a report, images give images: call twice")
    for_files = ("out", "suffix", "extension", "overwrite", "skip_existing", "recursive", "on", "codec", "crf")
    names = [name for name in for_files if getattr(options, name) != getattr(UpscaleOptions, name)]
    if names:
        raise UsageError(f"{', '.join(names)}: for files; an image comes back, and is not written")
    runtime, settings = open_runtime(options.model, options, context), _upscale_settings(options)
    enlarged = []
    for number, image in enumerate(images, start=1):
        title = "image" if len(images) == 1 else f"image {number}/{len(images)}"
        enlarged.append(upscaling.upscale_image(image, runtime, settings, partial(context.progress, title)))
    return enlarged[0] if is_in_memory(options.inputs) else enlarged


def _upscale_settings(options: UpscaleOptions) -> UpscaleSettings:
    exact = options.exact or options.precision is not None
    return settings_of(UpscaleSettings, options, output=options.out, exact=exact)


upscale = public(UpscaleOptions, UpscaleOptions, run_upscale_any, "upscale")
