"""Tiles are exact for a finite receptive field, and the seam is reported otherwise; the eight symmetries are undone."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.base.errors import SrkdError
from compressor.inference import tiling
from compressor.inference.super_resolve import with_self_ensemble
from compressor.inference.tiling import UNBOUNDED_OVERLAP, Run, Tiled, WindowProgress, pad_to, run_tiled, spans
from compressor.models.networks.base import Descriptor
from compressor.models.networks.cost import pixel_bytes
from compressor.models.networks.registry import architecture, build
from tests.support.fakes import convolutions, nearest
from tests.support.tensors import PeakMemory

SIDES = st.integers(1, 40)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def run_on(
    run: Run,
    lr: torch.Tensor,
    *,
    scale: int,
    radius: int | None,
    tile: int | None = None,
    overlap: int = UNBOUNDED_OVERLAP,
    progress: WindowProgress | None = None,
    **limits: Any,
) -> Tiled:
    """Return the output of `run_tiled` with a model of that scale and radius."""
    model = Descriptor(scale=scale, receptive_radius=radius, **limits)
    return run_tiled(run, lr, model, tile=tile, overlap=overlap, progress=progress)


@settings(max_examples=100)
@given(
    h=SIDES, w=SIDES, tile=st.integers(1, 45), radius=st.integers(0, 9), scale=st.sampled_from([1, 2, 3, 4]),
    size_multiple=st.sampled_from([1, 2, 5, 8]), min_size=st.sampled_from([1, 11]),
    images=st.integers(1, 2),
)  # fmt: skip
def test_the_identity_reproduces_every_picture(
    h: int, w: int, tile: int, radius: int, scale: int, size_multiple: int, min_size: int, images: int
) -> None:
    """All sizes, tiles, overlaps, borders, multiples; and no window of an unsupported size."""
    shapes = set()

    def run(lr: torch.Tensor) -> torch.Tensor:
        shapes.add(tuple(lr.shape[-2:]))
        return nearest(scale)(lr)

    lr = noise(images, 3, h, w)
    tiled = run_on(run, lr, scale=scale, radius=radius, tile=tile, size_multiple=size_multiple, min_size=min_size)
    assert torch.equal(tiled.sr, nearest(scale)(lr)) and tiled.seam is None
    assert len(shapes) == 1, "all windows of a picture have one size"
    assert all(side % size_multiple == 0 and side >= min_size for side in shapes.pop())


@settings(max_examples=60)
@given(h=st.integers(1, 50), w=st.integers(1, 50), tile=st.integers(1, 20), layers=st.integers(2, 5))
def test_convolutions_in_tiles_are_the_same_convolutions(h: int, w: int, tile: int, layers: int) -> None:
    """With zero padding, which must act only at the picture's border."""
    network = convolutions(2, layers)
    lr = noise(1, 3, h, w)
    assert (run_on(network, lr, scale=2, radius=layers, tile=tile).sr - network(lr)).abs().max() < 1e-5


def test_a_radius_too_small_shows() -> None:
    network = convolutions(2, 5)
    lr = noise(1, 3, 40, 40)
    assert (run_on(network, lr, scale=2, radius=2, tile=10).sr - network(lr)).abs().max() > 1e-4


def test_size_multiples_are_met_by_reflection_before_cutting() -> None:
    network = convolutions(2)
    lr = noise(1, 3, 21, 13)
    whole = network(pad_to(lr, 8))[..., :42, :26]
    assert (run_on(network, lr, scale=2, radius=3, tile=8, size_multiple=8).sr - whole).abs().max() < 1e-5
    assert pad_to(noise(1, 1, 1, 1), 8, 11).shape == (1, 1, 16, 16)
    assert pad_to(noise(1, 1, 1, 1), 1).shape == (1, 1, 1, 1)


