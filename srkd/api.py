"""The public functions of srkd. Their keywords are the options of the command line; they return frozen dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TypeAlias, TypeVar

from compressor.base.choices import Init, Select
from compressor.base.context import Context, Note
from compressor.base.errors import UsageError
from compressor.images.in_memory import ImageInMemory, is_in_memory
from compressor.images.metrics import Protocol
from compressor.images.sets import ImageSet, embedded_pairs, find_sets
from compressor.inference import evaluate as evaluation
from compressor.inference import upscale as upscaling
from compressor.inference.evaluate import Evaluation, EvaluationInterrupted, EvaluationSettings
from compressor.inference.open import resolve_checkpoint
from compressor.inference.teacher_check import check_teacher
from compressor.inference.upscale import UpscaleReport, UpscaleSettings
from compressor.models.checkpoints.convert import Converted, convert_file, convert_network
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.cost import COMPARED_SIZE, Cost
from compressor.models.cost import cost as count_cost
from compressor.models.networks.axes import Segments
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.students import build_student as cut_student
from compressor.runtimes.table import RUNTIMES, runtime_of
from compressor.teachers.teacher import Teacher, load_teacher
from export.card import CardFacts, write_card
from export.conversion import FileOptions, Int8Options, tuned_and_largest
from export.exporting import ExportReport, Source, export_model
from export.profile.published import find_preset, profile_preset
from export.profile.report import ProfileReport, profile_models
from export.profile.settings import DEFAULT_SIZE, Settings
from export.record import write_record
from srkd.inspection import Inspection
from srkd.models import (
    ModelFile,
    as_tuple,
    common_scale,
    file_of,
    find_run_teacher,
    open_network,
    open_runtime,
    path_of_model,
    refuse_file_options,
    spec_of,
)
from srkd.network_inspection import run_inspect
from srkd.options import public
from srkd.parameters import read_size, read_sizes
from srkd.pareto import check_pareto, write_pareto
from srkd.reporting.speed import write_speed
from srkd.reporting.untrusted import Facts, read_run_facts
from srkd.verb_options import (
    ConvertOptions,
    EvaluateOptions,
    ExportOptions,
    InspectOptions,
    ModelOrPath,
    ProfileOptions,
    Size,
    UpscaleOptions,
    path_of,
)

__all__ = [
    "Converted",
    "Cost",
    "Evaluation",
    "EvaluationInterrupted",
    "ExportReport",
    "Inspection",
    "ProfileReport",
    "UpscaleReport",
    "build_student",
    "convert",
    "cost",
    "evaluate",
    "export",
    "inspect",
    "load",
    "profile",
    "save",
    "upscale",
]


R = TypeVar("R")


def load(
    model: ModelOrPath, *, scale: int | None = None, limits: float = 1.0, **arch_options: object
) -> Network | Teacher:
    """Return the network of a checkpoint or a run folder: eval mode, float RGB in [0,1], NCHW, in and out.

    A foreign file (TorchScript, ONNX, torch.export, what spandrel knows) gives a `Teacher`, with outputs only; a
    program may use `limits` times 60 s, 4 GB and 64 MB of output when it is first tried. An open network is returned
    as it is.

        >>> teacher = srkd.load("edsr.pt")
    """
    if isinstance(model, (Network, Teacher)):
        refuse_file_options(scale, arch_options)
        return model
    teacher = load_teacher(path_of_model(model), scale=scale, arch_options=arch_options, limits=limits)
    return teacher if teacher.network is None else teacher.network.requires_grad_(True)


def save(model: ModelOrPath, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network as safetensors with its spec in the header; `load` reads it back bit for bit.

    >>> srkd.save(srkd.build_student("edsr.pt", width=0.5), "student.safetensors")
    """
    save_network(open_network(model).require_network("weights"), Path(path), metadata=metadata or {})


def cost(model: ModelOrPath | Spec, lr_size: Size = COMPARED_SIZE) -> Cost:
    """Count parameters and MACs of a model, or of a spec before anything is built; `lr_size` is W x H LR pixels.

    >>> print(srkd.cost("edsr.pt", "320x180"))
    """
    return count_cost(spec_of(model), read_size(lr_size))


def build_student(
    teacher: ModelOrPath,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    init: Init = "inherit",
    seed: int = 0,
    segments: Segments = "each",
    select: Select = "leading",
) -> Network:
    """Build a smaller network of the teacher's kind: `width` of its channels, `depth` of its innermost repeat.

    `select="l1"` keeps the strongest channels instead of the leading ones. `segments="contiguous"` reads the fusions
    of CARN as CSD's code does: the leading columns of the concatenation.

        >>> student = srkd.build_student("edsr.pt", width=0.5)
    """
    network = open_network(teacher)
    return cut_student(network, width=width, depth=depth, init=init, seed=seed, segments=segments, select=select)


