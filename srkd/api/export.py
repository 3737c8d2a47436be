"""`srkd export`: a network in the formats that other programs run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from compressor.base.context import Context, Note
from compressor.base.errors import SrkdError, UsageError
from compressor.base.hub import import_hub, is_pulled, push, require_repository
from compressor.inference.open import resolve_checkpoint
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import ImageModel, Network
from compressor.teachers.teacher import Teacher, load_teacher
from export.formats.conversion import FileOptions, Int8Options, tuned_and_largest
from export.formats.table import Format, find_formats
from export.hosts.writing import export_for_hosts
from export.writing.card import CardFacts, write_card
from export.writing.exporting import ExportReport, HostFolder, Source, export_model, warning_about
from export.writing.record import write_record
from srkd.options.function import public
from srkd.options.models import refuse_file_options
from srkd.options.values import as_tuple, read_size, read_sizes
from srkd.options.verbs import ExportOptions
from srkd.record.run_file import find_run_of
from srkd.record.run_teacher import find_run_teacher

HUB = "huggingface"
"""The host whose folder --push sends."""


def run_export(options: ExportOptions, context: Context) -> ExportReport:
    """Write a checkpoint or a run folder's student in other formats, each compared with the network before it is kept.

    Sizes are (width, height) or "WxH". For an exported file its checkpoint is used, which must be in the same folder.
    For an open network `out` is required, and the files are named after its architecture.

        >>> srkd.export("edsr.pt", formats="onnx", out="exported")
    """
    network, source = _export_source(options, context)
    if options.luma:
        network, source = _in_luma(network, source)
    if options.out is None and source.path is None:
        raise UsageError("an open network has no folder to write to: give out, the folder for the files")
    folder = source.path.parent if source.path is not None and options.out is None else Path(options.out or "")
    if options.out is None and is_pulled(folder):
        raise UsageError("a model of the hub has no folder to write to: give --out, the folder for the files")
    hosts = as_tuple(options.hosts)
    if hosts and (options.io != "float" or options.shuffle != "crd"):
        raise UsageError("--for decides images and channel order itself: leave out --io and --shuffle")
    size = None if options.static is None else read_size(options.static)
    if options.push is not None:
        require_repository(options.push)
        if HUB not in hosts:
            raise UsageError(f"--push sends the folder of --for {HUB}: give both")
        import_hub()
    rows = () if hosts and not options.formats else find_formats(options.formats)
    file_options = FileOptions(
        lr_size=size,
        io=options.io,
        shuffle=options.shuffle,
        sizes=tuned_and_largest(None if options.sizes is None else read_sizes(options.sizes)),
        int8=Int8Options(
            calibrate=None if options.calibrate is None else Path(options.calibrate),
            data=None if options.data is None else Path(options.data),
            max_drop=options.max_drop,
            teacher=_int8_teacher(rows, source, context.note, trust_code=options.trust_code),
        ),
    )
    file_options.require_used({name for row in rows for name in row.options})
    facts = _card_facts(source, context.note)
    folders = export_for_hosts(network, source, hosts, folder, context, facts, size) if hosts else ()
    if options.push is not None:
        folders = tuple(_pushed(host, options.push) if host.host == HUB else host for host in folders)
    if hosts and not options.formats:
        warning = warning_about(source, network.descriptor.scale)
        return ExportReport((), (), warning, licence=source.licence, hosts=folders)
    report = export_model(network, source, options.formats, folder, context, options=file_options)
    if any(file.path is not None for file in report.files):
        write_record(folder, report, source.sha256)
        if write_card(folder, network, facts) is None:
            context.note(f"{folder / source.stem}.md is not a card of srkd export: it is left alone")
    return replace(report, hosts=folders)


def _pushed(host: HostFolder, repository: str) -> HostFolder:
    """Send a host's folder to the hub, if it was written."""
    if host.folder is None:
        return host
    return replace(host, notes=(*host.notes, f"pushed to {push(host.folder, repository)}"))


def _in_luma(network: Network, source: Source) -> tuple[Network, Source]:
    """The network for luma, whose files have names of their own; its scores were not measured."""
    header = {key: value for key, value in source.header.items() if key != "srkd.scores"}
    return network.deployed().in_luma(), replace(source, stem=f"{source.stem}-luma", header=header)


def _int8_teacher(rows: Sequence[Format], source: Source, note: Note, *, trust_code: bool) -> Teacher | None:
    """The teacher whose images int8 is compared with; None: the originals, also if its file is not at hand."""
    is_asked = any(row.precision == "int8" for row in rows)
    if not is_asked or source.path is None or source.header.get("srkd.goal") != "teacher":
        return None
    run = find_run_teacher(source.path.parent, note)
    if run is None:
        note("int8 is judged by the originals, as the teacher that this student imitates is not at hand")
        return None
    return load_teacher(run.path, scale=run.scale, arch_options=run.options or None, trust_code=trust_code)


def _card_facts(source: Source, note: Note) -> CardFacts:
    """The facts of a model card, from the checkpoint's header and its run folder."""
    facts = CardFacts(name=source.stem, metadata=source.header, sha256=source.sha256, licence=source.licence)
    try:
        run = None if source.path is None else find_run_of(source.path.parent, source.sha256)
    except SrkdError as error:
        note(f"the card says nothing of the run: {error}")
        return facts
    if run is None or run.result is None or run.data is None:
        return facts
    return replace(
        facts,
        teacher=None if run.teacher is None else run.teacher.path.name,
        teacher_psnr_y=None if run.result.teacher is None else run.result.teacher.psnr_y,
        teacher_params=None if run.result.teacher is None or (its := run.result.teacher.cost) is None else its.params,
        validation=_images_of_scores(run.data.validation, run.result.student.sets),
        code=() if run.code is None else tuple(run.code.lines()),
    )


def _images_of_scores(names: tuple[str, ...], sets: Iterable[str]) -> tuple[str, ...]:
    """The validation images of the first set, which judged the student; with several sets, names begin with theirs."""
    of_first = [f"{name}/" for name in sets if names and names[0].startswith(f"{name}/")]
    return tuple(name for name in names if name.startswith(max(of_first, key=len, default="")))


def _export_source(options: ExportOptions, context: Context) -> tuple[Network, Source]:
    """The network to export, and its origin for the metadata of its files."""
    if isinstance(options.model, ImageModel):
        refuse_file_options(options.scale, options.arch_options)
        network = options.model.require_network("weights")
        return network, Source(network.architecture)
    checkpoint = resolve_checkpoint(options.model, context.note)
    loaded = load_checkpoint(checkpoint, scale=options.scale, arch_options=options.arch_options)
    return loaded.network, Source(loaded.path.stem, loaded.sha256, loaded.header, loaded.path)


export = public(ExportOptions, ExportOptions, run_export, "export")
