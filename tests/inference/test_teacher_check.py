"""The teacher check: good ones pass, wrong settings are named, noise is not explained, nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import srkd
from compressor.base.errors import SrkdError
from compressor.inference.teacher_check import EXPECTED_DB, NEARER_DB, check_teacher
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import Compact, CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.layers import DIV_FLICKR_MEAN
from compressor.models.networks.registry import build
from compressor.teachers.teacher import load_teacher
from srkd.cli.main import run
from tests.support.foreign_models import Particular, save_torchscript
from tests.support.shared import needs_shared, shared


def fitted(spec: Spec, bend: float = 0.05, offset: float = 0.0) -> Network:
    """Return a network that repeats pixels, made by hand; its residual branches, times `bend`, are random and add
    `offset`.
    """
    network = build(spec, seed=0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("blocks", "groups")):
                parameter.mul_(bend).add_(offset if name.endswith("conv2.bias") else 0.0)
            else:
                parameter.zero_()
        width, factors = network.head.weight.shape[0], network.upsampler.factors  # type: ignore[union-attr, operator]
        for colour in range(3):
            network.head.weight[colour, colour, 1, 1] = 1.0  # type: ignore[union-attr, operator, index]
            network.body_end.weight[colour, colour, 1, 1] = 1.0  # type: ignore[union-attr, operator, index]
            network.tail.weight[colour, colour, 1, 1] = 0.5  # type: ignore[union-attr, operator, index]
        for conv, factor in zip(network.upsampler.convs, factors, strict=True):  # type: ignore[union-attr, operator, arg-type]
            for row in range(width * factor**2):
                conv.weight[row, row // factor**2, 1, 1] = 1.0
    return network


def test_a_teacher_that_only_repeats_pixels_is_said_to(tmp_path: Path) -> None:
    network = fitted(EDSRSpec(2, 8, 2))
    before = network.fingerprint()
    check = check_teacher(network)
    assert check.to_bicubic > EXPECTED_DB and not check.beats_bicubic
    assert dict(check.suggestion) == {} and check.with_suggestion is None and check.advice is None
    assert network.fingerprint() == before and all(p.requires_grad for p in network.parameters())
    assert "no better than bicubic against the original" in check.lines()[-1]


@pytest.mark.parametrize(
    ("make", "wrong", "option"),
    [
        (lambda: fitted(EDSRSpec(2, 8, 2, res_scale=0.1), bend=2.0), {"res_scale": 1.0}, "--arch-option res_scale=0.1"),
        (lambda: fitted(EDSRSpec(2, 8, 2), offset=1.0), {"img_range": 1.0}, "--arch-option img_range=255"),
        (
            lambda: fitted(EDSRSpec(2, 8, 2, img_range=1.0, res_scale=0.1), bend=2.0),
            {"img_range": 255.0, "res_scale": 1.0},
            "--arch-option res_scale=0.1",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_the_option(
    make: Callable[[], Network], wrong: dict[str, Any], option: str
) -> None:
    """These teachers do not reach bicubic, but the right setting gains far more than 3 dB."""
    network = make()
    assert check_teacher(network).to_bicubic > EXPECTED_DB
    other = build(replace(network.spec, **wrong))
    other.load_state_dict(network.state_dict())
    check = check_teacher(other)
    assert check.with_suggestion is not None and check.with_suggestion > check.to_original + NEARER_DB
    assert check.options == option
    assert "nothing was changed" in check.lines()[1]
    assert other.spec == replace(network.spec, **wrong)


RIGHT_OPTIONS = {
    "255": ({"img_range": "255"}, "img_range=255"),
    "-1..1": ({"img_range": "-1..1"}, "img_range=-1..1"),
    "bgr": ({"bgr": 1}, "bgr=1"),
    "bright": ({"input_range": "1", "output_range": "255"}, "input_range=1 --arch-option output_range=255"),
}


@pytest.mark.parametrize("kind", RIGHT_OPTIONS)
def test_the_images_of_a_foreign_teacher_become_known_from_the_original(kind: str, tmp_path: Path) -> None:
    """Without its option such a teacher gives fair images, and its student would learn to repeat pixels."""
    options, text = RIGHT_OPTIONS[kind]
    path = save_torchscript(Particular(kind), tmp_path / "foreign.pt")
    check = check_teacher(load_teacher(path, trust_code=True))
    assert kind == "bright" or check.to_bicubic > EXPECTED_DB
    assert check.suggestion == options and check.options == f"--arch-option {text}"
    assert check.with_suggestion is not None and check.with_suggestion > check.bicubic_to_original
    right = check_teacher(load_teacher(path, arch_options=options, trust_code=True))
    assert right.beats_bicubic and right.suggestion == {} and right.to_original == check.with_suggestion
    # Every setting leads to the right one: alternatives do not build on a given wrong one.
    wrong = load_teacher(path, arch_options={"input_range": "-1..1", "output_range": "255", "bgr": 1}, trust_code=True)
    assert {**check_teacher(wrong).suggestion, "bgr": 0} == {**options, "bgr": 0} or kind == "bgr"


@pytest.mark.ci
def test_compress_stops_at_a_teacher_that_an_option_improves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same run continues with the option, or with the current one given: then the user has decided."""
    path = save_torchscript(Particular("255"), tmp_path / "foreign.pt")
    line = ["compress", "--teacher", str(path), "--recipe", "logits", "--student", "compact:width=4,depth=1"]
    line += ["--steps", "1", "--set", "schedule.batch=1", "--init", "random", "--label-margin", "0", "--trust-code"]
    assert run([*line, "--out", str(tmp_path / "refused")]) == 2
    error = capsys.readouterr().err
    assert "with --arch-option img_range=255 it has" in error and "or --arch-option img_range=1 to train" in error
    assert not (tmp_path / "refused").exists()
    for value in ("255", "1"):
        assert run([*line, "--arch-option", f"img_range={value}", "--out", str(tmp_path / value)]) == 0
        capsys.readouterr()


