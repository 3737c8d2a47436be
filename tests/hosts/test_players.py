"""`--for mpv` and `--for ffmpeg`: files that players take, and the networks that they cannot; Magpie's effects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from compressor.inference.open import open_model
from compressor.models.networks.compact import CompactSpec
from export.writing.exporting import Source
from tests.support.exports import unproved_file
from tests.support.hosts import (
    STUDENTS,
    as_without,
    enlarged,
    export_for_hosts,
    needs_libplacebo,
    needs_software_vulkan,
    paths_of,
    photo,
    refusal,
    run_host,
)
from tests.support.magpie import passes_of, textures_of
from tests.support.slices import lively

NAMES = ("input", "output")
RGB = CompactSpec(3, width=22, depth=2)

DRAW = """
import json, sys
import numpy as np
from compushady import HEAP_READBACK, HEAP_UPLOAD, Buffer, Compute, Texture2D
from compushady.formats import R16G16B16A16_FLOAT
from compushady.shaders import hlsl
def filled(array):
    buffer = Buffer(array.nbytes, HEAP_UPLOAD)
    buffer.upload(array.tobytes())
    return buffer
image, (sizes, passes) = np.load(sys.argv[1]), json.load(open(sys.argv[2]))
height, width = image.shape[:2]
textures = {name: Texture2D(width * x, height * y, R16G16B16A16_FLOAT) for name, (x, y) in sizes.items()}
filled(image).copy_to(textures["INPUT"])
size = filled(np.array([width, height] + 62 * [0], np.uint32))
for inputs, output, block, source in passes:
    target = textures[output]
    compute = Compute(hlsl.compile(source), cbv=[size], srv=[textures[name] for name in inputs], uav=[target])
    compute.dispatch(-(-target.width // block[0]), -(-target.height // block[1]), 1)
drawn = Buffer(target.size, HEAP_READBACK)
target.copy_to(drawn)
np.save(sys.argv[1], np.frombuffer(drawn.readback(), np.float16, image.size * sizes["OUTPUT"][0] ** 2))
"""
"""Runs the passes of an effect on the first Vulkan device, by Microsoft's compiler of HLSL."""


@pytest.mark.extras
@pytest.mark.parametrize("student", STUDENTS)
def test_libplacebo_gives_the_networks_image(student: str, tmp_path: Path) -> None:
    """A CPU in place of a GPU compiles a wide shader for seconds at each call, so the proof of export is left out."""
    needs_libplacebo()
    network = STUDENTS[student]().eval()
    with as_without("libplacebo"):
        (folder,) = export_for_hosts(network, Source(student), ["mpv"], tmp_path)
    if student in ("edsr", "span"):
        assert refusal(folder).endswith("plain and compact are; a student: --student plain:width=16,depth=4")
        assert not list(tmp_path.rglob("*.glsl"))
        return
    lr = photo(24, 18, channels=network.descriptor.channels)
    for path in paths_of(folder).values():
        sr = open_model(path).run(lr)[0].permute(1, 2, 0).numpy()
        assert np.abs(sr - enlarged(network, lr)).max() <= 1.5 / 255
    names = [path.name for path in paths_of(folder).values()]
    assert [name.partition(".")[2] for name in names] == ["glsl", "fp16.glsl"]
    readme = (tmp_path / "mpv" / "README.md").read_text(encoding="utf-8")
    assert f'--glsl-shaders="~~/shaders/{names[0]}"' in readme


@pytest.mark.extras
def test_the_hlsl_of_an_effect_of_magpie_draws_the_networks_image(tmp_path: Path) -> None:
    """Magpie itself, which runs on Windows, puts the same text of each pass together."""
    needs_software_vulkan()
    network, lr, image, described = lively(RGB), photo(37, 19), tmp_path / "image.npy", tmp_path / "passes.json"
    effect = unproved_file(network, "magpie", tmp_path)[0].read_text(encoding="utf-8")
    described.write_text(json.dumps([textures_of(effect), passes_of(effect)]))
    np.save(image, torch.cat([lr, torch.ones_like(lr[:, :1])], 1)[0].permute(1, 2, 0).half().numpy())
    run_host("compushady", DRAW, image, described)
    drawn = np.load(image).astype(np.float32).reshape(3 * 19, 3 * 37, 4)[..., :3]
    assert np.abs(drawn - enlarged(network, lr)).max() <= 1.5 / 255


def ffmpeg_refuses(path: Path, name: str, output: str) -> str | None:
    """What FFmpeg's `libavfilter/dnn/dnn_backend_onnx.c` (master, 2026) says to a file; None if it takes it."""
    session = onnxruntime.InferenceSession(str(path))
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:  # dnn_load_model_onnx
        return "the ONNX backend supports single-input models only"
    if inputs[0].name != name:  # get_input_onnx, and the next three
        return "input name not found in ONNX model"
    if len(inputs[0].shape) != 4:
        return "support for other than 4 dimensional input"
    if isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] > 1:
        return "ONNX model has fixed batch size"
    if inputs[0].type != "tensor(float)":
        return "unsupported input tensor data type, only float is supported"
    if output not in [value.name for value in outputs]:  # onnx_start_inference
        return "output name not found in ONNX model"
    if outputs[0].type != "tensor(float)":  # infer_completion_callback
        return "unsupported output tensor data type, only float supported"
    return None


@pytest.mark.ci
@pytest.mark.parametrize("student", ["compact-24x8", "plain-luma-x2"])
def test_ffmpeg_takes_its_file_by_the_names_of_its_command(student: str, tmp_path: Path) -> None:
    """`dnn_processing=dnn_backend=onnx:model=F:input=input:output=output`: bytes / 255 in N,C,H,W, result x 255."""
    network = STUDENTS[student]().eval()
    (folder,) = export_for_hosts(network, Source("it"), ["ffmpeg"], tmp_path)
    channels, scale = network.descriptor.channels, network.descriptor.scale
    path = tmp_path / "ffmpeg" / f"{scale}x-it.onnx"
    assert [file.path for file in folder.files] == [path]
    readme = (tmp_path / "ffmpeg" / "README.md").read_text(encoding="utf-8")
    assert f"model={path.name}:input=input:output=output" in readme
    assert f"format={'rgb24' if channels == 3 else 'yuv420p'}," in readme
    assert ffmpeg_refuses(path, *NAMES) is None
    session = onnxruntime.InferenceSession(str(path))
    assert not any(isinstance(side, int) for side in session.get_inputs()[0].shape[2:]), "a frame of any size"
    frame = (255 * photo(32, 18, channels)).byte().numpy()
    (sr,) = session.run(["output"], {"input": frame.astype(np.float32) / 255})
    assert sr.shape == (1, channels, 18 * scale, 32 * scale)
    image = sr[0].transpose(1, 2, 0).clip(0, 1)
    assert np.abs(image - enlarged(network, torch.from_numpy(frame).float() / 255)).max() * 255 < 0.01
