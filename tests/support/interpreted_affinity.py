"""Runs FAKD's kernel in triton's interpreter, TRITON_INTERPRET=1, and prints its errors against the formula as JSON.

It runs in a separate process, because the interpreter permanently replaces the compiler when triton is imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import recipes.methods.fakd
from recipes.methods.fakd import affinity_l1, distances_by_rows, unit_columns
from recipes.terms.affinity_kernel import GRADIENT_CHANNELS, POSITIONS, distances_by_kernel
from tests.support.tensors import affinity, gradient_of, noise

SHAPES = {
    "one position": (2, 1, 3, 1, 1),
    "fewer than a block": (3, 5, 7, 3, 5),
    "odd blocks": (2, 16, 33, 9, 15),
    "whole blocks": (1, 32, 16, 8, 16),
    "several groups of channels": (1, 2 * GRADIENT_CHANNELS + 9, 20, 5, 14),
    "a wide teacher": (1, 20, 1024, 6, 6),
}
"""Cases by name: samples, channels of the student and of the teacher, height and width."""


def features(samples: int, student: int, teacher: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return features of student and teacher; if there is room, one position of each and the last of both are zero."""
    pair = noise(samples, student, height, width), noise(samples, teacher, height, width, seed=1)
    if width > 1:
        pair[0][0, :, 0, 0] = pair[1][-1, :, 0, -1] = 0
        for side in pair:
            side[:, :, -1, -1] = 0
    return pair


def amid_nan(columns: Tensor) -> Tensor:
    """Return the same columns surrounded by NaN in memory, so that reading beyond them changes the results."""
    samples, channels, positions = columns.shape
    memory = torch.full((samples, channels + GRADIENT_CHANNELS, positions + POSITIONS), torch.nan)
    inner = memory[:, :channels, :positions]
    return inner.copy_(columns)


def formula(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean |SᵀS - TᵀT| of each sample and its gradient, computed directly in fp64."""
    student, teacher = student.double(), teacher.double()
    difference = student.mT @ student - teacher.mT @ teacher
    signs = difference.sign()
    signs.diagonal(dim1=1, dim2=2).zero_()
    return difference.abs().mean((1, 2)), 2 * student @ signs / student.shape[2] ** 2


def largest(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference; affinities are in [-1,1], and so are distances."""
    return float((actual - expected).abs().max())


def share(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest expected value, for gradients, which N makes small."""
    return largest(actual, expected) / (float(expected.abs().max()) or 1.0)


def errors_of(shape: tuple[int, int, int, int, int]) -> dict[str, float]:
    student, teacher = (amid_nan(unit_columns(side)) for side in features(*shape))
    value, gradient = distances_by_kernel(student, teacher, True)
    alone, nothing = distances_by_kernel(student, teacher, False)
    assert gradient is not None and nothing is None
    results = {
        "without gradient": largest(alone, value),
        "equal sides": float(sum(side.abs().max() for side in distances_by_kernel(student, student, True))),
    }
    by_rows = distances_by_rows(student, teacher, True, rows=4)
    assert by_rows[1] is not None
    for name, expected in (("formula", formula(student, teacher)), ("rows", by_rows)):
        results |= {f"value, {name}": largest(value, expected[0]), f"gradient, {name}": share(gradient, expected[1])}
    return results


def layouts() -> dict[str, float]:
    """Return the errors of the whole term, from half-precision features in the layout of a run."""
    student, teacher = (
        side.bfloat16().contiguous(memory_format=torch.channels_last) for side in features(3, 6, 9, 5, 7)
    )
    assert unit_columns(student).stride(1) == 1
    upstream = torch.tensor([1.0, 3.0, -2.0])

    def weighed(term: Callable[[Tensor], Tensor], feature: Tensor) -> Tensor:
        return term(feature) * upstream

    def plain(feature: Tensor) -> Tensor:
        return (affinity(feature) - affinity(teacher)).abs().mean((1, 2))

    kernel = partial(weighed, lambda feature: affinity_l1(feature, teacher))
    expected = partial(weighed, plain)
    wide = student.float()
    return {
        "value": largest(kernel(student), expected(student)),
        "gradient": share(gradient_of(kernel, wide), gradient_of(expected, wide)),
        "half": share(gradient_of(kernel, student).float(), gradient_of(expected, wide)),
    }


def main() -> int:
    recipes.methods.fakd.kernel_for = lambda columns: distances_by_kernel  # type: ignore[assignment]
    results = {"shapes": {name: errors_of(shape) for name, shape in SHAPES.items()}, "layouts": layouts()}
    sys.stdout.write(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
