"""The eight symmetries and their inverses."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from compressor.inference.super_resolve import apply_symmetry, undo_symmetry, with_self_ensemble
from tests.support.fakes import convolutions

EIGHT = [dict(zip(("vflip", "hflip", "transpose"), flags, strict=True)) for flags in product((False, True), repeat=3)]


@pytest.mark.parametrize("flags", EIGHT)
def test_every_symmetry_is_undone(flags: dict[str, bool]) -> None:
    images = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    transformed = apply_symmetry(images, **flags)
    assert transformed.shape[-2:] == ((5, 4) if flags["transpose"] else (4, 5))
    assert torch.equal(undo_symmetry(transformed, **flags), images)


def test_the_mean_of_eight_unrounded_outputs() -> None:
    network = convolutions(2)
    lr = torch.rand(1, 3, 6, 9)
    expected = torch.stack([undo_symmetry(network(apply_symmetry(lr, **f).contiguous()), **f) for f in EIGHT]).mean(0)
    averaged = with_self_ensemble(network)(lr)
    assert torch.allclose(averaged, expected, atol=1e-6)
    assert (averaged - network(lr)).abs().max() > 1e-3