def inspect(
    path: ModelOrPath,
    *,
    scale: int | None = None,
    limits: float = 1.0,
    lr_size: Size = (256, 256),
    layers: bool = False,
    check: bool = False,
    **arch_options: object,
) -> Inspection:
    """Return the contents of a checkpoint, a run folder, an exported or a foreign file, and the assumptions about it.

    `check` runs it on an embedded photo, as `compress` does with a teacher; `layers` adds the cost of each layer. For
    an open network the path is None, and the hash is that of its weights.

        >>> print(srkd.inspect("edsr.pt").assumed)
    """
    return run_inspect(
        InspectOptions(
            path,
            scale=scale,
            limits=limits,
            lr_size=lr_size,
            layers=layers,
            check=check,
            arch_options=arch_options,
        )
    )


def run_export(options: ExportOptions, context: Context) -> ExportReport:
    """Write a checkpoint or a run folder's student in other formats, each compared with the network before it is kept.

    Sizes are (width, height) or "WxH". For an exported file its checkpoint is used, which must be in the same folder.
    For an open network `out` is required, and the files are named after its architecture.

        >>> srkd.export("edsr.pt", formats="onnx", out="exported")
    """
    network, source = _export_source(options, context)
    if options.out is None and source.path is None:
        raise UsageError("an open network has no folder to write to: give out, the folder for the files")
    folder = source.path.parent if source.path is not None and options.out is None else Path(options.out or "")
    report = export_model(
        network,
        source,
        options.formats,
        folder,
        context,
        options=FileOptions(
            lr_size=None if options.static is None else read_size(options.static),
            io=options.io,
            shuffle=options.shuffle,
            sizes=tuned_and_largest(None if options.sizes is None else read_sizes(options.sizes)),
            int8=Int8Options(
                calibrate=None if options.calibrate is None else Path(options.calibrate),
                data=None if options.data is None else Path(options.data),
                max_drop=options.max_drop,
            ),
        ),
    )
    if any(file.path is not None for file in report.files):
        write_record(folder, report, source.sha256)
        if write_card(folder, network, _card_facts(source)) is None:
            context.note(f"{folder / source.stem}.md is not a card of srkd export: it is left alone")
    return report


def _card_facts(source: Source) -> CardFacts:
    """Return the facts of a model card, from the checkpoint's header and its run folder."""
    run = Facts() if source.path is None else read_run_facts(source.path.parent, source.sha256)
    teacher = run.text("teacher", "path")
    return CardFacts(
        name=source.stem,
        metadata=source.header,
        sha256=source.sha256,
        licence=source.licence,
        teacher=None if teacher is None else Path(teacher).name,
        teacher_psnr_y=run.number("result", "teacher", "psnr_y"),
        validation=run.texts("data", "validation"),
    )


def _export_source(options: ExportOptions, context: Context) -> tuple[Network, Source]:
    """Return the network to export, and its origin for the metadata of its files."""
    if isinstance(options.model, ImageModel):
        refuse_file_options(options.scale, options.arch_options)
        network = options.model.require_network("weights")
        return network, Source(network.architecture)
    checkpoint = resolve_checkpoint(options.model, context.note)
    loaded = load_checkpoint(checkpoint, scale=options.scale, arch_options=options.arch_options)
    return loaded.network, Source(loaded.path.stem, loaded.sha256, loaded.header, loaded.path)


export = public(ExportOptions, run_export, "export")


