"""`limits` for the first run of an untrusted ONNX file: an option of every verb that opens one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import srkd
from compressor.base.child import USUAL_LIMITS, Child, ResourceLimits, StartChild, children_started_by
from compressor.base.errors import SrkdError, UsageError
from srkd.options.compress import CompressOptions
from srkd.options.option import declarations
from srkd.options.verbs import ConvertOptions, DemoOptions, ExportOptions
from tests.support.foreign_models import save_onnx, save_torchscript, twin


@pytest.fixture
def tried_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick_children: StartChild
) -> Iterator[list[ResourceLimits]]:
    """Return the limits of every process that opens a program; no result of another test is reused."""
    calls: list[ResourceLimits] = []

    def start(
        function: str, job: Mapping[str, object], *, limits: ResourceLimits | None = None, **options: Any
    ) -> Child:
        calls.extend([] if limits is None else [limits])
        return quick_children(function, job, limits=limits, **options)

    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "untried"))
    with children_started_by(start):
        yield calls


SHORT: Any = {"runtime": ["torch", "onnxruntime"], "lr_size": [(16, 16)], "seconds": 0.1}
SHORT |= {"memory": False, "quality": False}
VERBS: dict[str, Callable[..., object]] = {
    "load": lambda models, photos, **options: [srkd.load(model, **options) for model in models],
    "inspect": lambda models, photos, **options: [srkd.inspect(model, **options) for model in models],
    "evaluate": lambda models, photos, **options: srkd.evaluate(models, data=photos, **options),
    "upscale": lambda models, photos, **options: [
        srkd.upscale(model, photos, out=photos / f"large{number}", **options) for number, model in enumerate(models)
    ],
    "profile": lambda models, photos, **options: srkd.profile(models, **SHORT, **options),
}


@pytest.mark.ci
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_passes_them_on(
    verb: str, teacher: Path, photos: Path, tried_with: list[ResourceLimits], tmp_path: Path
) -> None:
    """A checkpoint needs none."""
    VERBS[verb]([save_onnx(twin(), tmp_path / "one.onnx"), teacher], photos, limits=3)
    assert tried_with == [USUAL_LIMITS.scaled(3)]


def test_compress_and_demo_have_them_and_verbs_that_open_no_program_have_not() -> None:
    assert CompressOptions.of(limits=3).teacher.limits == DemoOptions(limits=3).limits == 3
    for options in (ExportOptions, ConvertOptions):
        assert "limits" not in {row.name for row in declarations(options)}


def test_a_foreign_program_is_never_run_by_export(tried_with: list[ResourceLimits], tmp_path: Path) -> None:
    """Therefore export has no limits."""
    for path in (save_onnx(twin(), tmp_path / "one.onnx"), save_torchscript(twin(), tmp_path / "two.pt")):
        with pytest.raises(SrkdError):
            srkd.export(path, out=tmp_path)
    assert tried_with == []


def test_a_factor_out_of_range(teacher: Path) -> None:
    file = save_onnx(twin(), teacher.parent / "one.onnx")
    for factor in (0.5, 1001, float("nan")):
        for call in (srkd.load, srkd.inspect):
            with pytest.raises(UsageError, match="limits"):
                call(file, limits=factor)
