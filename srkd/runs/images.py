"""The images of a run by its options, read once for all runs of an operation that ask for the same."""

from __future__ import annotations

from compressor.base.cache_folder import parse_bytes
from compressor.base.context import QUIET, Context
from compressor.base.errors import UsageError
from compressor.data.prepare import Data, DataChoice, ValidationFolder, prepare_data
from srkd.options.compress import CompressOptions
from srkd.options.degradation import degradation_of
from srkd.options.shared import originals_and_lr_only, path_of
from srkd.options.values import as_tuple, split_name


def data_choice(options: CompressOptions) -> DataChoice:
    """The choice of images; refuse contradictory options."""
    data, lr_only = originals_and_lr_only(options.data.data, options.data.lr_only)
    degradation = degradation_of(options.data.degrade, QUIET)
    if options.data.degrade_once and degradation is None:
        raise UsageError("degrade_once: there is no --degrade whose images are degraded; add it, or leave this out")
    return DataChoice(
        data=data,
        lr=path_of(options.data.lr_images),
        val=tuple(
            ValidationFolder(path, name, is_lr)
            for words, is_lr in ((options.data.val, False), (options.data.val_lr, True))
            for name, path in map(split_name, map(str, as_tuple(words)))
        ),
        lr_border=options.data.lr_border,
        lr_only=lr_only,
        cache_size=parse_bytes(options.data.cache_size),
        degradation=degradation,
        degrades_once=options.data.degrade_once or options.training.teacher_cache,
    )


def read_images(choice: DataChoice, scale: int, lr_patch: int, context: Context) -> Data:
    return context.once(
        "images",
        *(choice, scale, lr_patch),
        read=lambda: prepare_data(choice, scale=scale, lr_patch=lr_patch, context=context),
    )


def require_tracked_images(options: CompressOptions, count: int) -> None:
    for number in as_tuple(options.run.track_images or ()):
        if number > count:
            raise UsageError(f"--track-images {number}: there are {count} validation images")
