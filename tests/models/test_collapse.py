"""Collapsed branches compute what the branches do, also at borders."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError
from compressor.models.networks.collapse import Kernel, in_parallel, in_series


def branch(*widths: int, sides: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(len(widths))
    convs = (nn.Conv2d(a, b, side) for (a, b), side in zip(pairwise(widths), sides, strict=True))
    return nn.Sequential(*convs).double()


def kernels(layers: nn.Sequential) -> list[Kernel]:
    return [Kernel.of(layers.state_dict(), str(index)) for index in range(len(layers))]


@pytest.mark.parametrize("sides", [(1, 3, 1), (3, 1), (1, 1, 3), (1, 5), (1,)])
def test_branches_equal_their_collapsed_form_up_to_the_border(sides: tuple[int, ...]) -> None:
    long = branch(*(4, 8, 6, 5)[: len(sides)], 5, sides=sides)
    short = branch(4, 5, sides=(1,))
    weight, bias = in_parallel(in_series(*kernels(long)), in_series(*kernels(short)))
    x, border = torch.rand(2, 4, 6, 7).double(), max(sides) // 2
    expected = long(F.pad(x, [border] * 4)) + short(x)  # the padding comes before the first bias
    torch.testing.assert_close(F.conv2d(x, weight, bias, padding=border), expected, atol=1e-13, rtol=0)


def test_what_is_no_branch_is_refused() -> None:
    state = branch(4, 8, 5, sides=(1, 3)).state_dict()
    refusals: list[tuple[dict[str, torch.Tensor | None], str]] = [
        ({"0.bias": None}, "tensor 0.bias is missing"),
        ({"0.bias": torch.zeros(8, dtype=torch.int32)}, r"0.bias is \(8,\), torch.int32"),
        ({"0.weight": torch.zeros(8, 4, 1)}, r"0.weight is \(8, 4, 1\)"),
        ({"0.weight": torch.zeros(8, 4, 2, 2)}, "0 has 8 outputs of 2×2"),
        ({"0.bias": torch.zeros(7)}, "0 has 8 outputs of 1×1 and 7 biases"),
        ({"1.weight": torch.zeros(5, 7, 3, 3)}, "8 outputs precedes"),
        ({"0.weight": torch.zeros(8, 4, 3, 3)}, "two convolutions larger"),
    ]
    for change, message in refusals:
        changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        with pytest.raises(SrkdError, match=message):
            in_series(*(Kernel.of(changed, layer) for layer in ("0", "1")))
    with pytest.raises(SrkdError, match="no sum"):
        in_parallel(*kernels(branch(4, 8, 5, sides=(1, 1))))
