"""`--for litert-gpu`: files run as a whole on LiteRT's own GPU accelerator, on Chromium's software Vulkan driver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import architecture, build
from export.convert.litert_file import kind_of, pack_model, read_model, set_kind
from export.formats.conversion import FileOptions
from export.hosts.litert_gpu import gpu_refusals
from export.hosts.table import HOSTS
from export.writing.exporting import Source
from tests.support.commands import python
from tests.support.exports import export_file
from tests.support.extras import extra
from tests.support.hosts import STUDENTS, enlarged, export_for_hosts, photo

extra("litert_torch")
extra("ai_edge_litert")
pytestmark = pytest.mark.extras

SIZE = (40, 24)
SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
"""The software Vulkan driver of Debian's Chromium; Mesa's of Debian 12 lacks features that Dawn asks for."""

RUN = """
import sys
import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.gpu_options import GpuOptions
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.options import Options
model, source, target = sys.argv[1:]
options = Options(hardware_accelerators=HardwareAccelerator.GPU, gpu_options=GpuOptions(enforce_f32=True))
compiled = CompiledModel.from_file(model, options=options)
(image,), (result,) = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
image.write(np.load(source))
compiled.run_by_index(0, [image], [result])
(name,) = compiled.get_output_tensor_details("serving_default")
shape = compiled.get_output_tensor_details("serving_default")[name]["shape"]
np.save(target, result.read(int(np.prod(shape)), np.float32).reshape(shape))
print("fully accelerated:", compiled.is_fully_accelerated())
"""


def on_gpu(model: Path, image: np.ndarray, folder: Path) -> tuple[np.ndarray | None, str]:
    """Return the image of LiteRT's GPU accelerator, or None, and what it said. It aborts where it finds no GPU."""
    np.save(folder / "lr.npy", image)
    files = (model, folder / "lr.npy", folder / "sr.npy")
    done = python("-c", RUN, *files, timeout=300, VK_ICD_FILENAMES=str(SWIFTSHADER))
    return (np.load(folder / "sr.npy") if done.code == 0 else None), done.out + done.err


OTHERS = {
    **{name: architecture(name).small for name in ("rcan", "carn", "rrdbnet", "spanf3")},
    "carn_m": CARNMSpec(width=32, scale=2),
}


@pytest.mark.parametrize("student", (*STUDENTS, *OTHERS))
def test_every_operator_runs_on_the_gpu(student: str, tmp_path: Path) -> None:
    if not SWIFTSHADER.is_file():
        pytest.skip("no SwiftShader: apt install chromium")
    network = (build(OTHERS[student], seed=1) if student in OTHERS else STUDENTS[student]()).eval()
    (folder,) = export_for_hosts(network, Source(student), ["litert-gpu"], tmp_path, options=FileOptions(lr_size=SIZE))
    assert folder.verdict == "written", folder.reason
    (file,) = folder.files
    assert file.verdict == "passed" and file.path is not None and file.path.name.endswith("-40x24.tflite")
    lr = photo(*SIZE, channels=network.descriptor.channels)
    sr, said = on_gpu(file.path, lr.permute(0, 2, 3, 1).numpy(), tmp_path)
    assert sr is not None and "fully accelerated: True" in said, said[-2000:]
    assert np.abs(sr[0].clip(0, 1) - enlarged(network, lr)).max() < 1e-5


def test_without_a_size_it_is_that_of_the_table(tmp_path: Path) -> None:
    network = build(CompactSpec(2, width=8, depth=1), seed=0)
    (folder,) = export_for_hosts(network, Source("it"), ["litert-gpu"], tmp_path)
    (file,) = folder.files
    assert file.path is not None and HOSTS["litert-gpu"].size == (256, 256)
    (graph,) = read_model(file.path.read_bytes()).subgraphs
    assert graph.tensors[graph.inputs[0]].shape.tolist() == [1, 256, 256, 3]
    assert folder.expect is not None and " ms " not in folder.expect, "no time of a CPU is stated for a GPU"


def test_small_groups_are_refused(tmp_path: Path) -> None:
    network, options = build(architecture("carn_m").small, seed=0), FileOptions(lr_size=SIZE)
    (folder,) = export_for_hosts(network, Source("it"), ["litert-gpu"], tmp_path, options=options)
    assert folder.verdict == "unavailable" and "CONV_2D has groups of 5" in str(folder.reason)


def give_it_select(model: Any) -> None:
    graph = model.subgraphs[0]
    set_kind(model, next(one for one in graph.operators if kind_of(model, one) == "PRELU"), "SELECT_V2")


def give_it_five_axes(model: Any) -> None:
    graph = model.subgraphs[0]
    tensor = graph.tensors[graph.operators[0].outputs[0]]
    tensor.shape = [*tensor.shape, 1]


def give_it_integers(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[0].outputs[0]].type = 9


@pytest.mark.parametrize(
    ("change", "reason"),
    [(give_it_select, "it has no SELECT_V2"), (give_it_five_axes, "of 5 axes"), (give_it_integers, "not float32")],
)
def test_what_the_delegate_does_not_take_is_found(change: Callable[[Any], None], reason: str, tmp_path: Path) -> None:
    """The rules of tflite/delegates/gpu/common/model_builder.cc: IsSupported, IsAllAllowedTensors and the parsers."""
    network = build(CompactSpec(2, width=8, depth=1), seed=0)
    path = export_file(network.unclipped(), "litert", tmp_path, FileOptions(lr_size=SIZE)).path
    content = path.read_bytes()
    assert not list(gpu_refusals(content))
    model = read_model(content)
    change(model)
    assert any(reason in found for found in gpu_refusals(pack_model(model)))
