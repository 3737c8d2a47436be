"""spandrel, and the programs that load models with it: chaiNNer, ComfyUI, AUTOMATIC1111's web UI and InvokeAI.

They take checkpoints in home names.

Read in chaiNNer-org/spandrel (libs/spandrel/spandrel/architectures) and in the programs' pull requests ComfyUI 2146,
stable-diffusion-webui 14425 and InvokeAI 6556.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import monotonic

import torch

from compressor.base.errors import SrkdError, UsageError, one_line
from compressor.base.files import atomic_path
from compressor.models.checkpoints.convert import convert_network
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.dialect import Dialect
from compressor.models.networks.registry import architecture
from compressor.teachers.spandrel_teacher import import_spandrel, is_spandrel_installed
from export.formats.conversion import CannotConvert
from export.formats.proof_inputs import proof_inputs
from export.formats.table import Bounds
from export.hosts.writing import HostFiles, HostJob, HostRules
from export.proof.verify import Parity, compare
from export.writing.exporting import FileReport, require_free

BOUNDS = Bounds(max_abs=1e-4, as_images=True)
"""spandrel's own call clips images to [0,1]."""
NOT_LOADED = "spandrel is not installed, so the file was not loaded: pip install --no-deps spandrel einops"
INSTEAD = "--student compact-s runs there"


class HomeNames(HostRules):
    """`4x-MODEL.pth` in its home names; if spandrel is installed, it must load it and give the same images."""

    def write(self, job: HostJob) -> HostFiles:
        file, remarks = write_home_file(job, job.folder / f"{job.name}.pth")
        return HostFiles((file,), remarks=remarks)


def home_dialect(spec: Spec) -> Dialect | None:
    """Return the dialect of a network's files that spandrel reads; None if there is none."""
    return next((entry for entry in architecture(spec.arch).dialects if entry.community_name is not None), None)


def write_home_file(job: HostJob, path: Path) -> tuple[FileReport, tuple[str, ...]]:
    """Write the network in its home names, compared in spandrel if that is installed; return what to tell, too."""
    network, started = job.network, monotonic()
    dialect = home_dialect(network.spec)
    if dialect is None:
        raise CannotConvert(f"{job.host.title} loads models with spandrel, which has no {network.spec.arch}: {INSTEAD}")
    require_free(path, job.source.reserved)
    try:
        with atomic_path(path) as temporary:
            converted = convert_network(network, dialect.name, temporary)
            parity = compare_in_spandrel(temporary, network) if is_spandrel_installed() else None
    except UsageError as error:
        raise CannotConvert(str(error)) from error
    report = FileReport(
        format=f"checkpoint of {converted.to}",
        path=path,
        bytes=converted.bytes,
        precision="fp32",
        parity=parity,
        verdict="unproved" if parity is None else "passed",
        seconds=monotonic() - started,
        reason=NOT_LOADED if parity is None else None,
    )
    return report, converted.notes


def compare_in_spandrel(path: Path, network: Network) -> Parity:
    """Return the largest difference between the file in spandrel and the network; refuse one that it doesn't run.

    On images that spandrel takes as they are: it pads smaller ones (SwinIR: to 16 pixels).
    """
    try:
        with one_line("spandrel does not load it"):
            model = import_spandrel().ModelLoader(device="cpu").load_from_file(path)
    except SrkdError as error:
        raise CannotConvert(f"{error}: {INSTEAD}") from error
    model.model.eval()
    side = max(network.descriptor.min_size, model.size_requirements.minimum)
    largest: Parity | None = None
    for sample in proof_inputs(replace(network.descriptor, min_size=side)):
        with torch.no_grad():
            outcome = compare(sample, model(sample.lr).float(), network(sample.lr), BOUNDS)
        if outcome.reason is not None:
            raise CannotConvert(
                f"spandrel's {model.architecture.name} is another network, it {outcome.reason}: {INSTEAD}"
            )
        if largest is None or outcome.parity.max_abs > largest.max_abs:
            largest = outcome.parity
    if largest is None:
        raise SrkdError("there are no images to compare on")
    return largest
