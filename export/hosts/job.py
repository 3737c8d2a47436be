"""The job of a host's module: one student to write for it, and what it returns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError
from compressor.models.checkpoints.header import HUB_FOLDER_WEIGHTS, RUN_FOLDER_WEIGHTS
from compressor.models.networks.base import Network
from export.formats.conversion import CannotConvert, FileOptions, Size, needs_fixed_size
from export.writing.card import CardFacts
from export.writing.exporting import FileReport, Source, export_model

STUDENTS = "--student compact-s and --student plain-s"


@dataclass(frozen=True)
class HostFiles:
    """What was written for a host, and the three lines of its README."""

    files: tuple[FileReport, ...]
    place: str
    """Where to put the files."""
    call: str
    """How to call the program."""
    also: tuple[Path, ...] = ()
    """Files beside the models: a script, a description."""
    timed: Path | None = None
    """The file whose time here is stated; None if none runs here."""
    expect: str | None = None
    """What to expect where a time here would say nothing."""
    notes: tuple[str, ...] = ()
    card: str = ""
    """A model card that the README begins with in place of the program's title."""


@dataclass(frozen=True)
class HostJob:
    """One student to write into `folder` for a host of the table, by its name and title."""

    host: str
    title: str
    network: Network
    source: Source
    folder: Path
    context: Context = QUIET
    facts: CardFacts | None = None
    """What a model card says beyond the network; None: what the checkpoint's header says."""
    size: Size | None = None
    """The only LR size that the files take, for hosts with a `Host.size`; None: any."""

    def require_any_size(self, graph: str, *, why: str = "", flag: str = "") -> None:
        """Refuse a network whose `graph` holds for one size only; the line says why the host needs any size, or which
        flag of export writes one size."""
        if not needs_fixed_size(self.network):
            return
        line = f"{self.network.spec.arch} in {graph} takes one size only: {STUDENTS}"
        if flag:
            raise CannotConvert(f"{line} take any, and srkd export MODEL {flag} --static 256x256 writes that one")
        raise CannotConvert(f"{why}, and {line} run there")

    @property
    def model(self) -> str:
        """The student's name for people, without a scale."""
        return model_name(self.source)

    @property
    def scale(self) -> int:
        return self.network.descriptor.scale

    @property
    def name(self) -> str:
        """The name of files, in which programs read the scale: 4x-MODEL."""
        return f"{self.scale}x-{self.model}"

    def export(
        self,
        formats: Sequence[str],
        name: str,
        *,
        network: Network | None = None,
        folder: Path | None = None,
        options: FileOptions | None = None,
        suffix: str | None = None,
    ) -> tuple[FileReport, ...]:
        """Write formats of the table as `<name><suffix>`, each compared with the network; all of them or an error.

        Without `suffix` the name also has the format's marks.
        """
        folder = folder or self.folder
        folder.mkdir(parents=True, exist_ok=True)
        source = replace(self.source, stem=name)
        report = export_model(
            self.network if network is None else network, source, formats, folder, self.context, options=options
        )
        for file in report.files:
            if file.path is None:
                error = CannotConvert if file.verdict == "unavailable" else SrkdError
                raise error(f"{file.format}: {file.reason}")
        if suffix is None:
            return report.files
        return tuple(
            replace(file, path=file.path.rename(folder / f"{name}{suffix}")) for file in report.files if file.path
        )


def model_name(source: Source) -> str:
    """Return a name that tells the model to people: that of its folder, or of its file, without a scale.

    Programs read the scale in a name, so there must be no other one in it than the network's.
    """
    name, in_folder = source.stem, (RUN_FOLDER_WEIGHTS, HUB_FOLDER_WEIGHTS)
    if source.path is not None and source.path.name in in_folder and source.path.resolve().parent.name:
        # What srkd adds to the file's name stays: student-luma
        name = source.path.resolve().parent.name + name.removeprefix(source.path.stem)
    name = re.sub(r"(?i)(?<![a-z0-9])(x\d+|\d+x)(?![a-z0-9])", "", re.sub(r"[^\w.-]+", "-", name))
    name = re.sub(r"(?i)(\d)x(?=\d)", r"\1by", name)  # in "24x8" Upscayl finds an "x8"
    name = re.sub(r"(?i)x(\d)|(\d)x", r"\1\2", name)  # and in "animex2" an "x2"
    return re.sub(r"[-_.]{2,}", "-", name).strip("-_.") or "student"
