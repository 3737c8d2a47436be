"""Core ML for the neural engine: an ML program in fp16 for one size, that takes and gives a picture.

An app gives a CVPixelBuffer and gets one. Before the package gets its name, the export checks that it is so, that no
operation leaves the neural engine, that its weights are the network's rounded to fp16, and that its program, computed
by srkd, gives the network's images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.base.machine import installed_version
from compressor.models.networks.base import Network
from compressor.runtimes.torch_runtime import TorchRuntime
from export.convert.coreml_program import require_on_engine, run_program
from export.convert.to_coreml import TARGETS, require_images, require_weights, write_package
from export.formats.conversion import INPUT, OUTPUT, CannotConvert, Conversion, example_size
from export.formats.proof_inputs import proof_inputs
from export.formats.table import HALF
from export.proof.verify import Parity, verify

TARGET = "iOS16"


class _BetweenPictures(nn.Module):
    """The network between pictures of 0..255, as Core ML's pictures are."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = self.network(picture * (1 / 255)).clamp(0, 1) * 255
        return image


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the package, read it back and check it."""
    import coremltools as ct

    size, network = job.options.lr_size, job.network
    if size is None:
        raise CannotConvert("the neural engine takes images of one size: name it, as in --static 256x256")
    channels, scale = network.descriptor.channels, network.descriptor.scale
    example = torch.zeros(1, channels, size[1], size[0])
    layout = ct.colorlayout.RGB if channels == 3 else ct.colorlayout.GRAYSCALE
    program, spec = write_package(
        job,
        _BetweenPictures(network.for_size(size[1], size[0])),
        example,
        TARGET,
        "fp16",
        ct.ImageType(name=INPUT, shape=tuple(example.shape), color_layout=layout),
        ct.ImageType(name=OUTPUT, color_layout=layout),
        f"{'RGB' if channels == 3 else 'grey'} picture of {size[0]} x {size[1]}",
        f"the same {scale} times larger",
    )
    require_images(spec, network, size)
    try:
        operations = require_on_engine(program)
    except SrkdError as error:
        raise CannotConvert(f"{network.spec.arch}: {error}") from error
    count = require_weights(program, network, torch.float16)
    parity = _compared(program, network)
    psnr = "equal" if parity.psnr is None else f"{parity.psnr:.1f} dB"
    return {
        "coremltools": installed_version("coremltools"),
        "target": TARGETS[TARGET],
        "operations": operations,
        "weights_equal_in_fp16": f"{count} tensors",
        "its_program_computed_by_srkd": f"{psnr} on photos, at most {parity.max_abs:.1e} off",
    }


def _compared(program: Any, network: Network) -> Parity:
    """Return how far the program is from the network; refuse one beyond fp16. No operation of it knows its size."""
    small = replace(network.descriptor, fixed_size=example_size(network))
    inputs = [replace(sample, lr=(sample.lr * 255).round() / 255) for sample in proof_inputs(small)]
    reference = TorchRuntime(network, label="the network")

    def computed(lr: torch.Tensor) -> torch.Tensor:
        return run_program(program, (lr * 255).round()) / 255

    with torch.no_grad():
        proof = verify(computed, reference.run, inputs, replace(HALF, clipped=True))
    if proof.reason is not None or proof.parity is None:
        raise SrkdError(f"its program {proof.reason}, computed operation by operation in fp16")
    return proof.parity
