"""`srkd export`: files by format, and for each host of `--for` a folder with its files, texts and a README.

Where a host shows the README as the model card, how to use the files is the card's last section. A host that asks more
than its row says has a module with some of these functions (`Host.rules`):

    adapt(job)              the network as it runs there
    refusals(host, path)    what of a written file it does not take, in one line each
    remarks(job, network)   what is to be told of a network that runs there
    write(job)              the folder, in place of `write_row`
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path, no_empty_folder, require_writable_folder, write_text
from compressor.base.hub import import_hub, push
from compressor.base.locks import hold_lock
from compressor.base.machine import count_threads, machine_facts
from compressor.models.networks.base import Network
from compressor.runtimes.sidecar import sidecar_path
from compressor.runtimes.table import RUNTIMES, OpenOptions
from export.convert.to_trt import build_command
from export.formats.conversion import CannotConvert, FileOptions, Int8Options, needs_fixed_size
from export.formats.table import FORMATS
from export.formats.templates import render
from export.hosts.table import Host, HostFile
from export.proof.verify import Proof
from export.timing.stopwatch import image_for
from export.timing.turns import take_turns
from export.writing.card import README_MARK, CardFacts, card_text, may_write, write_card
from export.writing.exporting import (
    ExportReport,
    FileReport,
    HostFolder,
    Source,
    export_model,
    require_free,
    warning_about,
)
from export.writing.record import write_record

STUDENTS = "--student compact-s and --student plain-s"
README = "README.md"
HUB = "huggingface"
"""The host whose folder can be pushed."""
TIMED_SIZE, TIMED_SECONDS = (320, 180), 1.0


@dataclass(frozen=True)
class Export:
    """All that is decided about an export before its first file is written."""

    network: Network
    """As it runs after training."""
    source: Source
    folder: Path
    facts: CardFacts
    """What a model card says beyond the network."""
    formats: tuple[str, ...] = ()
    options: FileOptions = field(default_factory=FileOptions)
    """Of these, hosts use the size, if their files take one, and those of int8."""
    hosts: tuple[Host, ...] = ()
    push_to: str | None = None
    """The repository to which the folder of the hub is sent."""
    remarks: tuple[str, ...] = ()
    """What the READMEs of its hosts say of it."""

    def require_possible(self) -> None:
        """Refuse, before any work, what no folder of a host can be written for."""
        if self.push_to is not None:
            if HUB not in [host.name for host in self.hosts]:
                raise UsageError(f"--push sends the folder of --for {HUB}: give both")
            import_hub()
        for host in self.hosts:
            require_writable_folder(self.folder / host.name, "--out")
            if self.options.lr_size is not None and host.size is None:
                raise UsageError(
                    f"--static is for hosts whose files take one size, and {host.name} takes any: leave it out"
                )


def write_export(export: Export, context: Context = QUIET) -> ExportReport:
    """Write the folders of the hosts and the files of the formats, with a card and a record beside them."""
    export.require_possible()
    network, source, folder = export.network, export.source, export.folder
    report = ExportReport((), ())
    hosts: dict[str, HostFolder] = {}
    # Files that take long to check come last.
    late = [host for host in export.hosts if any(FORMATS[file.format].check_seconds for file in host.files)]
    with ExitStack() as stack:
        for place in (folder, *(folder / host.name / host.folder for host in export.hosts)):
            stack.enter_context(no_empty_folder(place))
        for host in export.hosts:
            if host not in late:
                hosts[host.name] = write_host(HostJob(export, host, context))
        if export.formats or not export.hosts:
            report = export_model(network, source, export.formats, folder, context, options=export.options)
        hosts |= {host.name: write_host(HostJob(export, host, context)) for host in late}
    warning = warning_about(source, network.descriptor.scale)
    if any(file.path is not None for file in report.files):
        card = folder / f"{source.stem}.md"
        with hold_lock(folder / ".exports.lock", wait_seconds=inf):  # another export may write there
            is_ours = write_card(card, network, export.facts, write_record(folder, report, source))
        if not is_ours:
            context.note(f"{card} is not a card of srkd export: it is left alone")
    return replace(
        report, hosts=tuple(hosts[host.name] for host in export.hosts), warning=warning, licence=source.licence
    )


@dataclass(frozen=True)
class HostJob:
    export: Export
    host: Host
    context: Context = QUIET

    @property
    def network(self) -> Network:
        return self.export.network

    @property
    def folder(self) -> Path:
        return self.export.folder / self.host.name

    def named(self, pattern: str) -> str:
        """A name of the pattern's `{scale}`, `{model}`, `{channels}` and `{slug}` (letters, digits and hyphens)."""
        descriptor, model = self.network.descriptor, self.export.source.model
        slug = re.sub("[^a-zA-Z0-9]+", "-", model).strip("-")
        return pattern.format(scale=descriptor.scale, model=model, channels=descriptor.channels, slug=slug)

    @property
    def name(self) -> str:
        """The name of files, in which programs read the scale: 4x-MODEL."""
        return self.named("{scale}x-{model}")

    def rule(self, name: str) -> Callable[..., Any] | None:
        """A function of the host's module; None if it has none of that name."""
        return getattr(importlib.import_module(self.host.rules), name, None) if self.host.rules else None

    def refusal(self) -> str | None:
        """Why the host does not take the network, with a student that it takes; None if it does."""
        host, spec, descriptor = self.host, self.network.spec, self.network.descriptor
        if host.scales and descriptor.scale not in host.scales:
            scales = ", ".join(map(str, host.scales))
            return f"{host.title} runs scales {scales}, not x{descriptor.scale}: --student compact-s:scale=2 runs there"
        if not host.takes_windows and (needs_fixed_size(self.network) or descriptor.size_multiple > 1):
            return f"{host.title} does not run {spec.arch}, whose graph is for one image size: {STUDENTS} run there"
        if descriptor.channels not in host.channels:
            return f"{host.title} enlarges RGB, and this {spec.arch} has {descriptor.channels} channel: {STUDENTS} do"
        return None

    def write_file(self, file: HostFile, network: Network) -> FileReport:
        """Write a file of the row, compared with the network and checked by the host's rules, or raise."""
        given = self.export.options
        int8 = given.int8 if "int8" in FORMATS[file.format].options else Int8Options()
        options = FileOptions(lr_size=given.lr_size or self.host.size, io=file.io, int8=int8)
        folder, source = self.folder / self.host.folder, replace(self.export.source, stem=self.name)
        reports = export_model(network, source, [file.format], folder, self.context, options=options).files
        report = next(report for report in reports if report.format == file.format)
        path = report.path
        if path is None:
            error = CannotConvert if report.verdict == "unavailable" else SrkdError
            raise error(f"{file.format}: {report.reason}")
        refusals = self.rule("refusals")
        for reason in refusals(self.host, path) if refusals else ():
            _remove(path)
            arch = self.network.spec.arch
            raise CannotConvert(f"{self.host.title} does not run {arch} as a whole: {reason}: {STUDENTS} run there")
        return replace(report, path=path.rename(folder / self.named(file.name))) if file.name else report

    def write_checkpoint(self, path: Path, title: str, write: Callable[[Path], Proof | None]) -> FileReport:
        """Write a checkpoint, which `write` also opens and compares; None: it could not be compared here."""
        started = monotonic()
        require_free(path, self.export.source.reserved)
        with atomic_path(path) as temporary:
            proof = write(temporary)
            if proof is not None and proof.reason is not None:
                raise SrkdError(f"{path.name}: {proof.reason}")
        return FileReport(
            format=title,
            path=path,
            bytes=path.stat().st_size,
            precision="fp32",
            parity=None if proof is None else proof.parity,
            verdict="unproved" if proof is None else "passed",
            seconds=monotonic() - started,
            reason=None,
        )


