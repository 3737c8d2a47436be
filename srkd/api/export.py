"""`srkd export`: a network in the formats that other programs run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import cast

from compressor.base.cache_folder import folder_for_files
from compressor.base.context import Context, Note
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import require_writable_folder
from compressor.base.hub import repository_of
from compressor.images.scores import goal_of
from compressor.inference.open import resolve_checkpoint
from compressor.models.checkpoints.header import RUN_FOLDER_FACTS, weights_file
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import STRENGTH
from compressor.models.networks.base import ImageModel, Network
from compressor.models.students.blend import ends_of, load_blend, write_blend
from compressor.teachers.reduced import load_at_scale
from compressor.teachers.teacher import Teacher
from export.formats.conversion import FileOptions, Int8Options, Size, tuned_and_largest
from export.formats.table import FORMATS, find_formats
from export.hosts.table import HOSTS, Host
from export.hosts.writing import HUB, Export, write_export
from export.writing.card import CardFacts
from export.writing.exporting import ExportReport, Source
from srkd.options.function import public
from srkd.options.models import refuse_file_options
from srkd.options.shared import path_of
from srkd.options.values import as_tuple
from srkd.options.verbs import ExportOptions
from srkd.record.run_file import find_run_of
from srkd.record.run_teacher import find_run_teacher


def run_export(options: ExportOptions, context: Context) -> ExportReport:
    """Write a checkpoint or a run folder's student in other formats, each compared with the network before it is kept.

    Sizes are (width, height) or "WxH". For an exported file its checkpoint is used, which must be in the same folder.
    For an open network `out` is required, and the files are named after its architecture.

        >>> srkd.export("edsr.pt", formats="onnx", out="exported")
    """
    if options.strength is None:
        return write_export(decide(options, context.note), context)
    if isinstance(options.model, ImageModel):
        raise UsageError("strength: for a run folder; the network is open already: srkd.blend makes one")
    run = resolve_checkpoint(options.model, context.note)
    ends, student = ends_of(run), weights_file(run)
    if HUB in options.hosts and len(as_tuple(options.strength)) > 1:
        raise UsageError(f"--for {HUB} is a folder of one network: give one --strength")
    folder = folder_for_files(student) if options.out is None else Path(options.out)
    require_writable_folder(folder, "--out")
    exports = []
    blends = [(strength, load_blend(ends, strength)) for strength in as_tuple(options.strength)]
    for strength, loaded in blends:
        file = folder / f"{student.stem}-strength-{strength:g}.safetensors"
        write_blend(loaded, file)
        context.note(f"{file}: the student of strength {strength:g}, which the other files are made of")
        exports.append(
            decide(replace(options, model=file, out=folder, strength=None), context.note, run=student.parent)
        )
    names = ", ".join(export.source.model for export in exports)
    remarks = (f"the same network is in this folder at several strengths: {names}",) if len(exports) > 1 else ()
    reports = [write_export(replace(export, remarks=remarks), context) for export in exports]
    return replace(
        reports[-1],
        files=tuple(file for report in reports for file in report.files),
        hosts=tuple(host for report in reports for host in report.hosts),
    )


def decide(options: ExportOptions, note: Note, *, run: Path | None = None) -> Export:
    """What is exported, to where, in which files; refuse options that no file uses.

    `run` is the folder of the run that the checkpoint comes from, if it lies elsewhere.
    """
    network, source = _network_and_source(options, note, run)
    hosts, scale = tuple(HOSTS.find(name) for name in dict.fromkeys(options.hosts)), network.descriptor.scale
    folder, files = _folder(options, source), _file_options(options, hosts, source, scale, note, run)
    formats, facts = tuple(options.formats), _card_facts(source, note)
    return Export(network.deployed(), source, folder, facts, formats, files, hosts, options.push)


def _network_and_source(options: ExportOptions, note: Note, run: Path | None) -> tuple[Network, Source]:
    """The network to export, and its origin for names and metadata of its files."""
    if isinstance(options.model, ImageModel):
        refuse_file_options(options.scale, options.arch_options)
        network = options.model.require_network("weights")
        source = Source(network.architecture)
    else:
        given = resolve_checkpoint(options.model, note)
        loaded = load_checkpoint(given, scale=options.scale, arch_options=options.arch_options)
        for line in loaded.notes:
            note(f"{given}: {line}")
        network, folder = loaded.network, (run or loaded.path.parent).resolve()
        is_run = run is not None or given.is_dir() or (folder / RUN_FOLDER_FACTS).is_file()
        strength = loaded.header.get(STRENGTH, "").replace("-", "minus-")
        name = folder.name if run is None else f"{folder.name}-strength-{strength}"
        stem = f"{loaded.path.stem}-x{network.spec.scale}" if loaded.is_smaller else loaded.path.stem
        source = Source(stem, loaded.sha256, loaded.header, loaded.path, folder_name=name if is_run else None)
    if not options.luma:
        return network, source
    # The scores of the network for luma were not measured.
    header = {key: value for key, value in source.header.items() if key != "srkd.scores"}
    folder_name = None if source.folder_name is None else f"{source.folder_name}-luma"
    source = replace(source, stem=f"{source.stem}-luma", header=header, folder_name=folder_name)
    return network.deployed().in_luma(), source


def _folder(options: ExportOptions, source: Source) -> Path:
    if options.out is not None:
        return Path(options.out)
    if source.path is None:
        raise UsageError("an open network has no folder to write to: give out, the folder for the files")
    return folder_for_files(source.path)


def _file_options(
    options: ExportOptions, hosts: Sequence[Host], source: Source, scale: int, note: Note, run: Path | None
) -> FileOptions:
    """The options of the files; refuse those that no format and no host uses."""
    if hosts and options.io != "float":
        raise UsageError("--for decides the images itself: leave out --io")
    own = find_formats(options.formats) if options.formats or not hosts else ()
    of_hosts = [FORMATS[file.format] for host in hosts for file in host.files]
    has_int8 = any("int8" in row.options for row in (*own, *of_hosts))
    is_judged = has_int8 and not options.luma  # a teacher's image is RGB
    files = FileOptions(
        lr_size=cast("Size | None", options.static),
        io=options.io,
        sizes=tuned_and_largest(cast("Sequence[Size]", options.sizes)),
        int8=Int8Options(
            calibrate=path_of(options.calibrate),
            data=path_of(options.data),
            max_drop=options.max_drop,
            teacher=_int8_teacher(source, scale, note, run, trust_code=options.trust_code) if is_judged else None,
        ),
    )
    files.require_used({name for row in own for name in row.options} | ({"int8"} if has_int8 else set()))
    return files


def _int8_teacher(
    source: Source, scale: int, note: Note, run_folder: Path | None, *, trust_code: bool
) -> Callable[[], Teacher] | None:
    """The teacher whose images int8 is compared with; None: the originals, also if its file is not at hand."""
    if source.path is None or goal_of(source.header) != "teacher":
        return None
    run = find_run_teacher(run_folder or source.path.parent, note)
    if run is None:
        note("int8 is judged by the originals, as the teacher that this student imitates is not at hand")
        return None
    return cache(partial(load_at_scale, run.path, scale, arch_options=run.options or None, trust_code=trust_code))


def _card_facts(source: Source, note: Note) -> CardFacts:
    """The facts of a model card, from the checkpoint's header and its run folder."""
    facts = CardFacts(source.name, source.header, source.sha256, source.licence, source.header.get("srkd.teacher"))
    try:
        run = None if source.path is None else find_run_of(source.path.parent, source.sha256)
    except SrkdError as error:
        note(f"the card says nothing of the run: {error}")
        return facts
    if run is None or run.result is None or run.data is None:
        return facts
    teacher, result = run.teacher, run.result
    return replace(
        facts,
        teacher=facts.teacher or (None if teacher is None else teacher.path.name),
        base_model=None if teacher is None else repository_of(teacher.path),
        teacher_psnr_y=None if result.teacher is None else result.teacher.psnr_y,
        teacher_params=None if result.teacher is None or result.teacher.cost is None else result.teacher.cost.params,
        validation=_images_of_scores(run.data.validation, result.student.sets),
        code=() if run.code is None else tuple(run.code.lines()),
    )


def _images_of_scores(names: tuple[str, ...], sets: Iterable[str]) -> tuple[str, ...]:
    """The validation images of the first set, which judged the student; with several sets, names begin with theirs."""
    of_first = [f"{name}/" for name in sets if names and names[0].startswith(f"{name}/")]
    return tuple(name for name in names if name.startswith(max(of_first, key=len, default="")))


export = public(ExportOptions, ExportOptions, run_export, "export")
