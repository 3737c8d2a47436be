"""The store, its place in memory, the sampler and the batches: the seed determines the content of every step."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.base.compute_device import ComputeDevice
from compressor.base.errors import SrkdError
from compressor.base.randomness import uniforms
from compressor.data.batches import Batches, Draw, Sampler, _gather_by_addresses, _gather_by_slices, _lines, gather
from compressor.data.decode import decode_all
from compressor.data.placement import place_on_device
from compressor.images.resize import downscale_u8
from compressor.images.sets import ImagePair, embedded_pairs, embedded_photos
from compressor.models.fitting.patches import texture_of
from tests.support.data_cache_cases import noise


def write(path: Path, pixels: np.ndarray) -> ImagePair:
    Image.fromarray(pixels).save(path)
    return ImagePair(path.stem, path, None)


@pytest.fixture
def store(tmp_path: Path):
    pairs = [write(tmp_path / f"{i}.png", noise(40 + 8 * i, 60 - 4 * i, i)) for i in range(3)]
    return decode_all(pairs, scale=4).select(lr_patch=6)


def test_store_holds_the_pixels_and_their_bicubic_lr(store, tmp_path):
    for index in range(3):
        hr = torch.from_numpy(noise(40 + 8 * index, 60 - 4 * index, index)).permute(2, 0, 1)
        assert torch.equal(store.hr.image(index), hr)
        assert torch.equal(store.lr.image(index), downscale_u8(hr, 4))


def test_store_crops_to_the_scale_and_keeps_given_lr(tmp_path):
    write(tmp_path / "a.png", noise(43, 50))
    write(tmp_path / "lr.png", noise(10, 12, 5))
    store = decode_all([ImagePair("a", tmp_path / "a.png", tmp_path / "lr.png")], scale=4).select(lr_patch=4)
    assert tuple(store.hr.image(0).shape) == (3, 40, 48)
    assert torch.equal(store.lr.image(0), torch.from_numpy(noise(10, 12, 5)).permute(2, 0, 1))


def test_store_skips_what_is_unreadable_tiny_or_mismatched_and_says_so(tmp_path):
    good = write(tmp_path / "good.png", noise(40, 40))
    tiny = write(tmp_path / "tiny.png", noise(8, 40))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    write(tmp_path / "wrong.png", noise(9, 9))
    wrong = ImagePair("x", good.hr, tmp_path / "wrong.png")
    store = decode_all([good, tiny, ImagePair("broken", broken, None), wrong], scale=4).select(lr_patch=6)
    assert store.names == ("good",)
    reasons = {skipped.path.name: skipped.reason for skipped in store.skipped}
    assert set(reasons) == {"tiny.png", "broken.png", "wrong.png"}
    assert "smaller than a patch of 24x24" in reasons["tiny.png"]
    assert "9x9" in reasons["wrong.png"] and "10x10" in reasons["wrong.png"]


def test_no_usable_image_is_one_line(tmp_path):
    tiny = write(tmp_path / "tiny.png", noise(8, 8))
    with pytest.raises(SrkdError, match="none of 1 images") as caught:
        decode_all([tiny], scale=4).select(lr_patch=6)
    assert "\n" not in str(caught.value)


def gathered_by_addresses(plane, draw, patch, scale):
    return _gather_by_addresses(plane.flat, patch, _lines(plane, draw, patch, scale))


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("vflip", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("gather", [_gather_by_slices, gathered_by_addresses])
def test_gather_is_crop_then_hflip_vflip_transpose(store, gather, hflip, vflip, transpose):
    flips = (torch.tensor([value, False]) for value in (hflip, vflip, transpose))
    draw = Draw(torch.tensor([2, 0]), torch.tensor([1, 3]), torch.tensor([2, 4]), *flips)
    patches = gather(store.hr, draw, 20, 4)
    expected = store.hr.image(2)[:, 4:24, 8:28]
    expected = expected.flip(2) if hflip else expected
    expected = expected.flip(1) if vflip else expected
    expected = expected.transpose(1, 2) if transpose else expected
    assert torch.equal(patches[0], expected)
    assert torch.equal(patches[1], store.hr.image(0)[:, 12:32, 16:36])


def test_lr_and_hr_patches_stay_aligned(tmp_path):
    """With HR of constant 4×4 cells, every LR patch must equal its HR patch's cells, for every symmetry."""
    cells = noise(10, 12, 3)
    write(tmp_path / "hr.png", cells.repeat(4, 0).repeat(4, 1))
    write(tmp_path / "lr.png", cells)
    store = decode_all([ImagePair("a", tmp_path / "hr.png", tmp_path / "lr.png")], scale=4).select(lr_patch=5)
    batch = Batches.for_store(store, batch=64, lr_patch=5, seed=1).at(0)
    assert torch.equal(batch.lr, batch.hr[:, :, ::4, ::4])
    assert len({patch.numpy().tobytes() for patch in batch.lr}) > 32


def test_batches_are_a_pure_function_of_seed_and_step(store):
    first, same, other = (Batches.for_store(store, batch=4, lr_patch=6, seed=seed) for seed in (7, 7, 8))
    later = first.at(5).digest()
    assert first.at(4).digest() != later
    assert same.at(5).digest() == later
    assert other.at(5).digest() != later


