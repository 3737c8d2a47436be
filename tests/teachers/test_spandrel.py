"""Teachers supported by spandrel: loaded without torchvision, named when it is missing, as good as published."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import srkd
from compressor.base.errors import MissingExtra, SrkdError
from compressor.models.checkpoints.convert import convert_network, find_dialect, state_in_dialect
from compressor.models.checkpoints.load import DoesNotFit, UnknownNetwork, load_checkpoint
from compressor.models.networks.base import Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import build
from compressor.models.networks.rrdbnet import RRDBNetSpec
from compressor.models.networks.span import NO_MEAN, SPANSpec
from compressor.models.networks.swinir import SwinIRSpec
from compressor.teachers import spandrel_teacher
from compressor.teachers.teacher import load_teacher
from tests.support.commands import python
from tests.support.shared import benchmarks, needs_shared, shared

needs_spandrel = pytest.mark.skipif(
    not spandrel_teacher.is_spandrel_installed(),
    reason="spandrel is not installed: pip install --no-deps spandrel einops",
)


def test_without_spandrel_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"no_note.weight": torch.rand(4, 3, 3, 3)}, tmp_path / "unknown.pth")
    monkeypatch.setattr(spandrel_teacher, "is_spandrel_installed", lambda: False)
    with pytest.raises(MissingExtra, match=r"unknown network.*pip install 'srkd\[spandrel\]'"):
        load_teacher(tmp_path / "unknown.pth")
    with pytest.raises(MissingExtra):
        spandrel_teacher.import_spandrel()


@needs_spandrel
def test_what_spandrel_does_not_know_either_is_told_once(tmp_path: Path) -> None:
    torch.save({"no_note.weight": torch.rand(4, 3, 3, 3)}, tmp_path / "unknown.pth")
    with pytest.raises(UnknownNetwork, match=r"unknown network.*; spandrel does not know it either"):
        load_teacher(tmp_path / "unknown.pth")


@pytest.mark.ci
@needs_spandrel
def test_spandrel_is_imported_without_torchvision_and_leaves_no_stand_in() -> None:
    program = (
        "import sys, importlib.util as u; from compressor.teachers.spandrel_teacher import import_spandrel as get;"
        "had = u.find_spec('torchvision') is not None; spandrel = get();"
        "assert len(list(spandrel.MAIN_REGISTRY.architectures())) >= 40;"
        "assert had or not [name for name in sys.modules if name.startswith('torchvision')];"
        "assert had or u.find_spec('torchvision') is None; print('fine')"
    )
    outcome = python("-W", "ignore", "-c", program)
    assert outcome.out == "fine\n", outcome.err


@needs_spandrel
def test_a_network_with_the_names_of_another_goes_to_the_next_reader(tmp_path: Path) -> None:
    """HAT has all names by which SwinIR is recognised, and more tensors: srkd refused it, though spandrel reads it."""
    spandrel = spandrel_teacher.import_spandrel()
    hat = spandrel.architectures.HAT.HAT(
        embed_dim=60, depths=(2,), num_heads=(6,), window_size=4, upscale=2, img_range=1.0, upsampler="pixelshuffle"
    )
    torch.save(hat.state_dict(), tmp_path / "hat.pth")
    with pytest.raises(DoesNotFit, match="recognised as swinir"):
        load_checkpoint(tmp_path / "hat.pth")
    teacher = load_teacher(tmp_path / "hat.pth")
    assert (teacher.backend, teacher.architecture, teacher.descriptor.scale) == ("spandrel", "HAT", 2)
    assert teacher(torch.rand(1, 3, 16, 16)).shape == (1, 3, 32, 32)
    # Options of the next reader are its own.
    assert load_teacher(tmp_path / "hat.pth", arch_options={"bgr": 1}).settings() == {"bgr": 1}


def test_a_network_with_the_names_of_another_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spandrel_teacher, "is_spandrel_installed", lambda: False)
    network = build(SwinIRSpec(width=8, depths=(2,), heads=(2,), window=4, scale=2), seed=0)
    state, _ = state_in_dialect(network, find_dialect("swinir", "swinir"))
    save_as = tmp_path / "variant.pth"
    torch.save({**state, "layers.0.residual_group.blocks.0.conv_block.cab.0.weight": torch.rand(3)}, save_as)
    with pytest.raises(DoesNotFit, match=r"recognised as swinir.*1 unexpected.*pip install 'srkd\[spandrel\]'"):
        load_teacher(save_as)


@needs_spandrel
@pytest.mark.parametrize(
    ("spec", "to", "there"),
    [
        (CompactSpec(1, width=8, depth=2), "srvgg", "RealESRGAN Compact"),
        (CompactSpec(4, width=8, depth=2), "srvgg", "RealESRGAN Compact"),
        (SPANSpec(4, width=8), "span", "SPAN"),
        (SPANSpec(4, width=8, mean=NO_MEAN, img_range=1.0), "span", "SPAN"),
        (RRDBNetSpec(4, width=8, depth=1), "real-esrgan", "ESRGAN"),
        (RRDBNetSpec(2, width=8, depth=1, unshuffle=2), "esrgan", "ESRGAN"),
        (RRDBNetSpec(1, width=8, depth=1, unshuffle=4), "esrgan-old", "ESRGAN"),
    ],
    ids=str,
)
def test_spandrel_gives_the_same_image_on_the_way_home(spec: Spec, to: str, there: str, tmp_path: Path) -> None:
    network = build(spec, seed=0)
    home = convert_network(network, to, tmp_path / "home.pth").path
    model = spandrel_teacher.import_spandrel().ModelLoader().load_from_file(home)
    assert (model.architecture.name, model.scale) == (there, spec.scale)
    lr = torch.rand(1, 3, 16, 12)  # spandrel mirrors other sizes of an ESRGAN to a multiple of four
    with torch.no_grad():
        expected = network(lr)
        assert (model.model.eval()(lr) - expected).abs().max() < 1e-6 * max(1, expected.abs().max())


def test_the_stand_ins_say_what_is_missing() -> None:
    if "torchvision" in sys.modules:
        pytest.skip("torchvision is here")
    with spandrel_teacher.torchvision_stand_in():
        from torchvision.transforms.functional import normalize

        with pytest.raises(SrkdError, match="needs torchvision"):
            normalize(torch.rand(1))
    assert "torchvision" not in sys.modules


@pytest.mark.ci
@needs_shared
@needs_spandrel
@pytest.mark.parametrize(
    ("name", "kind", "psnr_y"),
    [
        ("DCTLSA_x4.pt", "spandrel", 32.52),
        ("team00_SPAN.pth", "srkd", 31.739),
        ("CRAFT_ntire2024_team34_x4.pth", "spandrel", 32.39),
        ("realesr-animevideov3_rezipped.pth", "srkd", 28.23),
    ],
)
def test_published_checkpoints_score_what_they_should(name: str, kind: str, psnr_y: float) -> None:
    path = shared() / "data" / "checkpoints" / name
    assert load_teacher(path).backend == kind
    scores = srkd.evaluate(path, data=benchmarks() / "Set5").models[path.stem]["Set5"]
    assert scores.psnr_y == pytest.approx(psnr_y, abs=0.01)
