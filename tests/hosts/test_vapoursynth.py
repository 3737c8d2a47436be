"""VapourSynth with vs-mlrt's ONNX Runtime plugin runs what `--for vapoursynth` writes, and gives srkd's images."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from compressor.base.metadata import srkd_keys
from export.writing.exporting import Source
from tests.support.films import make_film, require_av
from tests.support.hosts import STUDENTS, enlarged, export_for_hosts, host_python, paths_of, photo, run_host

CLIP = """
import sys
import numpy as np
import vapoursynth as vs
model, source, target, form = sys.argv[1:]
image = np.load(source)
blank = vs.core.std.BlankClip(width=image.shape[1], height=image.shape[0], format=getattr(vs, form), length=1)
def fill(n, f):
    frame = f.copy()
    for index in range(image.shape[2]):
        np.asarray(frame[index])[:] = image[..., index]
    return frame
clip = vs.core.std.ModifyFrame(blank, blank, fill)
frame = vs.core.ort.Model([clip], network_path=model, provider="CPU").get_frame(0)
np.save(target, np.stack([np.asarray(frame[index]).astype(np.float32) for index in range(image.shape[2])], -1))
"""


@pytest.mark.extras
@pytest.mark.parametrize("student", STUDENTS)
def test_its_onnx_runtime_gives_the_networks_image(student: str, tmp_path: Path) -> None:
    host_python("vapoursynth")
    network = STUDENTS[student]().eval()
    (folder,) = export_for_hosts(network, Source(student), ["vapoursynth"], tmp_path)
    lr = photo(channels=network.descriptor.channels)
    np.save(tmp_path / "lr.npy", lr[0].permute(1, 2, 0).numpy())
    for path in paths_of(folder).values():
        strong = "strong_fp16" in path.name
        colour = "RGB" if network.descriptor.channels == 3 else "GRAY"
        run_host("vapoursynth", CLIP, path, tmp_path / "lr.npy", tmp_path / "sr.npy", colour + "SH"[strong])
        difference = np.abs(np.load(tmp_path / "sr.npy").clip(0, 1) - enlarged(network, lr)).max()
        assert difference < (2 if strong else 1) / 255 / (1 if strong else 100)


@pytest.mark.extras
@pytest.mark.parametrize("bits", [8, 10])
def test_the_script_for_luma_enlarges_a_film(bits: int, tmp_path: Path) -> None:
    """As its README says: vspipe with -a film=. An untrained network with an anchor keeps the picture's brightness,
    and the script the film's bits.

    tests/hosts/test_strangers.py runs the script for colours."""
    require_av()
    python = host_python("vapoursynth")
    network = STUDENTS["plain-luma-x2"]().eval()
    for parameter in network.parameters():
        parameter.data *= 0.1
    (folder,) = export_for_hosts(network, Source("small"), ["vapoursynth"], tmp_path)
    make_film(tmp_path / "film.mkv", [photo(64, 48)] * 3, pixel_format="yuv420p" if bits == 8 else "yuv420p10le")
    script = next(path for path in folder.also if path.suffix == ".vpy")
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    subprocess.run([python.with_name("vapoursynth"), "config"], env=environment, check=True, capture_output=True)
    command = [python.with_name("vspipe"), "-a", f"film={tmp_path / 'film.mkv'}", "-c", "y4m", script, "-"]
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    scale = network.descriptor.scale
    width, height = 64 * scale, 48 * scale
    header, *frames = done.stdout.split(b"FRAME\n")
    assert header.startswith(b"YUV4MPEG2") and f"W{width} H{height} ".encode() in header and len(frames) == 3
    picture = photo(64, 48)[0].permute(1, 2, 0).numpy() @ (46.559, 156.629, 15.812) + 16  # BT.709, as the film says
    values = np.frombuffer(frames[1], np.uint8 if bits == 8 else np.uint16) / 2 ** (bits - 8)
    luma = values[: width * height].reshape(48, scale, 64, scale).mean((1, 3))
    assert len(values) == 3 * width * height // 2
    assert abs(luma.mean() - picture.mean()) < 2 and np.corrcoef(luma.ravel(), picture.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("student", ["plain-luma-x2", pytest.param("span", marks=pytest.mark.ci)])
def test_names_tell_scale_shape_precision_and_opset(student: str, tmp_path: Path) -> None:
    """vs-mlrt 3.23: `checkIOInfo` and `checkNodesAndNetwork` in vsort/vs_onnxruntime.cpp, `specifyShape` in
    common/onnx_utils.cpp, and `input_name="input"` of the TensorRT path in scripts/vsmlrt.py."""
    network = STUDENTS[student]().eval()
    channels = network.descriptor.channels
    (folder,) = export_for_hosts(network, Source("thing-x3"), ["vapoursynth"], tmp_path)
    files = list(paths_of(folder).values())
    names = [file.name for file in files]
    assert names == [f"2x_thing_1x{channels}xHxW_{precision}_op18.onnx" for precision in ("fp32", "strong_fp16")]
    for file, kind in zip(files, (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16), strict=True):
        model = onnx.load(file)
        assert model.opset_import[0].version == 18 and srkd_keys({p.key: p.value for p in model.metadata_props})
        (image,), (output,) = model.graph.input, model.graph.output
        assert (image.name, output.name) == ("input", "output")
        for value in (image, output):
            assert value.type.tensor_type.elem_type == kind
            batch, colours, *sides = value.type.tensor_type.shape.dim
            assert colours.dim_value == channels and all(side.dim_param for side in sides) and not batch.dim_value > 1
        assert size_of_tile(model, (1, channels, 48, 64)) == [96, 128], "a whole multiple of the tile"
    script = (tmp_path / "vapoursynth" / "2x_thing.vpy").read_text(encoding="utf-8")
    compile(script, "2x_thing.vpy", "exec")
    assert names[0] in script and ("GRAYS" in script, "RGBS" in script) == (channels == 1, channels == 3)


def size_of_tile(model: onnx.ModelProto, tile: tuple[int, ...]) -> list[int]:
    """Return height and width of the output for a tile, inferred as vs-mlrt's specifyShape does."""
    for dim, length in zip(model.graph.input[0].type.tensor_type.shape.dim, tile, strict=True):
        dim.dim_value = length
    model.graph.output[0].type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    (inferred,) = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output
    return [dim.dim_value for dim in inferred.type.tensor_type.shape.dim][2:]
