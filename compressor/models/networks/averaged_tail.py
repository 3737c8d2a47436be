"""The exact network of a smaller scale, where one convolution before a pixel shuffle makes the image.

A ×s image reduced by the mean of k×k pixels is the ×s/k image of the same body: the filters of the k×k sub-pixels that
become one are averaged. A nearest upscale of the input needs no change; a clip behind the shuffle is not averaged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import torch

from compressor.models.networks.base import Network

N = TypeVar("N", bound=Network)


@torch.no_grad()
def with_averaged_tail(network: N, scale: int) -> N | None:
    """Return the network with averaged filters in `tail`; None if quantised, unshuffling or no multiple of `scale`."""
    spec: Any = network.spec
    if spec.scale % scale or network.quantisation is not None or getattr(spec, "unshuffle", 1) > 1:
        return None
    mean = spec.scale // scale
    state = dict(network.state_dict())
    for name in ("tail.weight", "tail.bias"):
        subpixels = state[name].unflatten(0, (spec.channels, scale, mean, scale, mean))
        state[name] = subpixels.mean((2, 4)).flatten(0, 2)
    return network.filled(type(network)(replace(spec, scale=scale)), state)