def test_a_rank_takes_its_slice_of_the_global_batch(store):
    sampler = Sampler.for_store(store, lr_patch=6, seed=3)
    whole = Batches(store, sampler, range(6)).at(2)
    ranks = [Batches(store, sampler, range(start, start + 2)).at(2) for start in (0, 2, 4)]
    assert torch.equal(whole.lr, torch.cat([rank.lr for rank in ranks]))
    assert torch.equal(whole.hr, torch.cat([rank.hr for rank in ranks]))


def test_of_several_positions_the_most_textured_is_taken(store):
    plain = Batches.for_store(store, batch=6, lr_patch=6, seed=1)
    batches = Batches.for_store(store, batch=6, lr_patch=6, seed=1, candidates=8)
    gains = 0
    for step in range(20):
        drawn, best = plain.sampler.draw(step, range(6)), batches.sampler.draw(step, range(6))
        for column in ("images", "hflip", "vflip", "transpose"):
            assert torch.equal(getattr(drawn, column), getattr(best, column))
        textures = [texture_of(gather(store.lr, draw, 6, 1)) for draw in (drawn, best)]
        assert (textures[1] >= textures[0]).all()
        gains += int((textures[1] > textures[0]).sum())
    assert gains > 60  # of 120: in seven of eight cases another position is better
    assert torch.equal(batches.at(3).lr, Batches.for_store(store, batch=6, lr_patch=6, seed=1, candidates=8).at(3).lr)
    share = batches.for_samples(range(2, 4)).at(3)
    assert torch.equal(share.lr, batches.at(3).lr[2:4]) and torch.equal(share.hr, batches.at(3).hr[2:4])


def test_every_position_symmetry_and_image_is_drawn(store):
    draw = Sampler.for_store(store, lr_patch=6, seed=0).draw(0, range(4000))
    for index in range(3):
        of_image = draw.images == index
        assert 1200 < int(of_image.sum()) < 1470
        assert int(draw.tops[of_image].min()) == 0
        assert int(draw.tops[of_image].max()) == store.lr.heights[index] - 6
        assert int(draw.lefts[of_image].max()) == store.lr.widths[index] - 6
    for switch in (draw.hflip, draw.vflip, draw.transpose):
        assert 0.46 < float(switch.float().mean()) < 0.54


def test_streams_seeds_and_steps_are_independent_and_leave_no_global_trace():
    before = torch.random.get_rng_state()
    u = uniforms("a", 0, 0, range(3), 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not np.array_equal(u, uniforms("b", 0, 0, range(3), 4))
    assert not np.array_equal(u, uniforms("a", 1, 0, range(3), 4))
    assert not np.array_equal(u, uniforms("a", 0, 1, range(3), 4))
    assert np.array_equal(u[2], uniforms("a", 0, 0, [2], 4)[0])


@pytest.mark.parametrize("count", [1, 3, 6, 9])
def test_each_sample_has_a_counter_block_of_philox_to_itself(count):
    key = int.from_bytes(hashlib.blake2b(b"a:3", digest_size=16).digest(), "little")
    expected = [
        np.random.Generator(np.random.Philox(key=key, counter=[0, sample, 2**40, 0])).random(count)
        for sample in (0, 7, 2**33)
    ]
    assert np.array_equal(uniforms("a", 3, 2**40, [0, 7, 2**33], count), np.stack(expected))
    assert uniforms("a", 3, 0, [], count).shape == (0, count)


def test_embedded_parts_are_apart_and_readable():
    parts = {part: embedded_photos(part) for part in ("train", "val", "calibration")}
    names = [name for photos in parts.values() for name in photos]
    assert all(parts.values()) and len(names) == len(set(names))
    store = decode_all(embedded_pairs("train"), scale=4).select(lr_patch=48)
    assert len(store) == len(parts["train"]) and not store.skipped


ELSEWHERE = torch.device("meta")
"""A device without storage, which is enough to check placement."""


def test_a_store_that_fits_into_half_of_the_free_memory_goes_to_the_device(store, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(ComputeDevice, "free_memory", lambda device: 2 * store.bytes)
    there = place_on_device(store, ELSEWHERE, notes.append)
    assert there.hr is not None and there.hr.flat.device == there.lr.flat.device == ELSEWHERE
    assert notes == [f"the images ({store.bytes / 1e6:.0f} MB) are on meta"]


def test_a_larger_one_stays_and_its_patches_are_carried(store, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(ComputeDevice, "free_memory", lambda device: 2 * store.bytes - 1)
    here = place_on_device(store, ELSEWHERE, notes.append)
    assert here is store and len(notes) == 1 and "stay in the host's memory" in notes[0]
    batch = Batches.for_store(here, batch=2, lr_patch=6, seed=0, device=ELSEWHERE).at(1)
    assert batch.lr.device == ELSEWHERE and batch.hr is not None and batch.hr.device == ELSEWHERE
    assert tuple(batch.hr.shape) == (2, 3, 24, 24) and batch.hr.dtype == torch.float32


def test_on_a_cpu_nothing_moves_and_nothing_is_said(store):
    notes: list[str] = []
    assert place_on_device(store, torch.device("cpu"), notes.append) is store and not notes
