"""The auxiliary heads of DS and CLSD-style: an image from any network's feature, in the student's own range."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from compressor.models.networks.base import Spec
from compressor.models.networks.cost import cost
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import NETWORKS, build
from compressor.models.networks.taps import read_taps
from recipes.methods.ds import auxiliary_head
from tests.support.networks import tiny
from tests.support.tensors import noise

FULL, NARROW = EDSRSpec(scale=3, width=64, depth=3), EDSRSpec(scale=2, width=16, depth=3)
STUDENTS = (FULL, NARROW, *(tiny(arch, 2) for arch in NETWORKS), replace(tiny("compact", 2), channels=1))


@pytest.mark.parametrize("spec", STUDENTS, ids=lambda spec: f"{spec.arch}-{spec.width}-{getattr(spec, 'channels', 3)}")
def test_a_head_makes_an_image_and_leaves_the_student_alone(spec: Spec) -> None:
    student = build(spec, seed=0)
    counted = cost(student).params
    lr = torch.rand(2, student.descriptor.channels, 6, 7)
    with torch.no_grad():
        before = student(lr)
    head = auxiliary_head(student, seed=1)
    with read_taps(student, ["head", "rel(1/3)"]) as features:
        after = student(lr)
    assert torch.equal(before, after)
    assert cost(student).params == counted == sum(p.numel() for p in student.parameters())
    sr = head(features["rel(1/3)"], features["head"])
    assert sr.shape == after.shape
    sr.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    # Blocks after the tap get no gradient from it, those before it do.
    behind = student.get_submodule(student.taps["body[1]"].module)
    assert all(p.grad is None for p in behind.parameters())
    first = student.get_submodule(student.taps["head"].module)
    assert all(p.grad is not None for p in first.parameters())


def test_a_head_is_five_blocks_of_64_channels_around_the_students_own_range() -> None:
    student = build(FULL, seed=0)
    head = auxiliary_head(student, seed=1)
    blocks, conv = 5 * 2 * (9 * 64 * 64 + 64), 9 * 64 * 64 + 64
    upsampler, tail = 9 * 64 * 576 + 576, 9 * 64 * 3 + 3
    assert sum(p.numel() for p in head.parameters()) == blocks + conv + upsampler + tail
    projected = auxiliary_head(build(NARROW, seed=0), seed=1)
    assert projected.feature_entry.weight.shape == (64, 16, 1, 1)
    with torch.no_grad():
        head.tail.weight.zero_()
        head.tail.bias.fill_(25.5)
    feature = noise(1, 64, 4, 4)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).reshape(1, 3, 1, 1)
    assert (head(feature, feature) - mean - 0.1).abs().max() < 1e-6
    again = auxiliary_head(student, seed=1)
    assert torch.equal(again.body_end.weight, head.body_end.weight)


def test_a_head_adds_the_shallow_feature_before_its_upsampler() -> None:
    student = build(FULL, seed=0)
    head = auxiliary_head(student, seed=1)
    deep, shallow = noise(1, 64, 4, 4), noise(1, 64, 4, 4, seed=1)
    x = deep
    for block in head.blocks:
        x = x + block.conv2(F.relu(block.conv1(x)))
    by_hand = head.add_mean(head.tail(head.upsampler(head.body_end(x) + shallow)))
    assert torch.equal(head(deep, shallow), by_hand)
