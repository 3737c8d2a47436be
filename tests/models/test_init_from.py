"""Initialisation from another file copies tensors of equal name and shape, and reports the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.students.init_from import initialise_from
from tests.support import official


def saved(spec: Spec, folder: Path, seed: int = 1) -> tuple[Network, Path]:
    network = build(spec, seed=seed)
    save_network(network, folder / "earlier.safetensors")
    return network, folder / "earlier.safetensors"


def test_a_student_of_another_scale_starts_from_body_and_first_upsampler(tmp_path: Path) -> None:
    earlier, path = saved(EDSRSpec(2, width=8, depth=2), tmp_path)
    student, fresh = (build(EDSRSpec(4, width=8, depth=2), seed=0) for _ in range(2))
    report = initialise_from(student, path)
    parameters, earlier_parameters, before = (dict(network.named_parameters()) for network in (student, earlier, fresh))
    for name, parameter in parameters.items():
        source = before if name.startswith("upsampler.convs.1.") else earlier_parameters
        assert torch.equal(parameter, source[name]), name
    assert report.missing == ("upsampler.convs.1.weight", "upsampler.convs.1.bias")
    assert (report.misshaped, report.unused, len(report.copied)) == ((), (), len(parameters) - 2)
    assert f"took {len(parameters) - 2} of {len(parameters)} tensors" in report.lines()[0]


def test_shapes_that_differ_are_left_and_told(tmp_path: Path) -> None:
    _, path = saved(EDSRSpec(2, width=8, depth=3), tmp_path)
    student, fresh = (build(EDSRSpec(3, width=8, depth=2), seed=0) for _ in range(2))
    report = initialise_from(student, path)
    assert report.misshaped == ("upsampler.convs.0.weight", "upsampler.convs.0.bias")
    assert report.unused == tuple(f"blocks.2.conv{k}.{kind}" for k in (1, 2) for kind in ("weight", "bias"))
    parameters, before = dict(student.named_parameters()), dict(fresh.named_parameters())
    assert all(torch.equal(parameters[name], before[name]) for name in report.misshaped)
    assert len(report.lines()) == 3


def test_a_multi_scale_file_gives_the_students_scale(tmp_path: Path) -> None:
    state = official.carn((2, 3, 4), width=8)
    torch.save(state, tmp_path / "carn.pth")
    student = build(CARNSpec(3, width=8), seed=0)
    report = initialise_from(student, tmp_path / "carn.pth")
    assert report.scale == 3 and not report.missing
    assert torch.equal(
        dict(student.named_parameters())["upsampler.convs.0.weight"], state["upsample.up3.body.0.weight"]
    )


def test_what_weights_rely_on_and_no_shape_shows_is_told(tmp_path: Path) -> None:
    spec = EDSRSpec(2, width=8, depth=2, res_scale=0.1)
    _, path = saved(spec, tmp_path)
    report = initialise_from(build(replace(spec, res_scale=1.0)), path)
    assert report.differences == ("res_scale is 0.1 in the file and 1.0 in the student",)


def test_nothing_to_take_is_an_error(tmp_path: Path) -> None:
    _, path = saved(CARNSpec(2, width=8), tmp_path)
    student = build(CompactSpec(2, width=4, depth=2), seed=0)
    with pytest.raises(UsageError, match=r"a carn, .*\(compact\)"):
        initialise_from(student, path)
    with pytest.raises(SrkdError, match="absent"):
        initialise_from(student, tmp_path / "absent.pth")
