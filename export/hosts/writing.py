"""`srkd export --for HOST`: a folder for each host, with its files, texts beside them, and a README.

Where a host shows the README as the model card, how to use the files is the card's last section. Hosts that ask more
than their row says have rules.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path, read_text, require_writable_folder
from compressor.base.hub import import_hub, push
from compressor.base.machine import count_threads, machine_facts
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.runtimes.table import RUNTIMES, OpenOptions, runtime_of
from export.convert.to_trt import build_command
from export.formats.conversion import CannotConvert, FileOptions, Int8Options, needs_fixed_size
from export.formats.table import FORMATS
from export.hosts.table import HOSTS, Host, HostFile
from export.timing.stopwatch import image_for
from export.timing.turns import take_turns
from export.writing.card import MARK as CARD_MARK
from export.writing.card import CardFacts
from export.writing.exporting import FileReport, HostFolder, Source, export_model
from export.writing.templates import render

STUDENTS = "--student compact-s and --student plain-s"
README = "README.md"
HUB = "huggingface"
"""The host whose folder can be pushed."""
MARK = "Written by srkd export."
TIMED_SIZE, TIMED_SECONDS = (320, 180), 1.0


def export_for_hosts(
    network: Network,
    source: Source,
    hosts: Sequence[str],
    out_dir: Path,
    context: Context = QUIET,
    facts: CardFacts | None = None,
    options: FileOptions | None = None,
    push_to: str | None = None,
) -> tuple[HostFolder, ...]:
    """Write `<out_dir>/<host>` for each host; one that cannot run the network does not stop the others.

    `facts` are for a host whose README is a model card; None: those of the checkpoint's header. Of `options` count the
    size, for hosts whose files take one, and those of int8. The folder of the hub is sent to the repository `push_to`.
    """
    options, network = options or FileOptions(), network.deployed()
    if push_to is not None:
        if HUB not in hosts:
            raise UsageError(f"--push sends the folder of --for {HUB}: give both")
        import_hub()
    rows = [HOSTS.find(name) for name in dict.fromkeys(hosts)]
    for host in rows:
        require_writable_folder(out_dir / host.name, "--out")
        if options.lr_size is not None and host.size is None:
            raise UsageError(
                f"--static is for hosts whose files take one size, and {host.name} takes any: leave it out"
            )
    folders = []
    for host in rows:
        files = FileOptions(lr_size=options.lr_size or host.size, int8=options.int8)
        folder = _write(HostJob(host, network, source, out_dir / host.name, context, files, facts))
        if push_to is not None and host.name == HUB and folder.folder is not None:
            folder = replace(folder, notes=(*folder.notes, f"pushed to {push(folder.folder, push_to)}"))
        folders.append(folder)
    return tuple(folders)


@dataclass(frozen=True)
class HostFiles:
    """What was written for a host."""

    files: tuple[FileReport, ...]
    also: tuple[Path, ...] = ()
    """Files beside the models."""
    remarks: tuple[str, ...] = ()
    """What is to be told of this network."""
    card: str = ""
    """A model card that the README begins with in place of the program's title."""


@dataclass(frozen=True)
class HostJob:
    """One student to write into `folder` for a host."""

    host: Host
    network: Network
    source: Source
    folder: Path
    context: Context = QUIET
    options: FileOptions = field(default_factory=FileOptions)
    """The size of the images of a host whose files take one, and how int8 is calibrated and judged."""
    facts: CardFacts | None = None
    """What a model card says beyond the network; None: what the checkpoint's header says."""

    def named(self, pattern: str) -> str:
        """A name of the pattern's `{scale}`, `{model}`, `{channels}` and `{slug}` (letters, digits and hyphens)."""
        descriptor, model = self.network.descriptor, self.source.model
        slug = re.sub("[^a-zA-Z0-9]+", "-", model).strip("-")
        return pattern.format(scale=descriptor.scale, model=model, channels=descriptor.channels, slug=slug)

    @property
    def name(self) -> str:
        """The name of files, in which programs read the scale: 4x-MODEL."""
        return self.named("{scale}x-{model}")

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

    def export(self, file: HostFile, network: Network) -> FileReport:
        """Write a file of the row, compared with the network, or raise."""
        int8 = self.options.int8 if "int8" in FORMATS[file.format].options else Int8Options()
        options = FileOptions(lr_size=self.options.lr_size, io=file.io, int8=int8)
        folder, source = self.folder / self.host.folder, replace(self.source, stem=self.name)
        reports = export_model(network, source, [file.format], folder, self.context, options=options).files
        report = next(report for report in reports if report.format == file.format)
        if report.path is None:
            error = CannotConvert if report.verdict == "unavailable" else SrkdError
            raise error(f"{file.format}: {report.reason}")
        if file.name:
            report = replace(report, path=report.path.rename(folder / self.named(file.name)))
        return report


