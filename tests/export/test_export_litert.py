"""LiteRT: the file as an app sees it, and a converter that fails; test_formats.py has what holds for all formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.models.networks.base import Network
from tests.support.exports import export_file, run_as_an_app
from tests.support.extras import extra

extra("litert_torch")
interpreter = extra("ai_edge_litert.interpreter")
pytestmark = pytest.mark.extras


def test_an_app_sees_an_image_as_it_has_it(network: Network, tmp_path: Path) -> None:
    file = export_file(network, "litert", tmp_path)
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert (file.facts["layout"], file.facts["sizes"]) == ("NHWC", "any")
    assert file.facts["operations"] == 10, "each convolution, addition and shuffle one operation, and the mean"
    image = np.random.default_rng(0).random((1, 6, 9, 3), dtype=np.float32)
    (actual,) = run_as_an_app(interpreter, file.path, image)
    expected = network(torch.from_numpy(image).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("program", "reason"),
    [("import os; os.kill(os.getpid(), 11)", "SIGSEGV"), ("import sys; sys.exit('no space left')", "no space left")],
)
@pytest.mark.usefixtures("real_children")
def test_a_converter_that_dies_is_one_line(
    program: str, reason: str, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "litert_torch.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    file = export_file(network, "litert", tmp_path / "out")
    assert file.verdict == "failed" and file.reason is not None
    assert file.reason.startswith("LiteRT's converter on edsr: ") and reason in file.reason
    assert not list((tmp_path / "out").iterdir())
