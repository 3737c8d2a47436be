"""Layers that several networks share."""

from __future__ import annotations

import pytest
import torch

from compressor.models.networks.layers import MeanShift

MEAN, RANGE = (0.4488, 0.4371, 0.4040), 255.0


@pytest.mark.parametrize("leave", [False, True])
def test_a_mean_shift_is_its_formula_in_both_forms_and_is_undone(leave: bool) -> None:
    """x → (x - mean)·range, or back: y → y/range + mean."""
    images = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * (RANGE if leave else 1)
    mean = torch.tensor(MEAN)[:, None, None]
    expected = images / RANGE + mean if leave else (images - mean) * RANGE
    for from_file in (False, True):
        layer = MeanShift(MEAN, RANGE, leave=leave, from_file=from_file)
        for _ in range(3):
            assert torch.allclose(layer(images), expected, atol=1e-6 * RANGE)
            assert torch.allclose(layer.undo(layer(images)), images, atol=1e-6 * RANGE)
            layer.become_convolution()
        assert layer.from_file and set(layer.state_dict()) == ({"weight", "bias"} if from_file else set())