class HostRules:
    """What a host asks of networks and files; these ask nothing but what its row says."""

    def adapt(self, job: HostJob) -> Network:
        """The network as it runs there; raise `CannotConvert` with a network that runs, if it does not."""
        return job.network

    def refusals(self, job: HostJob, path: Path) -> Iterable[str]:
        """What of a written file the host does not take, in one line each."""
        return ()

    def remarks(self, job: HostJob, network: Network) -> Iterable[str]:
        """What is to be told of a network that runs there."""
        return ()

    def write(self, job: HostJob) -> HostFiles:
        """Write the files of the row; raise `CannotConvert` for a network that the host cannot run."""
        network, files, remarks = self.adapt(job), [], []
        for file in job.host.files:
            if file.is_optional and FORMATS[file.format].missing_requirement() is not None:
                continue
            try:
                report = job.export(file, network)
                self._check(job, report)
            except CannotConvert as error:
                if not file.is_optional:
                    raise
                remarks.append(f"without {file.format}: {error}")
                continue
            files.append(report)
            if report.quality is not None:
                remarks.append(f"{file.format}: {report.quality}")
        if job.host.files and not files:
            raise CannotConvert("; ".join(remarks))
        return HostFiles(tuple(files), remarks=(*self.remarks(job, network), *remarks))

    def _check(self, job: HostJob, report: FileReport) -> None:
        """Remove a file that the host does not take, with its companions, and say why."""
        assert report.path is not None
        for reason in self.refusals(job, report.path):
            for path in _companions(report.path):
                path.unlink()
            arch = job.network.spec.arch
            raise CannotConvert(f"{job.host.title} does not run {arch} as a whole: {reason}: {STUDENTS} run there")


def rules_of(host: Host) -> HostRules:
    """The rules of a host: its own, or none beyond its row."""
    if not host.rules:
        return HostRules()
    module, _, name = host.rules.partition(":")
    rules: HostRules = getattr(importlib.import_module(module), name)()
    return rules


def _companions(path: Path) -> Iterator[Path]:
    """A file, the weights that ncnn has beside it, and its sidecar."""
    yield from {path, path.with_suffix(".bin"), path.with_name(f"{path.name}.json")} & {*path.parent.iterdir()}


def _write(job: HostJob) -> HostFolder:
    """The files of a host, or why there are none; a folder that was made for nothing is removed."""
    host, folder = job.host, job.folder
    try:
        if (refusal := job.refusal()) is not None:
            raise CannotConvert(refusal)
        written = rules_of(host).write(job)
        expect = host.expect or _time(written)
        also = [*written.also, *_write_texts(job, written, expect)]
        return HostFolder(host.name, folder, written.files, tuple(also), expect, written.remarks)
    except SrkdError as error:
        for path in (folder / host.folder, folder):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        failed = HostFolder(host.name, None, reason=str(error), verdict="failed")
        return replace(failed, verdict="unavailable") if isinstance(error, CannotConvert) else failed


def _time(written: HostFiles) -> str | None:
    """The time of an image in the first file, with what it was measured on; None if it does not run here."""
    path = written.files[0].path
    assert path is not None
    if RUNTIMES[runtime_of(path)].missing_requirement() is not None:
        return None
    runtime = open_model(path, OpenOptions(trusted=True))
    size = runtime.descriptor.fixed_size or TIMED_SIZE
    image = image_for(runtime, *size)
    (times,) = take_turns([lambda: runtime.run(image)], seconds_each=TIMED_SECONDS)
    where = f"{runtime.name} on {machine_facts()['cpu']}, {count_threads(torch.get_num_threads())}"
    return f"{times.percentile(50):.1f} ms for an image of {size[0]}x{size[1]} in srkd, {runtime.precision}, {where}"


def _write_texts(job: HostJob, written: HostFiles, expect: str | None) -> list[Path]:
    """Write the texts of the row and the README, without a README that srkd did not write."""
    host, descriptor = job.host, job.network.descriptor
    values = {
        "host": host,
        "network": job.network,
        "model": job.source.model,
        "name": job.name,
        "slug": job.named("{slug}"),
        "scale": descriptor.scale,
        "channels": descriptor.channels,
        "radius": descriptor.receptive_radius,
        "files": [file.path for file in written.files],
        "expect": expect,
        "remarks": written.remarks,
        "card": written.card,
        "mark": MARK,
        "build_command": build_command,
    }
    templates = {job.folder / job.named(name): template for name, template in host.templates.items()}
    readme, mark = job.folder / README, CARD_MARK if written.card else MARK
    if not readme.exists() or mark in read_text(readme, 10**6):
        templates[readme] = host.readme
    for path, template in templates.items():
        with atomic_path(path) as temporary:
            temporary.write_text(render(host.package, template, **values), encoding="utf-8")
    return list(templates)
