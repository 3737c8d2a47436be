"""The operations of an ML program that the neural engine runs, and a program's images computed from them by torch.

Apple publishes no list of what its neural engine runs. That of operations here is from the table of all 187 operations
by chip in ane-guide.readthedocs.io (appendix A, measured on M1, M2 and M5) and aneforge.readthedocs.io (op-catalog),
those that convolutional networks need, native on every chip from the M1 on. What Apple does say: the engine computes in
fp16 only (coremltools, guide "Typed Execution"), runs every enumerated size but of a range of sizes only the default
(Apple's engineers, developer.apple.com/forums/thread/724930), and wants four axes with channels second
(machinelearning.apple.com/research/neural-engine-transformers). What each operation computes is in coremltools,
converters/mil/mil/ops/defs/iOS15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from compressor.base.errors import SrkdError

MOST_AXES = 4
Arguments = Mapping[str, Any]


def _convolve(a: Arguments) -> torch.Tensor:
    kind = a.get("pad_type", "valid")
    if kind not in ("valid", "custom"):
        raise SrkdError(f"a convolution has padding of kind {kind}")
    top, bottom, left, right = (int(side) for side in (a["pad"] if kind == "custom" else (0, 0, 0, 0)))
    images = functional.pad(a["x"], (left, right, top, bottom))
    strides, dilations = (tuple(map(int, a.get(name, (1, 1)))) for name in ("strides", "dilations"))
    return functional.conv2d(images, a["weight"], a.get("bias"), strides, 0, dilations, int(a.get("groups", 1)))


def _enlarge(a: Arguments) -> torch.Tensor:
    factors = (float(a["scale_factor_height"]), float(a["scale_factor_width"]))
    return functional.interpolate(a["x"], scale_factor=factors, mode="nearest")


OPERATIONS: Mapping[str, Callable[[Arguments], torch.Tensor]] = {
    "add": lambda a: a["x"] + a["y"],
    "sub": lambda a: a["x"] - a["y"],
    "mul": lambda a: a["x"] * a["y"],
    "clip": lambda a: a["x"].clamp(float(a["alpha"]), float(a["beta"])),
    "concat": lambda a: torch.cat(a["values"], int(a["axis"])),
    "conv": _convolve,
    "leaky_relu": lambda a: functional.leaky_relu(a["x"], float(a["alpha"])),
    "pixel_shuffle": lambda a: functional.pixel_shuffle(a["x"], int(a["upscale_factor"])),
    "prelu": lambda a: functional.prelu(a["x"], a["alpha"]),
    "reduce_mean": lambda a: a["x"].mean(tuple(map(int, a["axes"])), keepdim=bool(a.get("keep_dims", False))),
    "relu": lambda a: a["x"].relu(),
    "sigmoid": lambda a: a["x"].sigmoid(),
    "silu": lambda a: functional.silu(a["x"]),
    "upsample_nearest_neighbor": _enlarge,
}
"""What the neural engine runs, computed in float32; the program's type rounds each result."""
AT_THE_ENDS = "cast"
"""A picture is float32 in a program; its first and its last operation turn it into fp16 and back."""


def require_on_engine(program: Any) -> int:
    """Refuse a program that leaves the neural engine; return the number of its operations."""
    operations = [one for one in program.functions["main"].operations if one.op_type != "const"]
    inside = operations[1:-1]
    for one in inside:
        types = {_type(value) for value in one.outputs}
        axes = max(len(value.shape) for value in one.outputs)
        if one.op_type not in OPERATIONS or types != {"fp16"} or axes > MOST_AXES:
            raise SrkdError(
                f"{one.op_type} in {'/'.join(sorted(types))} with {axes} axes leaves the neural engine, which runs "
                f"{', '.join(OPERATIONS)} in fp16 with {MOST_AXES} axes"
            )
    if [one.op_type for one in operations if one not in inside] != [AT_THE_ENDS] * 2:
        raise SrkdError(f"the program begins with {operations[0].op_type} and ends with {operations[-1].op_type}")
    return len(operations)


def run_program(program: Any, images: torch.Tensor) -> torch.Tensor:
    """Return what a program computes from images in 0..255, each operation's result rounded to the program's type.

    Core ML may fuse operations and then rounds less often, and the neural engine's sums are its own: this shows that
    the program is the network's, not what a device computes.
    """
    function = program.functions["main"]
    values: dict[str, Any] = dict.fromkeys(function.inputs, images)
    for one in function.operations:
        if one.op_type == "const":
            continue
        arguments = {name: _argument(value, values) for name, value in one.inputs.items() if value is not None}
        result = arguments["x"] if one.op_type == AT_THE_ENDS else OPERATIONS[one.op_type](arguments)
        (output,) = one.outputs
        values[output.name] = result.half().float() if _type(output) == "fp16" else result
    result = values[function.outputs[0].name]
    assert isinstance(result, torch.Tensor)
    return result


def _type(value: Any) -> str:
    return str(getattr(value.dtype, "__name__", value.dtype))


def _argument(value: Any, values: Mapping[str, Any]) -> Any:
    """Return a computed tensor, or a constant: an array of floats as a tensor, everything else as it is."""
    if isinstance(value, (list, tuple)):
        return [_argument(item, values) for item in value]
    if value.name in values:
        return values[value.name]
    constant = value.val
    if isinstance(constant, np.floating) or (isinstance(constant, np.ndarray) and constant.dtype.kind == "f"):
        return torch.from_numpy(np.array(constant, dtype=np.float32))
    return constant
