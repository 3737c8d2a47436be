"""Core ML, for macOS and iOS: an .mlpackage (a folder) with an ML program in float32.

Such a program runs on macOS and iOS only. What can be said of it elsewhere is said before it gets its name: its inputs
and outputs, that no tensor has more axes than Core ML takes, and that its weights are the network's, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from compressor.base.errors import SrkdError
from compressor.base.machine import installed_version
from compressor.runtimes.coreml_runtime import CoreMLRuntime, read_image_format
from export.conversion import CannotConvert, Conversion
from export.fixed_copy import fixed_copy, needs_fixed_size
from export.quiet import quiet

if TYPE_CHECKING:
    from pathlib import Path

    from compressor.models.networks.base import Network
    from compressor.runtimes.base import Runtime

INPUT, OUTPUT = "lr", "sr"
LARGEST_SIDE = 2048
"""Core ML wants a bound where sizes are free."""
MOST_AXES = 5
KEPT_APART = ("common::fuse_conv_scale", "common::fuse_conv_bias")
"""Passes that multiply constants into weights: without them the weights are the network's, and can be compared."""
WEIGHTED = (nn.Conv2d, nn.Linear, nn.LayerNorm)


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the package, and read it again for what can be proved of it."""
    arch, size = job.network.spec.arch, job.choices.lr_size
    if size is None and needs_fixed_size(job.network):
        raise CannotConvert(f"{arch} in Core ML takes images of one size only: say which, --static 64x64")
    try:
        with quiet():
            model = _converted(job.network, size)
            model.user_defined_metadata.update(job.metadata)
            _describe(model, job.network)
            model.save(str(job.path))
            program, spec = _read_again(job.path)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CannotConvert(f"coremltools cannot convert {arch}: {reason[:300]}") from error
    _require_form(spec, job.network, size)
    _require_few_axes(program)
    equal = _require_weights(program, job.network)
    return {
        "coremltools": installed_version("coremltools"),
        "target": "iOS 15, macOS 12",
        "operations": sum(operation.op_type != "const" for operation in program.functions["main"].operations),
        "weights_equal": equal,
        **({} if size is not None else {"max_size": f"{LARGEST_SIDE}x{LARGEST_SIDE}"}),
    }


def open_runtime(path: Path) -> Runtime:
    return CoreMLRuntime(path)


def _converted(network: Network, size: tuple[int, int] | None) -> Any:
    import coremltools as ct

    step = network.descriptor.size_multiple
    least = -(-network.descriptor.min_size // step) * step
    width, height = size or (max(least, 64), max(least, 48))
    example = torch.zeros(1, network.descriptor.channels, height, width)
    with torch.no_grad():
        given = network if size is None else fixed_copy(network, size)
        traced = torch.jit.trace(given, example, check_trace=False)  # type: ignore[no-untyped-call]
    shape: tuple[Any, ...] = tuple(example.shape)
    if size is None:
        shape = (*shape[:2], ct.RangeDim(least, LARGEST_SIDE, height), ct.RangeDim(least, LARGEST_SIDE, width))
    passes: Any = ct.PassPipeline.DEFAULT
    passes.remove_passes(KEPT_APART)
    return ct.convert(
        traced,
        inputs=[ct.TensorType(name=INPUT, shape=shape, dtype=np.float32)],
        outputs=[ct.TensorType(name=OUTPUT, dtype=np.float32)],
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS15,
        pass_pipeline=passes,
        skip_model_load=True,
    )


def _describe(model: Any, network: Network) -> None:
    descriptor = network.descriptor
    kind = "RGB" if descriptor.channels == 3 else f"{descriptor.channels} channel"
    model.short_description = f"Super-resolution by {descriptor.scale}, {network.spec.arch}"
    model.input_description[INPUT] = f"{kind} image, float32 in [0,1], 1 x {descriptor.channels} x H x W"
    model.output_description[OUTPUT] = f"the same {descriptor.scale} times larger; not clamped to [0,1]"


def _read_again(path: Path) -> tuple[Any, Any]:
    """The program and the description as they stand in the package, weights included."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    return load(spec, spec.specificationVersion, str(model.weights_dir)), spec


def _require_form(spec: Any, network: Network, size: tuple[int, int] | None) -> None:
    """One image in, one image out, of the sizes that were asked for."""
    image = read_image_format(spec, "the package")
    scale, channels = network.descriptor.scale, network.descriptor.channels
    fixed = None if size is None else (1, channels, size[1] * scale, size[0] * scale)
    found = tuple(spec.description.output[0].type.multiArrayType.shape)
    # What follows from a free size is not stated, or with the size of the example.
    if (image.channels, image.fixed_size) != (channels, size) or (fixed is not None and found != fixed):
        raise SrkdError(f"the package takes {image} and gives {found}, the network takes {channels} channels, {size}")


def _require_few_axes(program: Any) -> None:
    for operation in program.functions["main"].operations:
        for value in operation.outputs:
            if value.shape is not None and len(value.shape) > MOST_AXES:
                raise CannotConvert(f"Core ML takes tensors of at most {MOST_AXES} axes, {operation.name} has more")


def _require_weights(program: Any, network: Network) -> str:
    """How many tensors were compared; one that is not in the package to the bit is an error."""
    there: Counter[tuple[int, bytes]] = Counter()
    for operation in program.functions["main"].operations:
        if operation.op_type == "const" and isinstance(operation.outputs[0].val, np.ndarray):
            there[_content(operation.outputs[0].val)] += 1
    wanted = [
        (f"{name}.{kind}", tensor.detach().numpy())
        for name, part in network.named_modules()
        if isinstance(part, WEIGHTED)
        for kind, tensor in part.named_parameters(recurse=False)
    ]
    for name, tensor in wanted:
        # A bias of zeros is left out, and equal tensors are kept once.
        if tensor.any() and not there[_content(tensor)]:
            raise SrkdError(f"the package does not hold {name} as the network has it")
    return f"{len(wanted)} tensors"


def _content(tensor: np.ndarray[Any, Any]) -> tuple[int, bytes]:
    return tensor.size, np.ascontiguousarray(tensor, dtype=np.float32).tobytes()
