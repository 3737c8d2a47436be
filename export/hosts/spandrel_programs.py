"""spandrel, and the programs that load models with it: chaiNNer, ComfyUI, AUTOMATIC1111's web UI and InvokeAI.

They take checkpoints in home names. Read in chaiNNer-org/spandrel (libs/spandrel/spandrel/architectures) and in the
programs' pull requests ComfyUI 2146, stable-diffusion-webui 14425 and InvokeAI 6556.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from compressor.base.errors import SrkdError, UsageError, one_line
from compressor.models.checkpoints.convert import convert_network
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import Compact, CompactLayer
from compressor.models.networks.dialect import Dialect
from compressor.models.networks.registry import architecture
from compressor.runtimes.torch_runtime import TorchRuntime
from compressor.teachers.spandrel_teacher import import_spandrel, is_spandrel_installed
from export.formats.conversion import CannotConvert
from export.formats.proof_inputs import proof_inputs
from export.formats.table import Bounds
from export.hosts.writing import HostJob
from export.proof.verify import Proof, verify
from export.writing.exporting import FileReport, HostFolder

BOUNDS = Bounds(max_abs=1e-4, as_images=True)
"""spandrel's own call clips images to [0,1]."""
NOT_LOADED = "spandrel is not installed, so the file was not loaded: pip install --no-deps spandrel einops"
INSTEAD = "--student compact-s runs there"


def write(job: HostJob) -> HostFolder:
    """`4x-MODEL.pth` in its home names; if spandrel is installed, it must load it and give the same images."""
    file, notes = write_home_file(job, job.folder / f"{job.name}.pth")
    return HostFolder(job.host.name, job.folder, (file,), notes=notes)


def home_dialect(spec: Spec) -> Dialect | None:
    """Return the dialect of a network's files that spandrel reads; None if there is none."""
    return next((entry for entry in architecture(spec.arch).dialects if entry.community_name is not None), None)


def write_home_file(job: HostJob, path: Path) -> tuple[FileReport, tuple[str, ...]]:
    """Write the network in its home names, compared in spandrel if that is installed; return what to tell, too."""
    network, dialect = job.network, home_dialect(job.network.spec)
    network = _with_prelu(network) if isinstance(network, Compact) else network
    if dialect is None:
        raise CannotConvert(f"{job.host.title} loads models with spandrel, which has no {network.spec.arch}: {INSTEAD}")
    notes: list[str] = []

    def convert(temporary: Path) -> Proof | None:
        notes.extend(convert_network(network, dialect.name, temporary).notes)
        return compare_in_spandrel(temporary, job.network) if is_spandrel_installed() else None

    try:
        report = job.write_checkpoint(path, f"checkpoint of {dialect.name}", convert)
    except UsageError as error:
        raise CannotConvert(str(error)) from error
    return replace(report, reason=NOT_LOADED if report.parity is None else None), tuple(notes)


def _with_prelu(network: Compact) -> Network:
    """The same network with a slope for each channel, which alone spandrel knows."""
    if network.spec.act == "prelu" or network.quantisation is not None:
        return network
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, CompactLayer)}
    slopes = {f"{name}.slope.weight": layer.slopes.expand(network.spec.width) for name, layer in layers.items()}
    return network.filled(type(network)(replace(network.spec, act="prelu")), {**network.state_dict(), **slopes})


def compare_in_spandrel(path: Path, network: Network) -> Proof:
    """Compare the file in spandrel with the network; refuse one that it does not run.

    On images that spandrel takes as they are: it pads smaller ones (SwinIR: to 16 pixels).
    """
    try:
        with one_line("spandrel does not load it"):
            model = import_spandrel().ModelLoader(device="cpu").load_from_file(path)
    except SrkdError as error:
        raise CannotConvert(f"{error}: {INSTEAD}") from error
    model.model.eval()
    side = max(network.descriptor.min_size, model.size_requirements.minimum)

    def run(lr: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            sr: torch.Tensor = model(lr).float()
        return sr

    inputs = proof_inputs(replace(network.descriptor, min_size=side))
    proof = verify(run, TorchRuntime(network, label="the network").run, inputs, BOUNDS)
    if proof.reason is not None:
        raise CannotConvert(f"spandrel's {model.architecture.name} is another network, it {proof.reason}: {INSTEAD}")
    return proof
