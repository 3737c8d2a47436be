"""A run of ONNX Runtime on tensors where they lie, without a copy to the host and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

ELEMENTS: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float16: np.float16, torch.uint8: np.uint8}


def run_bound(
    session: Any, given: str, fed: torch.Tensor, taken: str, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    """`fed`, as the input `given`, through a session on its device: the output `taken`, of that shape and type, is made
    there too.

    ONNX Runtime works on a stream of its own: torch's is waited for before, ONNX Runtime's after.
    """
    fed = fed.detach().contiguous()
    out = torch.empty(shape, dtype=dtype, device=fed.device)
    if fed.device.type == "cuda":
        torch.cuda.current_stream(fed.device).synchronize()
    binding = session.io_binding()
    kind, index = fed.device.type, fed.device.index or 0
    binding.bind_input(given, kind, index, ELEMENTS[fed.dtype], tuple(fed.shape), fed.data_ptr())
    binding.bind_output(taken, kind, index, ELEMENTS[dtype], shape, out.data_ptr())
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return out