def test_evaluate_names_models_below_bicubic_and_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_torchscript(Particular("255"), tmp_path / "foreign.pt")
    assert run(["evaluate", str(path), "--trust-code"]) == 0
    error = " ".join("".join(capsys.readouterr()).split())
    assert (
        "foreign is below bicubic to the original on embedded" in error
        and "with --arch-option img_range=255 it has" in error
    )
    assert run(["evaluate", str(path), "--arch-option", "img_range=255", "--trust-code"]) == 0
    assert "below bicubic" not in "".join(capsys.readouterr())


def test_a_compact_that_adds_no_enlarged_input_is_noticed() -> None:
    """The file does not say that the network was trained without it: the image is then about twice too bright."""
    network = Compact(CompactSpec(2, width=3, depth=1, act="relu"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for name in ("head.conv.weight", "layers.0.conv.weight"):
            network.get_parameter(name)[range(3), range(3), 1, 1] = 1
        # The nearest enlargement:
        network.get_parameter("tail.weight")[range(12), [row // 4 for row in range(12)], 1, 1] = 1
    assert dict(check_teacher(network).suggestion) == {"residual": False}


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_every_scale_and_grey_networks(scale: int) -> None:
    for channels in (1, 3):
        network = build(CompactSpec(scale, width=4, depth=1, channels=channels), seed=0)
        with torch.no_grad():
            network.tail.weight.zero_()  # type: ignore[union-attr, operator]
            network.tail.bias.zero_()  # type: ignore[union-attr, operator]
        check = check_teacher(network)  # the nearest enlargement remains
        assert check.to_bicubic > 26 and check.bicubic_to_original > 24


def test_a_teacher_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    class Infinite(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3) / (x.mean() * 0)

    with pytest.raises(SrkdError, match="NaN or infinity"):
        check_teacher(load_teacher(save_torchscript(Infinite(), tmp_path / "inf.pt"), trust_code=True))


def test_inspect_checks_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "teacher.safetensors"
    save_network(fitted(EDSRSpec(2, 8, 2)), path)
    assert srkd.inspect(path).check is None
    check = srkd.inspect(path, check=True).check
    assert check is not None and check.to_bicubic > EXPECTED_DB
    assert run(["inspect", str(path), "--check"]) == 0
    assert "teacher check on the photo 'chelsea'" in capsys.readouterr().out


@needs_shared
def test_published_teachers_pass_and_their_wrong_settings_are_named() -> None:
    carn_m = shared() / "data" / "checkpoints" / "carn_m.pth"
    for scale in (2, 3, 4):
        check = check_teacher(load_checkpoint(carn_m, scale=scale).network)
        assert check.to_bicubic > 34 and check.to_original > check.bicubic_to_original + 0.5
        assert len(check.lines()) == 1
    wrong = check_teacher(load_checkpoint(carn_m, scale=4, arch_options={"img_range": 255}).network)
    assert wrong.suggestion == {"img_range": 1.0}
    other_mean = check_teacher(load_checkpoint(carn_m, scale=4, arch_options={"mean": DIV_FLICKR_MEAN}).network)
    assert other_mean.suggestion == {}  # it is hardly visible, so it is not a suspicion
    gan = check_teacher(load_teacher(shared() / "data" / "checkpoints" / "realesr-animevideov3_rezipped.pth"))
    assert gan.suggestion == {} and "trained for looks" in gan.lines()[-1]
