"""Core ML, for macOS and iOS: an .mlpackage (a folder) with an ML program in float32.

Such a program runs on macOS and iOS only. Before it gets its name, the export checks its inputs and outputs, that no
tensor has more axes than Core ML takes, and that its weights equal those of the network (or of its form for one size)
bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.base.machine import installed_version
from compressor.models.networks.base import Network
from compressor.runtimes.coreml_runtime import channels_of, read_image_format
from export.formats.conversion import INPUT, OUTPUT, CannotConvert, Conversion, refusals_of, require_size

MAX_SIDE = 2048
"""Largest side in pixels of a file for any size: Core ML needs a bound."""
MAX_AXES = 5
TARGETS = {"iOS15": "iOS 15, macOS 12", "iOS16": "iOS 16, macOS 13"}
SKIPPED_PASSES = ("common::fuse_conv_scale", "common::fuse_conv_bias")
"""Passes that multiply constants into weights; without them the weights can be compared with the network's."""
LAYERS_WITH_WEIGHTS = (nn.Conv2d, nn.Linear, nn.LayerNorm)


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the package, read it back and check it."""
    import coremltools as ct

    require_size(job, "Core ML")
    size, descriptor = job.options.lr_size, job.network.descriptor
    network = job.network if size is None else job.network.for_size(size[1], size[0])
    # Windows are made by pixel unshuffle, which exists since iOS 16.
    target = "iOS15" if network is job.network else "iOS16"
    least = -(-descriptor.min_size // descriptor.size_multiple) * descriptor.size_multiple
    width, height = size or (max(least, 64), max(least, 48))
    shape: tuple[Any, ...] = (1, descriptor.channels, height, width)
    if size is None:
        shape = (*shape[:2], ct.RangeDim(least, MAX_SIDE, height), ct.RangeDim(least, MAX_SIDE, width))
    kind = "RGB" if descriptor.channels == 3 else f"{descriptor.channels} channel"
    program, spec = write_package(
        job,
        network,
        torch.zeros(1, descriptor.channels, height, width),
        target,
        "fp32",
        ct.TensorType(name=INPUT, shape=shape, dtype=np.float32),
        ct.TensorType(name=OUTPUT, dtype=np.float32),
        f"{kind} image, float32 in [0,1], 1 x {descriptor.channels} x H x W",
        f"the same {descriptor.scale} times larger; not clamped to [0,1]",
    )
    require_images(spec, job.network, size)
    for operation in program.functions["main"].operations:
        if any(value.shape is not None and len(value.shape) > MAX_AXES for value in operation.outputs):
            raise CannotConvert(f"Core ML takes tensors of at most {MAX_AXES} axes, {operation.name} has more")
    count = require_weights(program, network)
    return {
        "coremltools": installed_version("coremltools"),
        "target": TARGETS[target],
        "operations": sum(operation.op_type != "const" for operation in program.functions["main"].operations),
        "weights_equal": f"{count} tensors",
        **({} if size is not None else {"max_size": f"{MAX_SIDE}x{MAX_SIDE}"}),
    }


def write_package(
    job: Conversion,
    module: nn.Module,
    example: torch.Tensor,
    target: str,
    precision: str,
    image: Any,
    result: Any,
    *descriptions: str,
) -> tuple[Any, Any]:
    """Convert a module from `image` to `result`, as coremltools describes them, and return what is read back."""
    import coremltools as ct

    passes: Any = ct.PassPipeline.DEFAULT
    passes.remove_passes(SKIPPED_PASSES)
    with refusals_of("coremltools", job.network), torch.no_grad():
        model: Any = ct.convert(
            torch.jit.trace(module.eval(), example, check_trace=False),  # type: ignore[no-untyped-call]
            inputs=[image],
            outputs=[result],
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
            minimum_deployment_target=ct.target[target],
            pass_pipeline=passes,
            skip_model_load=True,
        )
        model.user_defined_metadata.update(job.metadata)
        model.short_description = f"Super-resolution by {job.network.descriptor.scale}, {job.network.spec.arch}"
        model.input_description[INPUT], model.output_description[OUTPUT] = descriptions
        model.save(str(job.path))
        return read_back(job.path)


def read_back(path: Path) -> tuple[Any, Any]:
    """The program with its weights, and the description, from the package."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    return load(spec, spec.specificationVersion, str(model.weights_dir)), spec


def require_images(spec: Any, network: Network, size: tuple[int, int] | None) -> None:
    """Refuse a package that does not take and return one image of these sizes."""
    image = read_image_format(spec, "the package")
    scale, channels = network.descriptor.scale, network.descriptor.channels
    fixed = None if size is None else (1, channels, size[1] * scale, size[0] * scale)
    output = spec.description.output[0].type
    actual = tuple(output.multiArrayType.shape)
    if image.channels_last:  # a picture: its space of colours has as many channels
        picture = output.imageType
        actual = (1, channels_of(picture, "the package"), picture.height, picture.width)
    # An output size that depends on a free input size is missing, or that of the example.
    if (image.channels, image.fixed_size) != (channels, size) or (fixed is not None and actual != fixed):
        raise SrkdError(
            f"the package takes {image} and returns {actual}, the network takes {channels} channels, {size}"
        )


def require_weights(program: Any, network: Network, dtype: torch.dtype = torch.float32) -> int:
    """Refuse a package that lacks a weight in `dtype`, compared bit for bit; return the number of tensors compared."""
    stored: Counter[tuple[int, bytes]] = Counter()
    for operation in program.functions["main"].operations:
        if operation.op_type == "const" and isinstance(operation.outputs[0].val, np.ndarray):
            stored[_content(operation.outputs[0].val)] += 1
    weights = [
        (f"{name}.{kind}", tensor.detach().to(dtype).float().numpy())
        for name, module in network.named_modules()
        if isinstance(module, LAYERS_WITH_WEIGHTS)
        for kind, tensor in module.named_parameters(recurse=False)
    ]
    for name, tensor in weights:
        # A bias of zeros is left out, and equal tensors are stored once.
        if tensor.any() and not stored[_content(tensor)]:
            raise SrkdError(f"tensor {name} in the package differs from the network's")
    return len(weights)


def _content(tensor: np.ndarray[Any, Any]) -> tuple[int, bytes]:
    return tensor.size, np.ascontiguousarray(tensor, dtype=np.float32).tobytes()