@settings(max_examples=300)
@given(
    size=st.integers(1, 300), tile=st.integers(1, 320), margin=st.integers(0, 40), min_size=st.integers(1, 50),
    grid=st.sampled_from([1, 1, 4, 7, 8]),
)  # fmt: skip
def test_spans_cover_an_axis_once_with_windows_on_the_grid(
    size: int, tile: int, margin: int, min_size: int, grid: int
) -> None:
    """All windows are equal, but the last ones where the axis ends off the grid: they reach its end."""
    margin = -(-margin // grid) * grid
    cut = spans(size, tile, margin, grid, min_size)
    assert cut[0].length >= min(min_size, size)
    assert [position for span in cut for position in range(span.start, span.stop)] == list(range(size))
    for span in cut:
        end = span.begin + span.length
        assert span.begin % grid == 0 <= span.begin <= max(span.start - margin, 0)
        assert min(span.stop + margin, size) <= end <= size and (span.length % grid == 0 or end == size)
        assert len(cut) == 1 or span.stop - span.start <= -(-tile // grid) * grid
    assert len({span.length for span in cut[:-1]} - {cut[-1].length}) <= (grid > 1)


@pytest.mark.ci
@pytest.mark.parametrize("padding", ["network", "testscript"])
@pytest.mark.parametrize("size", [(64, 88), (50, 71)])
def test_tiles_keep_to_the_grid_of_windows(size: tuple[int, int], padding: str) -> None:
    """Tiles that begin elsewhere differ by up to 0.8 at the right and lower edge, the seam by 0.02."""
    torch.manual_seed(0)
    network = build(replace(architecture("swinir").small, scale=2, padding=padding)).eval()
    with torch.no_grad():
        for values in network.parameters():
            values.add_(torch.randn_like(values), alpha=0.05)
        lr = noise(1, 3, *size)
        whole, tiled = network(lr), run_tiled(network, lr, network.descriptor, tile=16)
        assert tiled.tile == 16 and (tiled.sr - whole).abs().max() < 1e-5
        if padding == "network" or size == (64, 88):
            fixed = replace(network.descriptor, fixed_size=(48, 48))
            assert (run_tiled(network.for_size(48, 48), lr, fixed).sr - whole).abs().max() < 1e-5


def test_an_unbounded_network_gets_a_measured_seam() -> None:
    def normalised(lr: torch.Tensor) -> torch.Tensor:
        return nearest(2)(lr - lr.mean(dim=(-2, -1), keepdim=True))

    flat_then_bright = torch.cat([torch.zeros(1, 3, 20, 20), torch.ones(1, 3, 20, 20)], dim=-1)
    tiled = run_on(normalised, flat_then_bright, scale=2, radius=None, overlap=3, tile=8)
    assert tiled.seam is not None and 0.1 < tiled.seam <= 1
    assert tiled.tile == 8
    windows = list[tuple[int, int]]()
    exact = run_on(
        nearest(2), flat_then_bright, scale=2, radius=None, overlap=3, tile=8, progress=lambda *now: windows.append(now)
    )
    assert exact.seam == 0 and windows == [(done, 15) for done in range(1, 16)]
    whole = run_on(normalised, flat_then_bright, scale=2, radius=None, tile=0)
    assert whole.seam is None and torch.equal(whole.sr, normalised(flat_then_bright))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Failed to allocate memory for requested buffer of size 123"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_tile(error: Exception) -> None:
    sides = []

    def run(lr: torch.Tensor) -> torch.Tensor:
        sides.append(lr.shape[-1])
        if lr.shape[-1] > 40:
            raise error
        return nearest(2)(lr)

    lr = noise(1, 3, 100, 120)
    tiled = run_on(run, lr, scale=2, radius=3, tile=None)
    assert torch.equal(tiled.sr, nearest(2)(lr))
    assert sides[:3] == [120, 66, 36]
    assert tiled.tile == 30


def test_hopeless_memory_and_other_failures_are_calls() -> None:
    def starved(lr: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    with pytest.raises(SrkdError, match=r"25 pixels.*smaller network or picture"):
        run_on(starved, noise(1, 3, 100, 100), scale=2, radius=3)

    def broken(lr: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run_on(broken, noise(1, 3, 9, 9), scale=2, radius=3)
    with pytest.raises(SrkdError, match=r"\(1, 3, 18, 18\).*\(1, 3, 27, 27\).*scale.* 3"):
        run_on(nearest(2), noise(1, 3, 9, 9), scale=3, radius=0)


def test_the_tile_follows_from_the_memory_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    lr = noise(1, 3, 60, 90)
    assert run_on(nearest(2), lr, scale=2, radius=4).tile is None
    bytes_per_pixel = 4 * tiling.ASSUMED_CHANNELS * (3 + 2 * 4)
    monkeypatch.setattr(tiling, "USUAL_MEMORY_BYTES", bytes_per_pixel * 20 * 20)
    monkeypatch.setattr(tiling, "AUTO_MEMORY_BYTES", bytes_per_pixel * 40 * 40)
    windows = set()

    def run(lr: torch.Tensor) -> torch.Tensor:
        windows.add(tuple(lr.shape[-2:]))
        return nearest(2)(lr)

    assert run_on(run, lr, scale=2, radius=4).tile == 32
    assert max(h * w for h, w in windows) <= 40 * 40


def test_a_network_that_sees_too_far_is_cut_with_an_overlap() -> None:
    """RealESRGAN x4plus sees 349 pixels, at 13 kB a pixel; exact tiles of 16 would compute 2,000 times the picture."""
    lr, read = noise(1, 1, 600, 1500), 0

    def run(window: torch.Tensor) -> torch.Tensor:
        nonlocal read
        read += window.numel()
        return window

    model = Descriptor(scale=1, receptive_radius=349, channels=1)
    for tile in (None, 256):
        read, tiled = 0, run_tiled(run, lr, model, tile=tile, pixel_bytes=13_068)
        assert tiled.seam == 0 and torch.equal(tiled.sr, lr) and read < 1.5 * lr.numel()
    whole = run_tiled(run, lr[..., :500], model, pixel_bytes=13_068)
    assert whole.seam is None and whole.tile is None
    assert run_tiled(run, lr, model, pixel_bytes=100, tile=400).seam is None
    assert run_tiled(run, lr, replace(model, max_size=(512, 512)), pixel_bytes=100).seam == 0


@pytest.mark.parametrize("name", ["edsr", "rcan", "carn_m", "swinir", "compact"])
def test_the_memory_of_a_pixel_is_what_a_network_takes(name: str) -> None:
    network = build(architecture(name).small, seed=1).eval()
    lr = noise(1, 3, 96, 96)
    with torch.no_grad(), PeakMemory(lr, *network.state_dict().values()) as memory:
        network(lr)
    assert memory.peak_bytes / lr[0, 0].numel() == pytest.approx(pixel_bytes(network.spec), rel=0.3)


@pytest.mark.parametrize(("radius", "multiple"), [(2, 1), (3, 4), (None, 1)])
def test_pictures_beyond_the_largest_size_are_cut(radius: int | None, multiple: int) -> None:
    sizes: list[tuple[int, ...]] = []

    def run(lr: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(lr.shape[-2:]))
        return lr

    lr = torch.rand(1, 3, 20, 70)
    for tile in (None, 0, 50):
        tiled = run_on(run, lr, scale=1, radius=radius, tile=tile, overlap=4, size_multiple=multiple, max_size=(60, 32))
        assert torch.equal(tiled.sr, lr) and tiled.tile is not None
    assert all(height <= 32 and width <= 60 for height, width in sizes)
    sizes.clear()
    assert run_on(run, lr[..., :56], scale=1, radius=radius, max_size=(60, 32)).tile is None
    assert len(sizes) == 1


def test_the_mean_of_eight_unrounded_outputs() -> None:
    """Of the quarter turns of the image and of its mirror image, each turned back."""
    network, outputs = convolutions(2), list[torch.Tensor]()
    lr = torch.rand(1, 3, 6, 9)
    for axes, turns in product(((), (-1,)), range(4)):
        output = network(lr.flip(axes).rot90(turns, (-2, -1)).contiguous())
        outputs.append(output.rot90(-turns, (-2, -1)).flip(axes))
    expected = torch.stack(outputs).mean(0)
    averaged = with_self_ensemble(network)(lr)
    assert torch.allclose(averaged, expected, atol=1e-6)
    assert (averaged - network(lr)).abs().max() > 1e-3
