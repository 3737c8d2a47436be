"""Compiles FAKD's kernel for NVIDIA GPUs, without one, and prints the result as JSON: `... FOLDER` is the cache.

It runs in a separate process, in which triton always compiles. The signatures are those of a launch:
pointers are aligned; strides and other numbers that are one become constants.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

os.environ |= {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": sys.argv[1]}

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from recipes.terms.affinity_kernel import LAUNCH, PRECISION, affinity_kernel, sizes_for

POINTERS = ("student", "teacher", "sums", "gradient")
ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Case:
    """A student's channels, and the endings of names of launch parameters that are one."""

    channels: int
    ones: tuple[str, ...]
    with_gradient: bool = True
    aligned: bool = True
    precision: str = PRECISION


CASES = {
    "narrow": Case(24, ("position_stride",)),
    "channels last": Case(64, ("channel_stride",)),
    "wide": Case(1024, ("position_stride",), aligned=False),
    "wide, channels last": Case(1024, ("channel_stride",), aligned=False),
    "value alone": Case(64, ("channel_stride",), with_gradient=False),
    "one channel of one position": Case(1, ("_stride", "_channels", "positions")),
    "products on tensor cores": Case(64, ("channel_stride",), precision="tf32x3"),
}


def source(case: Case) -> Any:
    """Return the kernel with the types and constants of a case's launch."""
    chosen = sizes_for(case.channels, with_gradient=case.with_gradient) | {"precision": case.precision}
    signature: dict[str, str] = {}
    constants: dict[tuple[int], object] = {}
    attributes: dict[tuple[int], object] = {}
    for place, name in enumerate(affinity_kernel.arg_names):
        if name in chosen or name.endswith(case.ones):
            signature[name], constants[(place,)] = "constexpr", chosen.get(name, 1)
        elif name == "gradient_factor":
            signature[name] = "fp32"
        else:
            signature[name] = "*fp32" if name in POINTERS else "i32"
            if name in POINTERS or case.aligned:
                attributes[(place,)] = ALIGNED
    return ASTSource(affinity_kernel, signature, constants, attributes)


def compiled(case: Case, capability: int) -> dict[str, Any]:
    kernel = triton.compile(source(case), target=GPUTarget("cuda", capability, 32), options=dict(LAUNCH))
    ptx = kernel.asm["ptx"]
    return {
        "machine_code": len(kernel.asm["cubin"]),
        "shared": kernel.metadata.shared,
        "target": next(line for line in ptx.splitlines() if line.startswith(".target")),
        "atomics": len(re.findall(r"(?m)^\s*(?:@\S+ )?(?:atom|red)\.", ptx)),
        "fp32": ptx.count("fma.rn.f32"),
        "tensor_cores": ptx.count("mma.sync") + ptx.count("wgmma.mma"),
    }


def main() -> int:
    # Each case for one of the two GPUs, by turns: its shapes do not depend on the capability.
    capabilities = {name: (80, 90)[place % 2] for place, name in enumerate(CASES)}
    results = {f"{name}, {capability}": compiled(CASES[name], capability) for name, capability in capabilities.items()}
    sys.stdout.write(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
