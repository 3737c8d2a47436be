"""The photo on which networks are timed."""

from __future__ import annotations

import pytest
import torch

from compressor.images.files import grey_of
from compressor.images.sample import sample_photo


@pytest.mark.parametrize(("width", "height"), [(1, 1), (64, 48), (640, 360), (1280, 720)])
def test_it_has_any_size_and_is_the_same_each_time(width: int, height: int) -> None:
    photo = sample_photo(width, height, batch=2)
    assert photo.shape == (2, 3, height, width) and photo.is_contiguous()
    assert photo.min() >= 0 and photo.max() <= 1 and torch.equal(photo[0], photo[1])
    assert torch.equal(photo, sample_photo(width, height, batch=2))
    assert torch.allclose(sample_photo(width, height, channels=1)[0], grey_of(photo[0]))


def test_neighbours_are_alike_as_in_a_photo_also_where_it_is_mirrored() -> None:
    photo = sample_photo(1280, 720)
    noise = torch.rand(photo.shape, generator=torch.Generator().manual_seed(0))
    steps, noisy = ((image.diff(dim=3)).abs().mean(dim=(0, 1, 2)) for image in (photo, noise))
    assert steps.max() < 0.5 * noisy.mean() and photo.std() > 0.1
