"""Preparation of a run's training and validation images, from the options about data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from compressor.base.cache_folder import DEFAULT_LIMIT, CacheFolder, default_folder
from compressor.base.choices import Border
from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.data.decode import DecodedImage, Source, decode_all, decode_image
from compressor.data.film_frames import lr_images
from compressor.data.store import ImageStore, SkippedImage
from compressor.degradation.chain import Degradation
from compressor.images.files import image_size
from compressor.images.sets import (
    ImagePair,
    ImageSet,
    LrImage,
    embedded_pairs,
    find_lr_images,
    find_sets,
    line_about_inputs,
    require_folder,
)
from compressor.inference.teacher_check import TrialPair

VALIDATION_PATCH = 4

MIN_IMAGES_TO_HOLD_OUT = 20
"""With so many images a twentieth (ten at most) is held out for validation; with fewer, embedded photos are used."""

MOST_TRIALS = 4
"""Largest number of pairs that a teacher is tried on."""

MOST_NAMES = 5
"""Largest number of validation images that a note names."""


@dataclass(frozen=True)
class ValidationImage:
    """A whole image in bytes, (1,3,H,W); `hr` is None if there is no original."""

    name: str
    lr: torch.Tensor
    hr: torch.Tensor | None


@dataclass(frozen=True)
class ValidationSet:
    """Validation images under the name that their scores have."""

    name: str
    images: tuple[ValidationImage, ...]
    degradation: str = ""
    """The name of what the LR images suffer; empty for none."""

    @classmethod
    def of(cls, name: str, store: ImageStore) -> ValidationSet:
        hr = store.hr
        images = (
            ValidationImage(stem, store.lr.image(index)[None], None if hr is None else hr.image(index)[None])
            for index, stem in enumerate(store.names)
        )
        return cls(name, tuple(images))

    def degraded(self, degradation: Degradation, scale: int, context: Context) -> ValidationSet:
        """The same images with LR images that are degraded, each always in the same way."""

        def lr_of(image: ValidationImage) -> torch.Tensor:
            source, by = (image.lr, 1) if image.hr is None else (image.hr, scale)
            return degradation.of_image(source[0], by, image.name)[None]

        images = tuple(replace(image, lr=lr_of(image)) for image in context.each("degrading images", self.images))
        return ValidationSet(f"{self.name} ({degradation.name})", images, degradation.label)


@dataclass(frozen=True)
class ValidationFolder:
    """A folder of `--val`, or with `is_lr_only` of `--val-lr`; `name` is the user's name of its set."""

    path: Path
    name: str | None = None
    is_lr_only: bool = False

    def sources(self, scale: int) -> Mapping[str, Sequence[Source]]:
        """The images of the folder's sets by the names of these."""
        if self.is_lr_only:
            return {self.name or self.path.resolve().name: find_lr_images(self.path, "--val-lr")}
        sets = find_sets(self.path, scale=scale)
        if self.name is None or len(sets) == 1:
            return {self.name or image_set.name: image_set.pairs for image_set in sets}
        return {f"{self.name}/{image_set.name}": image_set.pairs for image_set in sets}