def write_host(job: HostJob) -> HostFolder:
    """The folder of a host, or why there is none."""
    host = job.host
    try:
        if (refusal := job.refusal()) is not None:
            raise CannotConvert(refusal)
        written: HostFolder = (job.rule("write") or write_row)(job)
        written = replace(
            written, expect=host.expect or _time(job, written), notes=(*written.notes, *job.export.remarks)
        )
        written = replace(written, also=(*written.also, *_write_texts(job, written)))
    except SrkdError as error:
        unavailable = isinstance(error, CannotConvert)
        return HostFolder(host.name, None, reason=str(error), verdict="unavailable" if unavailable else "failed")
    if job.export.push_to is None or host.name != HUB:
        return written
    try:
        return replace(written, notes=(*written.notes, f"pushed to {push(job.folder, job.export.push_to)}"))
    except SrkdError as error:
        return replace(written, verdict="failed", reason=str(error))


def write_row(job: HostJob) -> HostFolder:
    """Write the files of the row; raise `CannotConvert` for a network that the host cannot run."""
    adapt, remarks = job.rule("adapt"), job.rule("remarks")
    network = adapt(job) if adapt else job.network
    files, notes = list[FileReport](), list(remarks(job, network)) if remarks else []
    for file in job.host.files:
        if file.is_optional and FORMATS[file.format].missing_requirement() is not None:
            continue
        try:
            report = job.write_file(file, network)
        except SrkdError as error:
            if not (file.is_optional and isinstance(error, CannotConvert)):
                for path in [done.path for done in files if done.path is not None]:
                    _remove(path)
                raise
            notes.append(f"without {file.format}: {error}")
            continue
        files.append(report)
        if report.quality is not None:
            notes.append(f"{file.format}: {report.quality}")
    if not files:
        raise CannotConvert("; ".join(notes))
    return HostFolder(job.host.name, job.folder, tuple(files), notes=tuple(notes))


