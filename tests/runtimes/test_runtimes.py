"""Any model file opens, runs like its network, and is otherwise refused in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.runtimes.file_runtime import ImageFormat
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime

LR = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(1))


def altered(source: Path, target: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load_model(str(source))
    change(model)
    onnx.save_model(model, str(target))
    return target


def refusal(path: Path) -> str:
    with pytest.raises(SrkdError) as caught:
        open_model(path).run(LR)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_torch_equals_the_network_and_leaves_it_alone(network: Network) -> None:
    sample = copy.deepcopy(network).train().requires_grad_(True)
    runtime = TorchRuntime(sample, label="small")
    sr = runtime.run(LR)
    torch.testing.assert_close(sr, network(LR), atol=1e-6, rtol=0)
    assert sr.is_contiguous() and sr.dtype == torch.float32 and not sr.requires_grad
    sr.clamp_(0, 1)
    assert sample.training and all(p.requires_grad for p in sample.parameters())
    assert (runtime.name, runtime.device, runtime.precision, runtime.spec) == ("torch", "cpu", "fp32", network.spec)


def test_bf16_is_near_and_not_the_same(network: Network) -> None:
    sr = TorchRuntime(network, label="small", precision="bf16").run(LR)
    assert 1e-5 < (sr - network(LR)).abs().max() < 0.02


@pytest.mark.parametrize(
    "lr", [LR[0], LR[:, :1], (LR * 255).byte(), LR[:, :, :0]], ids=["3d", "grey", "uint8", "empty"]
)
def test_a_wrong_input_is_refused(network: Network, exported: Path, lr: torch.Tensor) -> None:
    for runtime in (TorchRuntime(network, label="small"), OnnxRuntime(exported)):
        with pytest.raises(UsageError, match=r"float images of .*\(N, 3, H, W\)"):
            runtime.run(lr)


@pytest.mark.parametrize("options", [{"device": "warp"}, {"device": "cuda:99"}, {"precision": "fp8"}], ids=str)
def test_what_torch_has_not_here_is_refused(network: Network, options: dict[str, str]) -> None:
    (value,) = options.values()
    with pytest.raises(UsageError, match=f"'{value}'"):
        TorchRuntime(network, label="small", **options)


def test_a_foreign_onnx_file_shows_its_scale_by_running(network: Network, exported: Path, tmp_path: Path) -> None:
    foreign = altered(exported, tmp_path / "foreign.onnx", lambda model: model.ClearField("metadata_props"))
    runtime = open_model(foreign)
    assert runtime.descriptor.scale == 3 and runtime.descriptor.receptive_radius is None
    assert runtime.spec is None and not runtime.metadata
    torch.testing.assert_close(runtime.run(LR), network(LR), atol=1e-6, rtol=0)


def test_metadata_that_lies_about_the_scale(exported: Path, tmp_path: Path) -> None:
    def lie(model: onnx.ModelProto) -> None:
        for prop in model.metadata_props:
            if prop.key == "srkd.spec":
                prop.value = json.dumps(EDSRSpec(width=8, depth=2, scale=2).to_dict())

    assert "at scale 2 (1, 3, 128, 128) is expected" in refusal(altered(exported, tmp_path / "lie.onnx", lie))


@pytest.mark.parametrize("spec", ["{", '{"arch": "edsr", "width": -1}'])
def test_a_spec_that_cannot_be_used(exported: Path, tmp_path: Path, spec: str) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]
        model.metadata_props.add(key="srkd.spec", value=spec)

    assert "srkd.spec" in refusal(altered(exported, tmp_path / "spoilt.onnx", spoil))


def test_what_is_no_onnx(exported: Path, tmp_path: Path) -> None:
    whole = exported.read_bytes()
    path = tmp_path / "broken.onnx"
    for content in (b"", b"hello", whole[: len(whole) // 2], bytes(255 - byte for byte in whole)):
        path.write_bytes(content)
        assert str(path) in refusal(path)


def one_node(path: Path, op: str, inputs: dict[str, tuple[int, list[object]]], out: tuple[int, list[object]]) -> Path:
    """Write a file with one node and inputs of given element types and shapes."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), ["out"])], "g", values, [helper.make_tensor_value_info("out", *out)]
    )
    onnx.save_model(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]), str(path))
    return path


IMAGE = ["n", 3, "h", "w"]


@pytest.mark.parametrize(
    ("op", "inputs", "out", "message"),
    [
        ("Add", {"a": (1, IMAGE), "b": (1, IMAGE)}, (1, IMAGE), "2 inputs and 1 outputs"),
        ("Relu", {"a": (1, ["n", 4, "h", "w"])}, (1, ["n", 4, "h", "w"]), r"shape \['n', 4, 'h', 'w'\]"),
        ("Neg", {"a": (TensorProto.INT32, IMAGE)}, (TensorProto.INT32, IMAGE), r"tensor\(int32\)"),
        ("GlobalAveragePool", {"a": (1, IMAGE)}, (1, ["n", 3, 1, 1]), "not an enlarged image"),
    ],
    ids=["two inputs", "four channels", "integers", "pooling"],
)
def test_an_interface_that_is_not_ours(
    tmp_path: Path, op: str, inputs: dict[str, tuple[int, list[object]]], out: tuple[int, list[object]], message: str
) -> None:
    with pytest.raises(SrkdError, match=message):
        open_model(one_node(tmp_path / "odd.onnx", op, inputs, out))


def test_open_model_takes_checkpoints_and_run_folders(network: Network, exported: Path, tmp_path: Path) -> None:
    run = tmp_path / "run7"
    run.mkdir()
    save_network(network, run / "student.safetensors", metadata={"srkd.recipe": "scratch"})
    for path, label in ((run, "run7"), (run / "student.safetensors", "student")):
        runtime = open_model(path)
        assert (runtime.label, runtime.name, runtime.metadata["srkd.recipe"]) == (label, "torch", "scratch")
        torch.testing.assert_close(runtime.run(LR), network(LR), atol=1e-6, rtol=0)


def test_open_model_refuses_in_one_line(network: Network, exported: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    save_network(network, checkpoint)
    cases: list[tuple[Path, dict[str, object], str]] = [
        (tmp_path / "nothing.onnx", {}, "no such file or folder"),
        (Path("genral-x2"), {}, "did you mean general-x2"),
        (tmp_path, {}, "folder without student.safetensors"),
        (checkpoint, {"runtime": "onnxruntime"}, "takes an ONNX file"),
        (exported, {"runtime": "tvm"}, "there are torch, torch-compiled, onnxruntime"),
        (exported, {"arch_options": {"res_scale": 0.1}}, "no option 'res_scale'"),
        (checkpoint, {"scale": 4}, "the network enlarges x3"),
    ]
    for path, options, message in cases:
        with pytest.raises(SrkdError, match=message) as caught:
            open_model(path, OpenOptions(**options))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [1, 4, 6])
def test_images_fill_the_batches_of_a_file(count: int) -> None:
    """Of a foreign file with a fixed batch: the last image fills the last one, and its copies are dropped."""
    lr, sizes = torch.rand(count, 3, 5, 4), list[int]()

    def double(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images.repeat_interleave(2, -1).repeat_interleave(2, -2)

    assert torch.equal(ImageFormat(3, batch=4).run(lr, double), double(lr))
    assert sizes == [4] * -(-count // 4) + [count]
