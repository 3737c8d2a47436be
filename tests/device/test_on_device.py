"""Tests for any device: SRKD_TEST_DEVICE, else the GPU if torch has one, else the CPU.

On a CPU they check only their own code: `make evidence-gpu` runs them on a GPU.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.embedded_student import embedded_student
from compressor.assets import embedded_teacher
from compressor.base.context import QUIET
from compressor.base.precision import autocast
from compressor.base.processes import Rank
from compressor.data.batches import Batches
from compressor.data.decode import decode_all
from compressor.images.resize import imresize, upscale_bicubic
from compressor.images.sets import embedded_pairs
from compressor.inference.open import open_model
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.fitting.fit import fit
from compressor.models.networks.base import Spec
from compressor.models.networks.registry import build
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import tf32_off
from compressor.training.distributed import ProcessGroup
from compressor.training.speed import CompileOption
from recipes.methods.fakd import affinity_l1
from srkd import compress
from tests.support.foreign_models import save_torchscript
from tests.support.networks import label, tiny_networks
from tests.support.small_runs import SMALL

DEVICE = os.environ.get("SRKD_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
not_simulated = pytest.mark.skipif(DEVICE.startswith("sim"), reason="autocast and TorchScript know no simulated device")
not_cpu = pytest.mark.skipif(DEVICE == "cpu", reason="compares a device with the CPU")
needs_cuda = pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="CUDA graphs and NCCL need an NVIDIA GPU")


def photo(height: int = 24, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return upscale_bicubic(torch.rand(1, 3, height // 4, width // 4, generator=generator), 4).clamp(0, 1)


@pytest.mark.parametrize("spec", tiny_networks(), ids=label)
def test_networks_give_what_they_give_on_a_cpu(spec: Spec) -> None:
    network, lr = build(spec, seed=1).eval(), photo()[:, : build(spec).descriptor.channels]
    with torch.no_grad(), tf32_off():
        expected = network(lr)
        actual = network.to(DEVICE)(lr.to(DEVICE)).cpu()
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-3)


@not_simulated
def test_half_precision_is_near_to_full() -> None:
    network = load_checkpoint(embedded_student()).network.to(DEVICE)
    lr = photo(64, 64).to(DEVICE)
    with torch.no_grad():
        exact = network(lr)
        with autocast("bf16", torch.device(DEVICE)):
            lower = network(lr).float()
    mse = float((exact.clamp(0, 1) - lower.clamp(0, 1)).square().mean())
    assert mse < 1e-5  # 50 dB


def test_resizing_gives_what_it_gives_on_a_cpu() -> None:
    image = photo(48, 64)
    for scale in (0.25, 0.5, 2.0):
        torch.testing.assert_close(imresize(image.to(DEVICE), scale).cpu(), imresize(image, scale), atol=1e-5, rtol=0)


def test_batches_are_those_of_a_cpu() -> None:
    store = decode_all(embedded_pairs("train")[:2], scale=4).select(lr_patch=16)
    here = Batches.for_store(store, batch=4, lr_patch=16, seed=3)
    there = Batches.for_store(store.to(torch.device(DEVICE)), batch=4, lr_patch=16, seed=3)
    for number in (0, 7):
        batch, other = here.at(number), there.at(number)
        assert torch.equal(batch.lr, other.lr.cpu()) and torch.equal(batch.hr, other.hr.cpu())
        assert other.lr.device.type == torch.device(DEVICE).type


def test_affinity_and_its_gradient_are_those_of_a_cpu() -> None:
    generator = torch.Generator().manual_seed(2)
    mine, theirs = (torch.randn(2, 8, 12, 12, generator=generator) for _ in range(2))
    results = []
    for device in ("cpu", DEVICE):
        features = mine.detach().to(device).requires_grad_()
        value = affinity_l1(features, theirs.to(device)).sum()
        (gradient,) = torch.autograd.grad(value, features)
        results.append((value.detach().cpu(), gradient.cpu()))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-4)


@not_cpu
def test_a_fit_is_as_good_as_on_a_cpu() -> None:
    teacher = load_checkpoint(embedded_teacher()).network
    patches = (
        decode_all(embedded_pairs("train")[:1], scale=4).select(lr_patch=48).lr.image(0)[:, :48, :48].float().div(255)
    )
    patches = patches.unfold(1, 24, 24).unfold(2, 24, 24).permute(1, 2, 0, 3, 4).flatten(0, 1)
    spec = teacher.spec.narrowed(0.25)
    errors = []
    with torch.no_grad():
        target = teacher(patches)
        for device in ("cpu", DEVICE):
            student = fit(teacher.to(device), spec, patches, context=QUIET).to("cpu")
            errors.append(float((student(patches) - target).square().mean()))
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def run(tmp_path: Path, recipe: str, teacher: Path, photos: Path, compiled: CompileOption = "off") -> float:
    settings = (*SMALL, f"schedule.compile={compiled}")
    settings += (f"{recipe}.phi=teacher",) if recipe in ("csd", "csd-lite", "clsd", "dckd") else ()
    report = compress(
        teacher, recipe=recipe, width=0.5, steps=6, settings=settings, data=photos, device=DEVICE, out=tmp_path / "run"
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["device"].startswith(DEVICE)
    return report.student.psnr_y


RECIPES = ["csd", "fit", "scratch", "logits", "fakd", "csd-lite", "clsd", "dckd", "perceptual", "calm", "dukd", "hkdsr"]


# On a CPU the tests of the recipes train all of them, test_simulated.py on the simulated accelerator.
@pytest.mark.ci
@pytest.mark.parametrize("recipe", RECIPES if DEVICE.startswith("cuda") else RECIPES[:2])
def test_recipes_train(recipe: str, tmp_path: Path, teacher: Path, photos: Path) -> None:
    assert run(tmp_path, recipe, teacher, photos) > 5


@needs_cuda
@pytest.mark.parametrize("recipe", ["logits", "fakd"])
def test_a_compiled_run_learns_the_same(recipe: str, tmp_path: Path, teacher: Path, photos: Path) -> None:
    plain = run(tmp_path / "plain", recipe, teacher, photos)
    assert run(tmp_path / "compiled", recipe, teacher, photos, "on") == pytest.approx(plain, abs=0.05)


@not_simulated
def test_what_processes_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    group = ProcessGroup(Rank())
    rows = torch.arange(6.0, device=DEVICE).reshape(2, 3).requires_grad_()
    gathered = group.all_gather(rows)
    (gradient,) = torch.autograd.grad(gathered.square().sum(), rows)
    assert torch.equal(gathered, rows) and torch.equal(gradient, 2 * rows) and group.broadcast("plan") == "plan"
    group.close(success=True)


@not_simulated
def test_a_foreign_teacher_goes_along(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)).eval()
    runtimes = [
        open_model(
            save_torchscript(module, tmp_path / "teacher.pt"), OpenOptions(device=device, trust_code=True), QUIET
        )
        for device in ("cpu", DEVICE)
    ]
    here, there = (runtime.run(photo()) for runtime in runtimes)
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-4)
