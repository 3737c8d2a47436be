"""torch.compile as a runtime: selected by name, for checkpoints, with the time of its first call reported."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch._dynamo.exc

from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.runtimes.table import RUNTIMES, OpenOptions
from export.profile.report import profile_models
from export.profile.settings import ProfileSettings
from srkd.cli.main import run

LR = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(1))
QUICK = {"lr_sizes": ((24, 16),), "seconds": 0.15, "memory": False, "quality": False, "threads": 1}
Forward = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def checkpoint(network: Network, tmp_path: Path) -> Path:
    save_network(network, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def compiler(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0, error: Exception | None = None) -> list[int]:
    """Replace torch.compile by a stand-in, slow at each new shape or failing; return the list of compiled shapes."""
    shapes: list[int] = []

    def compile(network: Forward) -> Forward:
        def forward(lr: torch.Tensor) -> torch.Tensor:
            if error is not None:
                raise error
            if lr.shape[-1] not in shapes:
                shapes.append(lr.shape[-1])
                time.sleep(seconds)
            return network(lr)

        return forward

    monkeypatch.setattr(torch, "compile", compile)
    return shapes


def test_a_checkpoint_is_compiled_when_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, network: Network
) -> None:
    shapes = compiler(monkeypatch)
    assert open_model(checkpoint).name == "torch" and not shapes
    runtime = open_model(checkpoint, OpenOptions(runtime="torch-compiled"))
    torch.testing.assert_close(runtime.run(LR), network(LR), atol=1e-6, rtol=0)
    assert (runtime.name, runtime.spec, shapes) == ("torch-compiled", network.spec, [9])
    other = checkpoint.with_suffix(".onnx")
    other.write_bytes(b"")
    with pytest.raises(UsageError, match="torch-compiled takes a check"):
        open_model(other, OpenOptions(runtime="torch-compiled"))


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    compiler(monkeypatch, error=torch._dynamo.exc.TorchDynamoException("no C++ compiler\nwas found"))
    with pytest.raises(SrkdError, match=r"torch.compile .*no C.. compiler") as caught:
        open_model(checkpoint, OpenOptions(runtime="torch-compiled")).run(LR)
    assert "\n" not in str(caught.value)


def test_profile_tells_the_first_call_apart(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    shapes = compiler(monkeypatch, seconds=1.2)
    result = profile_models(
        [checkpoint],
        settings=ProfileSettings(runtimes=("torch", "torch-compiled"), **QUICK),  # type: ignore[arg-type]
    )
    plain, compiled = result.rows
    assert (plain.runtime, compiled.runtime, shapes) == ("torch", "torch-compiled", [24])
    assert compiled.first_call_ms is not None and compiled.first_call_ms >= 1200 > 10 * compiled.latency_ms.p50
    assert (compiled.params, compiled.macs) == (plain.params, plain.macs)
    (note,) = (note for note in result.notes if "first call" in note)
    assert note.startswith("small under torch-compiled at 24x16: the first call took ")


@pytest.mark.parametrize("verb", ["profile", "evaluate", "upscale"])
def test_the_words_of_runtime_are_the_table(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    message = "".join(capsys.readouterr().out.split())
    assert all(name in message for name in RUNTIMES)
    assert run([verb, "--runtime", "tvm", "x.pt"]) == 2
    assert "torch-compiled" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler on a CPU")
def test_the_compiler_itself(checkpoint: Path, network: Network) -> None:
    runtime = open_model(checkpoint, OpenOptions(runtime="torch-compiled"))
    for lr in (LR, LR[:1, :, :5], LR[:, :, :1, :1]):
        torch.testing.assert_close(runtime.run(lr), network(lr), atol=1e-5, rtol=0)
