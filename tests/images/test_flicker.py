"""Flicker: the change of enlarged images where their input stands still, and where it does."""

from __future__ import annotations

import math

import pytest
import torch

from compressor.images.flicker import BLOCK, flicker, still_pixels
from compressor.images.resize import upscale_bicubic


def scene(height: int = 48, width: int = 64, seed: int = 0) -> torch.Tensor:
    """A picture (3,h,w) of soft shapes with texture, in grey levels from 40 to 215."""
    noise = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return 40 + 175 * upscale_bicubic(noise, 4).clamp(0, 1)[0]


def with_noise(image: torch.Tensor, sigma: float, seed: int) -> torch.Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + sigma * noise).round().clamp(0, 255).to(torch.uint8)


def blocks_of(still: torch.Tensor) -> torch.Tensor:
    return still[::BLOCK, ::BLOCK]


def test_the_mean_change_by_hand() -> None:
    """Two of four pixels stand still, and change by 3 and by 5."""
    before = torch.tensor([[[[10.0, 20.0], [math.nan, math.nan]]]])
    after = torch.tensor([[[[13.0, 15.0], [200.0, 0.0]]]])
    assert flicker(after, before).item() == 4
    assert flicker(before.nan_to_num(0), torch.full_like(before, math.nan)).isnan().item()
    framed = torch.nn.functional.pad(before, (1, 1, 1, 1)), torch.nn.functional.pad(after, (1, 1, 1, 1), value=99)
    assert flicker(framed[1], framed[0], border=1).item() == 4


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_noise_stands_still(sigma: float) -> None:
    still = blocks_of(still_pixels(with_noise(scene(), sigma, 1), with_noise(scene(), sigma, 2)))
    assert still.float().mean() > 0.9


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (2, 2), (0, 8)])
def test_a_moved_block_is_left_out(shift: tuple[int, int]) -> None:
    """A textured square moves over a still background, under grain."""
    texture = scene(64, 64, seed=5)
    first, second = scene().clone(), scene().clone()
    first[:, 16:32, 24:40] = texture[:, 16:32, 16:32]
    down, right = shift
    second[:, 16:32, 24:40] = texture[:, 16 - down : 32 - down, 16 - right : 32 - right]
    still = blocks_of(still_pixels(with_noise(first, 1, 1), with_noise(second, 1, 2)))
    assert not still[2:4, 3:5].any()
    assert still[:, :3].all() and still[:2].all() and still[4:].all()


@pytest.mark.parametrize("shift", [0.5, 1])
def test_faint_waves_that_move_are_left_out(shift: float) -> None:
    """Waves as long as a block: its mean stays, and its pixels change by less than strong grain would change them."""
    columns = torch.arange(64) * 2 * torch.pi / 8
    waves, moved = (100 + 10 * torch.sin(columns - 2 * torch.pi / 8 * by).expand(3, 48, 64) for by in (0, shift))
    first, second = (scene().clone() for _ in range(2))
    first[:, :16], second[:, :16] = waves[:, :16], moved[:, :16]
    still = blocks_of(still_pixels(with_noise(first, 1, 1), with_noise(second, 1, 2)))
    assert not still[:2].any() and still[2:].all()


def test_what_says_nothing_does_not_count() -> None:
    image = with_noise(scene(), 2, 1)
    assert not still_pixels(image, image).any()  # nothing changed
    assert not still_pixels(image, with_noise(scene(seed=9), 2, 2)).any()  # a cut
    assert not still_pixels(image, with_noise(scene() + 3, 2, 2)).any()  # light
    assert not still_pixels(image[:, :7], with_noise(scene(), 2, 2)[:, :7]).any()  # no whole block
    partly = image.clone()
    partly[:, :, :32] = with_noise(scene(), 2, 3)[:, :, :32]
    still = blocks_of(still_pixels(image, partly))
    assert still[:, :4].all() and not still[:, 4:].any()
