"""Exported files call their images `input` and `output`; files of before, with `lr` and `sr`, run as they did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime
import torch

import srkd
from compressor.models.networks.base import Network
from demo.catalogue import read_model
from tests.support.exports import export_file

NOW, BEFORE = ("input", "output"), ("lr", "sr")


def rename_onnx(path: Path, new: Mapping[str, str]) -> None:
    """Rename what the graph takes and returns; values inside may be named after them, which is of no account."""
    model = onnx.load_model(str(path))
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = new[value.name]
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def test_a_file_of_before_in_the_verbs(network: Network, tmp_path: Path) -> None:
    """Enlarged, timed and shown in a browser under its own names."""
    now = export_file(network, "onnx", tmp_path).path
    assert now is not None
    old = tmp_path / "old.onnx"
    old.write_bytes(now.read_bytes())
    rename_onnx(old, dict(zip(NOW, BEFORE, strict=True)))
    picture = torch.rand(3, 30, 41)
    enlarged = srkd.upscale(old, picture)
    assert isinstance(enlarged, torch.Tensor) and torch.equal(enlarged, srkd.upscale(now, picture))
    report = srkd.profile(old, runtime=("onnxruntime",), lr_size="24x20", seconds=0.1, memory=False)
    assert report.rows[0].runtime == "onnxruntime"
    shown = read_model(old, "old", "student")
    assert (shown.input, shown.output) == BEFORE
    session = onnxruntime.InferenceSession(shown.content)
    (sr,) = session.run([shown.output], {shown.input: picture[None].numpy()})
    assert sr.shape == (1, 3, 60, 82)