def run_profile(options: ProfileOptions, context: Context) -> ProfileReport:
    """Measure speed, memory, cost and Y-PSNR of models against a teacher, in turns, each in a separate process.

    A single run folder is compared with the teacher it was distilled from. LR sizes are (width, height) or "WxH", one
    or several. With a preset and no models, the networks of a published table are compared with its figures.

        >>> srkd.profile("edsr.pt", runtime="torch", lr_size="64x64", seconds=0.5)
    """
    models = as_tuple(options.models)
    table = None if options.preset is None else find_preset(options.preset)
    if (table is None) == (not models):
        raise UsageError(
            "nothing to profile: name a MODEL, or a --preset"
            if table is None
            else f"--preset {table.name} brings its own networks: leave out MODEL, or the preset"
        )
    if table is not None and (options.teacher is not None or options.pareto is not None):
        flag = "--teacher" if options.teacher is not None else "--pareto"
        raise UsageError(f"--preset {table.name} has its own untrained networks and teachers: leave out {flag}")
    pareto = check_pareto(options)
    default_size = (DEFAULT_SIZE,) if table is None else (table.lr_size,)
    settings = Settings(
        runtimes=tuple(options.runtime),
        device=options.device,
        precisions=as_tuple(options.precision),
        lr_sizes=default_size if options.lr_size is None else read_sizes(options.lr_size),
        batches=as_tuple(options.batch),
        threads=options.threads,
        seconds=options.seconds,
        memory=options.memory,
        quality=options.quality,
        layers=options.layers,
        scale=options.scale,
        arch_options=options.arch_options,
        limits=options.limits,
    )
    if table is not None:
        return profile_preset(table, settings, context)
    with TemporaryDirectory(prefix="srkd-networks-") as folder:
        paths = [_profiled_file(model, Path(folder, str(index))) for index, model in enumerate(models)]
        teacher = None if options.teacher is None else file_of(options.teacher, Path(folder, "teacher.safetensors"))
        if teacher is not None and teacher.options:
            settings = replace(settings, teacher_options=teacher.options)
        is_run = teacher is None and len(models) == 1 and not isinstance(models[0], ImageModel)
        run_teacher = find_run_teacher(paths[0], context.note) if is_run else None
        if run_teacher is not None:
            teacher = ModelFile(run_teacher.path)
            # The student's file states all its facts, so the options can only be for the teacher.
            settings = replace(
                settings,
                scale=run_teacher.scale if options.scale is None else options.scale,
                arch_options=None,
                teacher_options={**run_teacher.options, **(options.arch_options or {})},
            )
        path = None if teacher is None else teacher.path
        report = profile_models(paths, teacher=path, settings=settings, context=context)
        if run_teacher is not None and paths[0].is_dir():
            write_speed(paths[0], report, context.note)
    if pareto is not None:
        write_pareto(report, pareto, context.note)
    return report


def _profiled_file(model: ModelOrPath, folder: Path) -> Path:
    """Return the file of a model to profile; an open network's is written to the folder, under its architecture."""
    name = model.architecture if isinstance(model, ImageModel) else ""
    file = file_of(model, folder / f"{name}.safetensors")
    if file.options:
        raise UsageError(f"{file.path} was read with options of its own: profile its path, with arch_options")
    return file.path


profile = public(ProfileOptions, run_profile, "profile")


def run_evaluate(options: EvaluateOptions, context: Context) -> Evaluation:
    """Score models by Y-PSNR and SSIM. Bicubic is always the first; without data the embedded photos are used.

    `data` is a folder of HR images, a set with `HR/` and optionally `LR*X{scale}/`, or a folder of several sets. Ctrl-C
    raises `EvaluationInterrupted`, a KeyboardInterrupt with the scores of the finished sets.

        >>> print(srkd.evaluate("edsr.pt", data="photos").models["edsr"]["photos"].psnr_y)
    """
    result = _score(evaluation.evaluate, options, context)
    _note_below_bicubic(result, options, context.note)
    return result


evaluate = public(EvaluateOptions, run_evaluate, "evaluate")


def run_explain(options: EvaluateOptions, context: Context) -> tuple[Evaluation, ...]:
    """Score as `evaluate` does, and also by the conventions with which these figures are often confused."""
    return _score(evaluation.explain, options, context)


def _score(score: Callable[..., R], options: EvaluateOptions, context: Context) -> R:
    runtimes = [open_runtime(model, options, context) for model in as_tuple(options.models)]
    scale = common_scale(runtimes, options.scale)
    data, lr = path_of(options.data), path_of(options.lr_images)
    if data is not None:
        sets = find_sets(data, scale=scale, lr=lr)
    elif lr is not None:
        raise UsageError(f"an LR folder without its images: give --data beside --lr-images {lr}")
    else:
        context.note("no --data: scoring on the embedded validation photos")
        sets = (ImageSet("embedded", embedded_pairs("val")),)
    protocol = Protocol(border=options.border, lr_border=options.lr_border, grey=options.grey)
    settings = EvaluationSettings(scale, protocol, options.self_ensemble, options.tile)
    return score(runtimes, sets, settings, context)