@dataclass(frozen=True)
class DataChoice:
    """The options about data; without any, the embedded photos. `cache_size` is in bytes."""

    data: Path | tuple[Path, ...] | None = None
    """A folder, or several, whose images are one set."""
    lr: Path | None = None
    val: tuple[ValidationFolder, ...] = ()
    """The first set decides which student is best."""
    lr_border: Border = "mirror"
    lr_only: Path | None = None
    cache_size: int = DEFAULT_LIMIT
    degradation: Degradation | None = None
    """What LR images suffer: in training anew for every patch, in validation beside sets of LR images as they are."""
    degrades_once: bool = False
    """Whether each training image is degraded once and for all, so that a teacher's outputs for it can be kept."""

    def __post_init__(self) -> None:
        if self.lr_only is not None and (self.data or self.lr):
            raise UsageError("--lr-only takes neither --data nor --lr-images: its images have no HR partners")
        if self.lr is not None and len(self.folders) != 1:
            given = f"{len(self.folders)} folders are" if self.folders else "no --data is"
            raise UsageError(f"--lr-images names the LR images of one --data, and {given} given")
        if self.lr is not None and self.degradation is not None:
            raise UsageError("--degrade makes LR images from the originals, and --lr-images has others: leave one out")

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.data,) if isinstance(self.data, Path) else self.data or ()

    def require_folders(self) -> None:
        """Refuse what is no folder, before the teacher and thousands of images are read."""
        for folder in (*self.folders, *(each.path for each in self.val)):
            require_folder(folder, "data folder")

    def sets(self, scale: int) -> tuple[ImageSet, ...]:
        return tuple(each for folder in self.folders for each in find_sets(folder, scale=scale, lr=self.lr))

    def pairs(self, scale: int) -> tuple[ImagePair, ...]:
        return tuple(pair for each in self.sets(scale) for pair in each.pairs)

    def cache(self) -> CacheFolder:
        return CacheFolder(default_folder(), self.cache_size)

    @property
    def has_labels(self) -> bool:
        """Whether the training images have originals."""
        return self.lr_only is None

    @property
    def has_originals(self) -> bool:
        """Whether the images that decide which student is best have originals."""
        return not (self.val and self.val[0].is_lr_only)

    def trial_pairs(self, scale: int) -> tuple[TrialPair, ...]:
        """Some stored pairs of the kind that decides which student is best, to try a teacher on."""
        sources: Sequence[Source] = ()
        if self.val:
            sources = next(iter(self.validation_sources(scale).values()))
        elif len(pairs := self.pairs(scale)) >= MIN_IMAGES_TO_HOLD_OUT:
            sources = pairs
        stored = [source for source in sources if isinstance(source, ImagePair) and source.lr is not None]
        images = (decode_image(pair, scale, self.lr_border) for pair in stored[:: -(-len(stored) // MOST_TRIALS) or 1])
        return tuple(
            (image.name, image.lr, image.hr)
            for image in images
            if isinstance(image, DecodedImage) and image.hr is not None
        )

    def validation_sources(self, scale: int) -> Mapping[str, Sequence[Source]]:
        """The images of `--val` and `--val-lr` by the names of their sets; two sets of one name are refused."""
        named: dict[str, Sequence[Source]] = {}
        for folder in self.val:
            for name, sources in folder.sources(scale).items():
                if name in named:
                    raise UsageError(f"two validation sets are named {name}: give one a name, --val NAME={folder.path}")
                named[name] = sources
        return named


@dataclass(frozen=True)
class Data:
    """Training images, validation sets, and the name of the source of the former."""

    train: ImageStore
    validation: tuple[ValidationSet, ...]
    origin: str
    skipped: tuple[SkippedImage, ...] = ()

    @property
    def validation_names(self) -> tuple[str, ...]:
        """The names of the validation images, with those of their sets if there are several."""
        several = len(self.validation) > 1
        return tuple(
            f"{image_set.name}/{image.name}" if several else image.name
            for image_set in self.validation
            for image in image_set.images
        )


def prepare_data(choice: DataChoice, *, scale: int, lr_patch: int, context: Context = QUIET) -> Data:
    """Return the decoded training and validation images; a note reports skipped images."""
    decode = partial(decode_all, scale=scale, border=choice.lr_border, cache=choice.cache(), context=context)
    # The embedded photos are not cached, as decoding them takes no noticeable time.
    decode_embedded = partial(decode_all, scale=scale, border=choice.lr_border)
    held_out = list[int]()
    if choice.lr_only is not None:
        context.note(f"no HR images: the teacher's output is the only label of the images in {choice.lr_only}")
        images_alone = lr_images(choice.lr_only, cache=choice.cache(), note=context.note)
        sources, origin = list[Source](images_alone), choice.lr_only.resolve().name
        _require_patches(sources, scale, lr_patch)
        images = decode(sources)
    elif sets := choice.sets(scale):
        # Both parts are decoded together, so that held-out images change nothing in the cache.
        sources = [pair for image_set in sets for pair in image_set.pairs]
        _require_patches(sources, scale, lr_patch)
        images = decode(sources)
        origin = ", ".join(image_set.name for image_set in sets)
        readable = [at for at, image in enumerate(images.images) if not isinstance(image, SkippedImage)]
        if not choice.val and len(readable) >= MIN_IMAGES_TO_HOLD_OUT:
            stride = max(20, -(-len(readable) // 10))
            held_out = readable[stride // 2 :: stride]
    else:
        context.note(
            "no --data: training on the embedded photos, which show that everything works, not what it can reach"
        )
        sources, origin = list(embedded_pairs("train")), "embedded photos"
        images = decode_embedded(sources)
    trained = [position for position in range(len(images.images)) if position not in held_out]
    train = images.select(trained, lr_patch=lr_patch)
    if held_out:
        stores = {"held out": images.select(held_out, lr_patch=VALIDATION_PATCH)}
    elif choice.val:
        named = choice.validation_sources(scale)
        stores = {name: decode(images).select(lr_patch=VALIDATION_PATCH) for name, images in named.items()}
        sources += [source for images in named.values() for source in images]
    else:
        stores = {"embedded photos": decode_embedded(embedded_pairs("val")).select(lr_patch=VALIDATION_PATCH)}
        sources += embedded_pairs("val")
    validation = tuple(ValidationSet.of(name, store) for name, store in stores.items())
    degradation = choice.degradation
    if degradation is not None:
        train = train if choice.degrades_once else train.with_degradation(degradation)
        # What the student is for comes first: the first set decides which student is best.
        validation = (*(image_set.degraded(degradation, scale, context) for image_set in validation), *validation)
    if skipped := (*train.skipped, *(image for store in stores.values() for image in store.skipped)):
        context.note(f"{len(skipped)} images left out; the first: {skipped[0]} (all in run.json)")
    if degradation is not None and choice.degrades_once:
        train = train.degraded_once(degradation, context)
        context.note(f"each of the {len(train)} images is degraded once, as what the teacher makes of it is kept")
    data = Data(train, validation, origin, skipped)
    context.note(f"validating on {_describe_validation(data, choice)}")
    if about_inputs := line_about_inputs(sources, scale):
        context.note(about_inputs)
    return data


def _describe_validation(data: Data, choice: DataChoice) -> str:
    names = data.validation_names
    if len(data.validation) == 1:
        kinds = {"held out": "images of --data that are not trained on", "embedded photos": "embedded photos"}
        source = f"images of {choice.val[0].path}" if choice.val else kinds[data.validation[0].name]
        more = "" if len(names) <= MOST_NAMES else f" and {len(names) - MOST_NAMES} more (run.json has all)"
        return f"{len(names)} {source}: {', '.join(names[:MOST_NAMES])}{more}"
    sets = ", ".join(f"{image_set.name} ({len(image_set.images)} images)" for image_set in data.validation)
    return f"{len(data.validation)} sets, of which the first decides what is best: {sets}"


def _require_patches(sources: Sequence[Source], scale: int, lr_patch: int) -> None:
    """Refuse a patch larger than every image, by the files' headers: decoding thousands may take an hour."""
    largest = (0, 0)
    for source in sources:
        with suppress(SrkdError):  # an unreadable file is skipped later, with the reason
            factor = 1 if isinstance(source, LrImage) else scale
            width, height = image_size(source.path)
            largest = max(largest, (width // factor, height // factor), key=min)
        if min(largest) >= lr_patch:
            return
    if min(largest):
        raise UsageError(
            f"schedule.lr_patch={lr_patch}: the largest LR image has {largest[0]}x{largest[1]} pixels: --lr-patch "
            f"{min(largest)} or less"
        )
