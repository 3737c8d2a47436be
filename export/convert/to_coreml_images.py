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

from compressor.base.errors import SrkdError, reason_of
from compressor.base.machine import installed_version
from compressor.models.networks.base import Network
from compressor.runtimes.torch_runtime import TorchRuntime
from export.convert.coreml_program import require_on_engine, run_program
from export.convert.to_coreml import TARGETS, default_passes, read_back, require_images, require_weights
from export.formats.conversion import INPUT, OUTPUT, CannotConvert, Conversion, example_size, silence
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
    size, network = job.options.lr_size, job.network
    if size is None:
        raise CannotConvert("the neural engine takes images of one size: name it, as in --static 256x256")
    try:
        with silence():
            model = _convert_traced(network.for_size(size[1], size[0]), size)
            model.user_defined_metadata.update(job.metadata)
            kind = "RGB" if network.descriptor.channels == 3 else "grey"
            model.short_description = f"Super-resolution by {network.descriptor.scale}, {network.spec.arch}"
            model.input_description[INPUT] = f"{kind} picture of {size[0]} x {size[1]}"
            model.output_description[OUTPUT] = f"the same {network.descriptor.scale} times larger"
            model.save(str(job.path))
            program, spec = read_back(job.path)
    except Exception as error:
        raise CannotConvert(
            f"coremltools cannot convert {network.spec.arch}: {reason_of(error, first=True)}"
        ) from error
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


def _convert_traced(network: Network, size: tuple[int, int]) -> Any:
    import coremltools as ct

    example = torch.zeros(1, network.descriptor.channels, size[1], size[0])
    with torch.no_grad():
        traced = torch.jit.trace(_BetweenPictures(network).eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
    layout = ct.colorlayout.RGB if network.descriptor.channels == 3 else ct.colorlayout.GRAYSCALE
    return ct.convert(
        traced,
        inputs=[ct.ImageType(name=INPUT, shape=tuple(example.shape), color_layout=layout)],
        outputs=[ct.ImageType(name=OUTPUT, color_layout=layout)],
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT16,
        minimum_deployment_target=ct.target[TARGET],
        pass_pipeline=default_passes(),
        skip_model_load=True,
    )


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
