"""`srkd.load`, `save`, `cost` and `build_student`: networks opened, written, counted and cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compressor.base.choices import Init, Select
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.axes import Segments
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.cost import cost as count_cost
from compressor.models.networks.image_cost import COMPARED_SIZE, Cost
from compressor.models.students.students import build_student as cut_student
from compressor.teachers.teacher import Teacher, load_teacher
from srkd.options.models import open_network, path_of_model, refuse_file_options, spec_of
from srkd.options.shared import ModelOrPath, Size
from srkd.options.values import read_size


def load(
    model: ModelOrPath,
    *,
    scale: int | None = None,
    limits: float = 1.0,
    trust_code: bool = False,
    **arch_options: object,
) -> Network | Teacher:
    """Return the network of a checkpoint or a run folder: eval mode, float RGB in [0,1], NCHW, in and out.

    A foreign file (TorchScript, ONNX, torch.export, what spandrel knows) gives a `Teacher`, with outputs only.
    ONNX files are first tried with `limits` times 60 s and 4 GB; TorchScript and torch.export programs, which may run
    any code, open with `trust_code` only. An open network is returned as it is.

        >>> teacher = srkd.load("edsr.pt")
    """
    if isinstance(model, (Network, Teacher)):
        refuse_file_options(scale, arch_options)
        return model
    teacher = load_teacher(
        path_of_model(model), scale=scale, arch_options=arch_options, limits=limits, trust_code=trust_code
    )
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
