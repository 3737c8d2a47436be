"""Placement of images on a machine with a GPU by its free memory, with a fake GPU."""

from __future__ import annotations

import pytest
import torch

from compressor.data import placement
from compressor.data.batches import Batches
from compressor.data.decode import decode_all
from compressor.data.placement import move_patches, place_on_device
from compressor.data.store import ImageStore
from compressor.images.sets import embedded_pairs

ELSEWHERE = torch.device("meta")
"""A device without storage, which is enough to check placement."""


@pytest.fixture(scope="module")
def store() -> ImageStore:
    return decode_all(embedded_pairs("train")[:1], scale=4).select(lr_patch=8)


def test_a_store_that_fits_into_half_of_the_free_memory_goes_to_the_device(store, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(placement, "free_memory", lambda device: 2 * store.bytes)
    there = place_on_device(store, ELSEWHERE, notes.append)
    assert there.hr is not None and there.hr.flat.device == there.lr.flat.device == ELSEWHERE
    assert notes == [f"the images ({store.bytes / 1e6:.0f} MB) are on meta"]


def test_a_larger_one_stays_and_its_patches_are_carried(store, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(placement, "free_memory", lambda device: 2 * store.bytes - 1)
    here = place_on_device(store, ELSEWHERE, notes.append)
    assert here is store and len(notes) == 1 and "stay in the host's memory" in notes[0]
    batch = Batches.for_store(here, batch=2, lr_patch=8, seed=0, device=ELSEWHERE).at(1)
    assert batch.lr.device == ELSEWHERE and batch.hr is not None and batch.hr.device == ELSEWHERE
    assert tuple(batch.hr.shape) == (2, 3, 32, 32) and batch.hr.dtype == torch.float32


def test_on_a_cpu_nothing_moves_and_nothing_is_said(store):
    notes: list[str] = []
    assert place_on_device(store, torch.device("cpu"), notes.append) is store and not notes
    patches = torch.zeros(2, dtype=torch.uint8)
    assert move_patches(patches, torch.device("cpu")) is patches
