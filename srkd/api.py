"""The public functions: the command line's words as keyword arguments, frozen dataclasses as answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compressor.base.choices import Border
from compressor.base.context import Note, Progress, no_note, no_progress
from compressor.images.metrics import Protocol
from compressor.inference import upscale as upscaling
from compressor.inference.evaluate import Evaluation
from compressor.inference.origin import checkpoint_of
from compressor.inference.tiling import UNBOUNDED_OVERLAP
from compressor.inference.upscale import UpscaleReport
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.cost import Cost, cost
from compressor.models.networks.base import ImageModel, Network
from compressor.models.students import build_student
from compressor.teachers.teacher import Teacher, load_teacher
from export.contestants import DEFAULT_LR_SIZES, DEFAULT_RUNTIMES, DEFAULT_SECONDS, Settings
from export.conversion import IO, Choices, Shuffle, tuned_and_largest
from export.exporting import ExportReport, export_model
from export.metadata import Source
from export.profiling import ProfileReport
from srkd.inspection import Inspection, inspect_file
from srkd.opening import Model, Opening, listed
from srkd.profiling import Profiling
from srkd.scoring import Grey, Scoring

__all__ = [
    "Cost",
    "Evaluation",
    "ExportReport",
    "Inspection",
    "ProfileReport",
    "UpscaleReport",
    "build_student",
    "cost",
    "evaluate",
    "export",
    "inspect",
    "load",
    "profile",
    "save",
    "upscale",
]


def load(path: str | Path, *, scale: int | None = None, **arch_options: object) -> Network | Teacher:
    """The network of a checkpoint or a run folder: eval mode, float RGB in [0,1], NCHW, in and out.

    A foreign file (TorchScript, ONNX, torch.export, what spandrel knows) gives a `Teacher`, with outputs only.
    """
    teacher = load_teacher(path, scale=scale, arch_options=arch_options)
    return teacher if teacher.network is None else teacher.network.requires_grad_(True)


def save(network: ImageModel, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network as safetensors with its spec in the header; `load` reads it back bit for bit."""
    save_network(network.require_network("weights"), Path(path), metadata=metadata or {})


def inspect(
    path: str | Path,
    *,
    scale: int | None = None,
    lr_size: tuple[int, int] = (256, 256),
    check: bool = False,
    layers: bool = False,
    **arch_options: object,
) -> Inspection:
    """What a checkpoint, a run folder, an exported or a foreign file holds, and what had to be assumed.

    `check` runs it on an embedded photo, as `compress` does with a teacher; `layers` tells what each layer costs.
    """
    return inspect_file(path, scale=scale, lr_size=lr_size, arch_options=arch_options, check=check, layers=layers)


def export(
    model: str | Path,
    *,
    formats: Sequence[str] = (),
    out: str | Path | None = None,
    static: tuple[int, int] | None = None,
    io: IO = "float",
    shuffle: Shuffle = "crd",
    sizes: Sequence[tuple[int, int]] | None = None,
    scale: int | None = None,
    arch_options: Mapping[str, object] | None = None,
    progress: Progress = no_progress,
    announce: Note = no_note,
) -> ExportReport:
    """Write a checkpoint or a run folder's student in other formats, each compared with the network before it is kept.

    No format means ONNX. The files lie beside the model's own unless `out` names another folder. `static` is the only
    size (width, height) that the files shall take; `sizes` are what a TensorRT engine is tuned for and the largest that
    it takes. Of an exported file the checkpoint it was made from is taken, which must be beside it.
    """
    loaded = load_checkpoint(checkpoint_of(model, announce), scale=scale, arch_options=arch_options)
    source = Source(loaded.path.stem, loaded.sha256, loaded.header, loaded.path)
    folder = loaded.path.parent if out is None else Path(out)
    choices = Choices(lr_size=static, io=io, shuffle=shuffle, sizes=tuned_and_largest(sizes))
    return export_model(loaded.network, source, formats, folder, progress, choices=choices)


def evaluate(
    models: Model | Sequence[Model] = (),
    *,
    data: str | Path | None = None,
    lr: str | Path | None = None,
    scale: int | None = None,
    arch_options: Mapping[str, object] | None = None,
    border: int | None = None,
    lr_border: Border = "mirror",
    grey: Grey = "rgb",
    self_ensemble: bool = False,
    tile: int | None = None,
    device: str = "cpu",
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
    announce: Note = no_note,
) -> Evaluation:
    """Y-PSNR and SSIM of models side by side, bicubic always the first; no data means the embedded photos.

    `data` is a folder of HR images, a set holding `HR/` and perhaps `LR*X{scale}/`, or a folder of several sets.
    """
    scoring = Scoring(
        models=listed(models),
        data=data,
        lr=lr,
        opening=Opening(scale, arch_options, device, runtime, precision, threads),
        protocol=Protocol(border=border, lr_border=lr_border, grey=grey),
        self_ensemble=self_ensemble,
        tile=tile,
    )
    return scoring.evaluate(progress, announce)


def profile(
    models: str | Path | Sequence[str | Path],
    *,
    teacher: str | Path | None = None,
    runtime: Sequence[str] = DEFAULT_RUNTIMES,
    device: str = "cpu",
    precision: str = "fp32",
    lr_size: Sequence[tuple[int, int]] = DEFAULT_LR_SIZES,
    batch: int = 1,
    threads: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    memory: bool = True,
    quality: bool = True,
    scale: int | None = None,
    arch_options: Mapping[str, object] | None = None,
    progress: Progress = no_progress,
    announce: Note = no_note,
) -> ProfileReport:
    """Speed, memory, cost and Y-PSNR of models against a teacher, in turns in one process.

    A single run folder brings the teacher it was distilled from. Sizes are (width, height) of the LR image.
    """
    settings = Settings(
        runtimes=tuple(runtime),
        device=device,
        precision=precision,
        lr_sizes=tuple(lr_size),
        batch=batch,
        threads=threads,
        seconds=seconds,
        memory=memory,
        quality=quality,
        scale=scale,
        arch_options=arch_options,
    )
    paths = [models] if isinstance(models, (str, Path)) else list(models)
    return Profiling(paths, teacher, settings).run(progress, announce)


def upscale(
    model: Model,
    inputs: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    suffix: str | None = None,
    extension: str | None = None,
    tile: int | None = None,
    overlap: int = UNBOUNDED_OVERLAP,
    self_ensemble: bool = False,
    overwrite: bool = False,
    scale: int | None = None,
    arch_options: Mapping[str, object] | None = None,
    device: str = "cpu",
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
    announce: Note = no_note,
) -> UpscaleReport:
    """Enlarge files, folders and globs; a picture that fails does not stop the rest, the report tells of it.

    Outputs lie beside their sources with `_x4` (the scale) in their names, or under `out`.
    """
    opening = Opening(scale, arch_options, device, runtime, precision, threads)
    return upscaling.upscale(
        [inputs] if isinstance(inputs, (str, Path)) else list(inputs),
        opening.open(model, announce),
        output=out,
        suffix=suffix,
        extension=extension,
        tile=tile,
        overlap=overlap,
        self_ensemble=self_ensemble,
        overwrite=overwrite,
        progress=progress,
    )
