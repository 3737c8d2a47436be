"""Teachers: frozen models with good outputs, and the files they come from.

srkd's networks also give features and weights; a foreign model only gives outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from compressor.base.child import USUAL_LIMITS
from compressor.base.errors import MissingExtra, UsageError
from compressor.base.files import file_sha256, require_regular
from compressor.models.checkpoints.header import weights_file
from compressor.models.checkpoints.load import DoesNotFit, UnknownNetwork, load_checkpoint, read_states
from compressor.models.networks.base import Descriptor, ImageModel, Network, Spec
from compressor.models.networks.dialect import Assumption
from compressor.teachers.foreign import ForeignModel, ForeignSettings, Program
from compressor.teachers.programs import archive_kind, open_program


@dataclass(frozen=True)
class TeacherOrigin:
    """The file of a teacher, and the assumptions about it."""

    path: Path
    sha256: str
    bytes: int
    dialect: str
    wrapping: str
    assumed: tuple[Assumption, ...] = ()
    notes: tuple[str, ...] = ()
    header: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)


class Teacher(ImageModel):
    """A model in eval mode without gradients, and its origin; its `network` is set if srkd knows the architecture."""

    def __init__(self, model: ImageModel, origin: TeacherOrigin | None = None) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.origin = origin

    @property
    def network(self) -> Network | None:
        return self.model.network

    @property
    def backend(self) -> str:
        return self.model.backend

    @property
    def architecture(self) -> str:
        return self.model.architecture

    @property
    def descriptor(self) -> Descriptor:
        return self.model.descriptor

    @property
    def own_sizes(self) -> Descriptor:
        return self.model.own_sizes

    @property
    def params(self) -> int | None:
        return self.model.params

    @property
    def spec(self) -> Spec:
        return self.require_network("a spec").spec

    @property
    def device(self) -> torch.device:
        return self.model.device

    def move_to(self, device: torch.device) -> Teacher:
        self.model.move_to(device)
        return self

    def settings(self) -> Mapping[str, Any]:
        return self.model.settings()

    def alternatives(self) -> list[list[Mapping[str, Any]]]:
        """Return no alternatives for srkd's own files, which state every setting."""
        is_stated = self.origin is not None and "srkd.spec" in self.origin.header
        return [] if is_stated else self.model.alternatives()

    def with_settings(self, settings: Mapping[str, Any]) -> Teacher:
        return Teacher(self.model.with_settings(settings), self.origin)

    def fingerprint(self) -> str:
        return self.model.fingerprint()

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Return outputs without gradients, unclipped, on the device of `lr`."""
        with torch.no_grad():
            return self.as_output(self.model(lr.to(self.device))).to(lr.device)


def load_teacher(
    path: str | Path,
    *,
    scale: int | None = None,
    arch_options: Mapping[str, object] | None = None,
    limits: float = 1.0,
    trust_code: bool = False,
) -> Teacher:
    """Return the teacher in any model file: a checkpoint or run folder of srkd or a known code base, TorchScript, ONNX,
    torch.export, or a state dict that spandrel supports.

    For foreign files `arch_options` holds the options of `ForeignSettings.from_options`, and `weights`. An ONNX
    file is first tried with `limits` times the usual time and memory; programs of torch open with `trust_code` only.
    """
    path, options = weights_file(Path(path)), dict(arch_options or {})
    scale = cast("int | None", options.get("scale", scale))
    require_regular(path)
    if path.suffix.lower() == ".onnx":
        from compressor.teachers.onnx_teacher import OnnxProgram

        program = OnnxProgram(path, USUAL_LIMITS.scaled(limits))
        return _foreign_teacher(program, path, scale, options, wrapping="onnx")
    if (kind := archive_kind(path)) is not None:
        archived = open_program(kind, path, trust_code=trust_code)
        return _foreign_teacher(archived, path, scale, options, wrapping=kind)
    try:
        file = load_checkpoint(path, scale=scale, arch_options=options)
    except (UnknownNetwork, DoesNotFit) as error:
        return _open_with_spandrel(path, scale, options, error)
    origin = TeacherOrigin(
        file.path, file.sha256, file.bytes, file.dialect, file.wrapping, file.assumed, file.notes, file.header, options
    )
    return Teacher(file.network, origin)


def _open_with_spandrel(
    path: Path, scale: int | None, options: dict[str, object], first: UnknownNetwork | DoesNotFit
) -> Teacher:
    """Open tensors that fit no dialect of srkd with spandrel; if it does not know them, raise the first error."""
    from compressor.teachers.spandrel_teacher import NotKnown, is_spandrel_installed, open_spandrel

    if not is_spandrel_installed():
        if isinstance(first, DoesNotFit):
            raise DoesNotFit(f"{first}; spandrel may know it: {MissingExtra.command('spandrel')}") from first
        raise MissingExtra(f"{first}. spandrel, which knows more networks,", "spandrel") from first
    weights = options.get("weights")
    for wrapping, state in read_states(path, None if weights is None else str(weights)):
        try:
            program = open_spandrel(state, f"spandrel's {path.name}")
        except NotKnown:
            continue
        return _foreign_teacher(program, path, scale, options, wrapping=wrapping)
    raise type(first)(f"{first}; spandrel does not know it either") from first


def _foreign_teacher(
    program: Program, path: Path, scale: int | None, options: dict[str, object], *, wrapping: str
) -> Teacher:
    facts = program.facts
    of_images = {name: options[name] for name in options if name not in ("weights", "scale")}
    try:
        settings = ForeignSettings.from_options(of_images)
    except UsageError as error:
        raise UsageError(f"{path}, which {facts.backend} runs: {error}") from error
    if scale not in (None, facts.descriptor.scale):
        raise UsageError(f"{path}: the file is for scale {facts.descriptor.scale}, not {scale}")
    assumed: tuple[Assumption, ...] = ()
    if not any("range" in name for name in options):
        assumed = (Assumption("img_range", 1.0, "not in the file; images of [0,1] are what most models take"),)
    size = path.stat().st_size + sum(file.stat().st_size for file in facts.companions)
    origin = TeacherOrigin(path, file_sha256(path), size, facts.backend, wrapping, assumed, options=options)
    return Teacher(ForeignModel(program, settings), origin)
