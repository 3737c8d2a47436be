"""SPAN and SPANF3 compute what their training code computes, from files with branches or without."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.convert import convert_file
from compressor.models.checkpoints.load import UnknownNetwork, load_checkpoint
from compressor.models.networks.base import Spec
from compressor.models.networks.registry import build
from compressor.models.networks.span import NO_MEAN, SPANSpec
from compressor.models.networks.spanf3 import SPANF3Spec
from tests.support.networks import save_new, save_state

State = dict[str, torch.Tensor]
MEAN = torch.tensor((0.4488, 0.4371, 0.4040)).reshape(1, 3, 1, 1)


class Branches(nn.Module):
    """Conv3XC as it is trained: hongyuanyu/SPAN, basicsr/archs/span_arch.py."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.sk = nn.Conv2d(inputs, outputs, 1)
        layers = (
            nn.Conv2d(inputs, 2 * inputs, 1),
            nn.Conv2d(2 * inputs, 2 * outputs, 3),
            nn.Conv2d(2 * outputs, outputs, 1),
        )
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (1, 1, 1, 1))) + self.sk(x)


class Written(nn.Module):
    """SPAN, or SPANF3 if `attends`, written again with the names of its code. Activations are in place, as there."""

    def __init__(self, spec: SPANSpec | SPANF3Spec) -> None:
        super().__init__()
        self.spec, self.attends = spec, isinstance(spec, SPANF3Spec)
        width, u = spec.width, getattr(spec, "unshuffle", 1)
        first = Branches(spec.channels * u**2, width)
        self.conv_1 = nn.Sequential(nn.PixelUnshuffle(u), first) if u > 1 else first
        for k in range(1, spec.depth + 1):
            block = nn.ModuleDict({f"c{i}_r": Branches(width, width) for i in (1, 2, 3)})
            if self.attends:
                block["att_conv"] = nn.Conv2d(width, width, 1)
            self.add_module(f"block_{k}", block)
        self.conv_cat = nn.Conv2d(4 * width, width, 1)
        outputs = spec.channels * (spec.scale * u) ** 2
        if self.attends:
            self.to_pixel = Branches(width, outputs)
        else:
            self.conv_2 = Branches(width, width)
            self.upsampler = nn.Sequential(nn.Conv2d(width, outputs, 3, padding=1), nn.PixelShuffle(spec.scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        act, height, width = (F.relu if self.attends else F.silu), x.shape[-2], x.shape[-1]
        u = getattr(self.spec, "unshuffle", 1)
        if isinstance(self.spec, SPANSpec) and self.spec.mean != NO_MEAN:
            x = (x - MEAN[:, : x.shape[1]]) * 255.0
        x = F.pad(x, (0, -width % u, 0, -height % u), mode="reflect") if u > 1 else x
        out = shallow = first = self.conv_1(x)
        outs = []
        for k in range(1, self.spec.depth + 1):
            block = self.get_submodule(f"block_{k}")
            first = block.c1_r(out)  # type: ignore[operator]
            h = block.c3_r(act(block.c2_r(act(first, inplace=True)), inplace=True))  # type: ignore[operator]
            out = (out + h) * (torch.tanh(block.att_conv(h)) if self.attends else torch.sigmoid(h) - 0.5)  # type: ignore[operator]
            outs.append(out)
        end = out if self.attends else self.conv_2(out)
        fused = self.conv_cat(torch.cat([shallow, end, outs[0], first], 1))
        sr = F.pixel_shuffle(self.to_pixel(fused), self.spec.scale * u) if self.attends else self.upsampler(fused)
        return sr[..., : height * self.spec.scale, : width * self.spec.scale]


def written(spec: SPANSpec | SPANF3Spec) -> Written:
    torch.manual_seed(spec.scale)
    network = Written(spec)
    if isinstance(spec, SPANSpec) and spec.img_range != 1:
        with torch.no_grad():
            for parameter in network.conv_1.parameters():
                parameter.mul_(0.3)
    return network.eval()


SPECS: list[SPANSpec | SPANF3Spec] = [
    SPANSpec(4, width=8),
    SPANSpec(2, width=7, depth=3),
    SPANSpec(3, width=6, depth=1, mean=NO_MEAN, img_range=1.0),
    SPANF3Spec(4, width=7, depth=4),
    SPANF3Spec(2, width=8, depth=2),
    SPANF3Spec(2, width=8, depth=3, unshuffle=2),
    SPANF3Spec(1, width=6, depth=2, channels=1, unshuffle=4),
]


@pytest.mark.ci
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_files_of_training_compute_what_their_code_computes(spec: SPANSpec | SPANF3Spec, tmp_path: Path) -> None:
    network = written(spec)
    state = network.state_dict()
    if getattr(spec, "mean", None) == NO_MEAN:
        state["no_norm"] = torch.zeros(1)
    loaded = load_checkpoint(save_state({"params_ema": state}, tmp_path))
    assert (loaded.dialect, loaded.network.spec, loaded.notes) == (spec.arch, spec, ())
    lr = torch.rand(2, spec.channels, 13, 18)
    torch.testing.assert_close(loaded.network(lr), network(lr), atol=1e-5, rtol=0)
    assert torch.equal(loaded.network.for_size(13, 18)(lr), loaded.network(lr))
    for to in (spec.arch, f"{spec.arch}-collapsed"):
        again = load_checkpoint(convert_file(tmp_path / "checkpoint.pth", to).path)
        assert (again.dialect, again.network.fingerprint()) == (to, loaded.network.fingerprint())


def test_a_stale_copy_of_the_collapsed_convolutions_is_not_used(tmp_path: Path) -> None:
    state = written(SPECS[0]).state_dict()
    fresh = load_checkpoint(save_state(state, tmp_path)).network
    layer = "block_2.c1_r.eval_conv"
    cached = {
        f"{layer}.{kind}": dict(fresh.named_parameters())[f"trunk.blocks.1.c1.{kind}"] for kind in ("weight", "bias")
    }
    equal = load_checkpoint(save_state({**state, **cached}, tmp_path))
    assert (equal.network.fingerprint(), equal.notes) == (fresh.fingerprint(), ())
    stale = load_checkpoint(save_state({**state, **cached, f"{layer}.bias": cached[f"{layer}.bias"] + 1}, tmp_path))
    assert stale.network.fingerprint() == fresh.fingerprint()
    assert "eval_conv tensors differ from its branches by up to" in stale.notes[0]


def test_what_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    state = written(SPECS[0]).state_dict()
    changes: list[tuple[State, str, str]] = [
        ({}, "block_1.c2_r.conv.1.bias", r"tensor block_1\.c2_r\.conv\.1\.bias is missing"),
        ({}, "block_3.c1_r.", "block numbers 3 are missing"),
        ({"block_1.c2_r.sk.weight": torch.zeros(8, 7, 1, 1)}, "-", "no sum"),
        ({"block_2.c9.weight": torch.zeros(1)}, "-", r"1 unexpected \(block_2\.c9\.weight"),
        ({"upsampler.0.weight": torch.zeros(47, 8, 3, 3)}, "-", "47 rows: 3 channels fit no scale"),
    ]
    for added, removed, message in changes:
        changed = {name: tensor for name, tensor in {**state, **added}.items() if not name.startswith(removed)}
        with pytest.raises(SrkdError, match=message):
            load_checkpoint(save_state(changed, tmp_path))
    state = written(SPANF3Spec(2, 8, 1, unshuffle=2)).state_dict()
    state |= {"to_pixel.sk.weight": torch.zeros(12, 8, 1, 1), "to_pixel.sk.bias": torch.zeros(12)}
    state |= {"to_pixel.conv.2.weight": torch.zeros(12, 96, 1, 1), "to_pixel.conv.2.bias": torch.zeros(12)}
    for columns, message in ((5, "5 columns, not 4 or 12"), (48, "by 4 is not enlarged ×2")):
        first = {"conv_1.1.sk.weight": (8, columns, 1, 1), "conv_1.1.conv.0.weight": (24, columns, 1, 1)}
        with pytest.raises(SrkdError, match=message):
            load_checkpoint(save_state({**state, **{name: torch.zeros(s) for name, s in first.items()}}, tmp_path))


def test_relatives_are_refused_by_name(tmp_path: Path) -> None:
    relatives = {
        "SPANF": "conv_near.weight",
        "SPANV2": "guidance_map_conv.weight",
        "SPAN+": "feats.0.sk.weight",
        "TemporalSPAN": "temp1.m_head.eval_conv.weight",
    }
    for name, tensor in relatives.items():
        state = {**written(SPECS[0]).state_dict(), tensor: torch.zeros(8, 3, 1, 1)}
        with pytest.raises(UnknownNetwork, match=f"the weights of {re.escape(name)}, a relative of span"):
            load_checkpoint(save_state({"params": state}, tmp_path))


@pytest.mark.parametrize(
    ("spec", "needs"),
    [
        (SPANSpec(2, 4, 1), {}),
        (SPANSpec(2, 4, 1, mean=NO_MEAN, img_range=1.0), {}),
        (SPANSpec(2, 4, 1, img_range=1.0), {"img_range": 1.0}),
        (SPANSpec(2, 4, 1, channels=1, img_range=1.0), {}),
    ],
)
def test_what_the_way_home_cannot_say_of_the_range(spec: Spec, needs: dict[str, object], tmp_path: Path) -> None:
    path = save_new(spec, tmp_path)
    for to in ("span", "span-collapsed"):
        assert convert_file(path, to).needs == needs


def test_sizes_that_spanf3_does_not_have() -> None:
    for change in ({"scale": 3}, {"unshuffle": 4}, {"channels": 2}):
        with pytest.raises(UsageError, match="neither 1 nor"):
            replace(SPANF3Spec(2, unshuffle=2), **change)


def test_random_weights_start_in_the_range_of_images() -> None:
    with torch.no_grad():
        sr = build(SPANSpec(4), seed=0)(torch.rand(1, 3, 16, 16))
    assert float(sr.abs().max()) < 2