def _note_below_bicubic(result: Evaluation, options: EvaluateOptions, note: Note) -> None:
    """Warn of models below bicubic, and name the option if a setting missing in a teacher's file explains it."""
    bicubic, *rows = result.models.items()
    for (label, scores), model in zip(rows, as_tuple(options.models), strict=True):
        below = [
            f"{name} ({score.psnr_y:.2f} dB, bicubic {bicubic[1][name].psnr_y:.2f})"
            for name, score in scores.items()
            if score.psnr_y < bicubic[1][name].psnr_y
        ]
        if not below:
            continue
        note(f"warning: {label} is below bicubic on {', '.join(below)}")
        if isinstance(model, (str, Path)) and RUNTIMES[runtime_of(Path(model))].opens_as_teacher:
            teacher = load_teacher(model, scale=options.scale, arch_options=options.arch_options)
            advice = check_teacher(teacher).advice
            if advice is not None:
                note(f"{label}: {advice}")


def run_upscale(options: UpscaleOptions, context: Context) -> UpscaleReport:
    """Enlarge files, folders and globs; a picture that fails does not stop the rest, and the report names it.

    Outputs are written beside their sources, with `_x4` (the scale) in their names, or to `out`.
    """
    runtime = open_runtime(options.model, options, context)
    return upscaling.upscale(as_tuple(options.inputs), runtime, _upscale_settings(options), context.progress)


UpscaleResult: TypeAlias = Annotated[Any, UpscaleReport | ImageInMemory | list[ImageInMemory]]
"""The result of `upscale`. Which of these it is depends on the inputs, so it is Any to a type checker."""


def run_upscale_any(options: UpscaleOptions, context: Context) -> UpscaleResult:
    """Enlarge pictures: images in give images back, files in are written beside their sources and give a report.

    An image is a PIL image, a NumPy array (H,W,3) or a tensor (3,H,W) or (N,3,H,W), of uint8 or of floats in [0,1]; it
    comes back enlarged in the same kind and type of numbers, a list of images as a list. Nothing is written. A PIL
    image is not turned by its EXIF orientation, which it keeps, as it does its colour profile and transparency.

    Files, folders and globs give an `UpscaleReport`: a picture that fails does not stop the rest, and the report names
    it. Outputs have `_x4` (the scale) in their names, or go to `out`.

        >>> large = srkd.upscale("edsr.pt", Image.open("photos/0.png"))
        >>> report = srkd.upscale("edsr.pt", "photos/0.png", out="enlarged", overwrite=True)
    """
    inputs = as_tuple(options.inputs)
    images = [picture for picture in inputs if is_in_memory(picture)]
    if not images:
        return run_upscale(options, context)
    if len(images) < len(inputs):
        raise UsageError("files and images in memory at once: files give a report, images give images: call twice")
    for_files = ("out", "suffix", "extension", "overwrite", "skip_existing", "recursive")
    names = [name for name in for_files if getattr(options, name)]
    if names:
        raise UsageError(f"{', '.join(names)}: for files; an image comes back, and is not written")
    runtime, settings = open_runtime(options.model, options, context), _upscale_settings(options)
    enlarged = []
    for number, image in enumerate(images, start=1):
        title = "image" if len(images) == 1 else f"image {number}/{len(images)}"
        enlarged.append(upscaling.upscale_image(image, runtime, settings, partial(context.progress, title)))
    return enlarged[0] if is_in_memory(options.inputs) else enlarged


def _upscale_settings(options: UpscaleOptions) -> UpscaleSettings:
    return UpscaleSettings(
        output=options.out,
        suffix=options.suffix,
        extension=options.extension,
        overwrite=options.overwrite,
        skip_existing=options.skip_existing,
        recursive=options.recursive,
        tile=options.tile,
        overlap=options.overlap,
        self_ensemble=options.self_ensemble,
        exact=options.exact or options.precision is not None,
    )


upscale = public(UpscaleOptions, run_upscale_any, "upscale")


def run_convert(options: ConvertOptions, context: Context) -> Converted:
    """Write a network as a checkpoint of another code base: `to` is basicsr, edsr-pytorch, rcan, srkd and others.

    Facts that the file cannot hold are in `needs` of the result. For an open network `out`, the file, is required.

        >>> srkd.convert("edsr.pt", to="basicsr", out="basicsr.pth")
    """
    if not isinstance(options.model, ImageModel):
        return convert_file(
            options.model, options.to, options.out, scale=options.scale, arch_options=options.arch_options
        )
    refuse_file_options(options.scale, options.arch_options)
    if options.out is None:
        raise UsageError("an open network has no folder to write to: give out, the file to write")
    return convert_network(options.model.require_network("weights"), options.to, Path(options.out))


convert = public(ConvertOptions, run_convert, "convert")
