"""LPIPS and DISTS are asked of pyiqa where it is installed; a stand-in shows what it is given."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
import torch

import srkd
from compressor.base.errors import SrkdError
from compressor.images.metrics import ImageTooSmall
from compressor.inference import learned_metrics
from compressor.inference.metric_table import METRICS

STAND_IN = """
def create_metric(name, device):
    def measure(ours, theirs):
        assert 0 <= ours.min() and ours.max() <= 1 and ours.shape[1] == 3
        return (ours - theirs).abs().mean((1, 2, 3))[:, None] * {"lpips": 1, "dists": 2}[name]
    return measure
"""


def test_without_pyiqa_one_line_names_the_command_that_keeps_torch() -> None:
    if METRICS["lpips"].missing_requirement() is None:
        pytest.skip("pyiqa is installed")
    command = f"pip install pyiqa torch=={metadata.version('torch')}"
    for name in ("lpips", "dists"):
        with pytest.raises(SrkdError) as raised:
            srkd.evaluate(scale=2, metrics=f"psnr,{name}")
        assert str(raised.value) == f"--metrics {name}: pyiqa is not installed: {command}"


def test_pyiqa_gets_both_images_without_their_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyiqa.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    learned_metrics._metric.cache_clear()
    scores = srkd.evaluate(scale=4, metrics="lpips,dists").without_network["embedded"]
    assert scores["lpips"] > 0 and scores["dists"] == pytest.approx(2 * scores["lpips"])
    ours, theirs = torch.full((2, 3, 40, 50), 51.0), torch.zeros(2, 3, 40, 50)
    theirs[0, :, 3:-3, 3:-3] = 51
    assert learned_metrics.lpips(ours, theirs, border=3).tolist() == pytest.approx([0, 0.2])
    with pytest.raises(ImageTooSmall, match="40x30"):
        learned_metrics.dists(ours, theirs, border=5)
    learned_metrics._metric.cache_clear()