def _remove(path: Path) -> None:
    """Remove a file of the row, the weights that ncnn has beside it, and its sidecar."""
    for written in (path, path.with_suffix(".bin"), sidecar_path(path)):
        written.unlink(missing_ok=True)


def _time(job: HostJob, written: HostFolder) -> str | None:
    """The time of an image in the first file, with what it was measured on; None if it does not run here."""
    file = written.files[0]
    row = RUNTIMES[FORMATS[file.format].runtime if file.format in FORMATS else "torch"]
    if file.path is None or row.missing_requirement() is not None:
        return None
    runtime = row.load().open_file(file.path, OpenOptions(trusted=True), QUIET)
    size = runtime.descriptor.fixed_size or TIMED_SIZE
    image = image_for(runtime, *size)
    (times,) = take_turns([lambda: runtime.run(image)], seconds_each=TIMED_SECONDS, progress=job.context.progress)
    where = f"{runtime.name} on {machine_facts()['cpu']}, {count_threads(torch.get_num_threads())}"
    return f"{times.percentile(50):.1f} ms for an image of {size[0]}x{size[1]} in srkd, {runtime.precision}, {where}"


def _write_texts(job: HostJob, written: HostFolder) -> list[Path]:
    """Write the README and the texts of the row, but leave alone what a person has made their own."""
    host, descriptor = job.host, job.network.descriptor
    values = {
        "host": host,
        "network": job.network,
        "model": job.export.source.model,
        "name": job.name,
        "slug": job.named("{slug}"),
        "scale": descriptor.scale,
        "channels": descriptor.channels,
        "radius": descriptor.receptive_radius,
        "files": [file.path for file in written.files],
        "expect": written.expect,
        "remarks": written.notes,
        "card": partial(card_text, job.network, job.export.facts),
        "mark": README_MARK,
        "build_command": build_command,
    }
    templates = {**host.templates, README: host.readme}
    texts = {job.folder / job.named(name): template for name, template in templates.items()}
    for path in (own := list(filter(may_write, texts))):
        write_text(path, render(host.package, texts[path], **values))
    for path in texts.keys() - set(own):
        job.context.note(f"{path} is not as srkd export wrote it: it is left alone")
    return own
