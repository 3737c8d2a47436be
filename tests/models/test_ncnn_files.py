"""ncnn files as checkpoints: the tensors under a code base's names, the facts of the graph, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.models.checkpoints.convert import convert_file
from compressor.models.checkpoints.load import load_checkpoint, read_states
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import SRVGG, CompactSpec
from compressor.models.networks.registry import NETWORKS, architecture, build
from compressor.models.networks.rrdbnet import RRDBNetSpec
from compressor.models.networks.span import NO_MEAN, SPANSpec
from compressor.teachers.teacher import load_teacher
from export.convert.to_ncnn import convert
from export.formats.conversion import Conversion
from srkd.cli.main import run
from srkd.record.run_spec import TeacherFile
from srkd.record.run_teacher import find_teacher_file
from tests.support.formats_table import Damage, becomes, of_weights, replaced
from tests.support.ncnn_files import compact_file, misread, mutants, raw, rrdbnet_file, span_file
from tests.support.shared import needs_shared, shared

IMAGE = torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(0))
FILES: dict[str, tuple[Spec, bool]] = {
    "Compact": (CompactSpec(2, width=6, depth=2), False),
    "Compact in fp16": (CompactSpec(3, width=5, depth=1), True),
    "Compact with ReLU": (CompactSpec(2, width=6, depth=2, act="relu"), False),
    "Compact with LeakyReLU": (CompactSpec(4, width=6, depth=1, act="leakyrelu"), False),
    "SPAN": (SPANSpec(2, width=4, depth=3), False),
    "SPAN in fp16": (SPANSpec(4, width=5, depth=2), True),
    "SPAN without mean": (SPANSpec(2, width=4, depth=2, mean=NO_MEAN, img_range=1.0), False),
}
ACTIVATIONS = {"prelu": None, "relu": "9=1", "leakyrelu": "9=2 -23310=1,0.1"}


def tensors_of(network: Network, dialect: str) -> dict[str, Tensor]:
    spec, state = network.spec, network.state_dict()
    names = next(row for row in architecture(spec.arch).dialects if row.name == dialect).names(spec, set())
    return {there: state[here] for here, there in names.items()}


def write(network: Network, folder: Path, *, fp16: bool = False) -> Path:
    spec = network.spec
    if isinstance(spec, CompactSpec):
        return compact_file(tensors_of(network, SRVGG.name), spec.scale, ACTIVATIONS[spec.act], fp16=fp16).write(folder)
    mean = torch.tensor(spec.mean) if spec.has_norm else None
    return span_file(tensors_of(network, "span-collapsed"), spec.scale, mean, fp16=fp16).write(folder)


@pytest.fixture
def compact(tmp_path: Path) -> Path:
    return write(build(CompactSpec(2, width=6, depth=2), seed=1), tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_network_that_it_was_written_from(name: str, tmp_path: Path) -> None:
    spec, fp16 = FILES[name]
    network = build(spec, seed=1)
    loaded = load_checkpoint(write(network, tmp_path, fp16=fp16))
    assert loaded.network.spec == spec and not loaded.assumed
    for key, tensor in network.state_dict().items():
        is_kernel = tensor.dim() == 4
        torch.testing.assert_close(
            loaded.network.state_dict()[key], tensor.half().float() if fp16 and is_kernel else tensor, rtol=0, atol=0
        )


@pytest.mark.extras
@pytest.mark.parametrize(
    "spec",
    [CompactSpec(2, width=6, depth=1), SPANSpec(2, width=4, depth=1), RRDBNetSpec(4, width=4, growth=3, depth=1)],
    ids=lambda spec: spec.arch,
)
def test_a_changed_file_is_refused_or_read_as_ncnn_computes_it(spec: Spec, tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    convert(Conversion(build(spec, seed=1), tmp_path / f"{spec.arch}.param", {}))
    read, wrong = misread(mutants(tmp_path / f"{spec.arch}.param", 400, tmp_path), IMAGE)
    assert not wrong
    assert read > 5


def rrdbnet_state(ups: int, inputs: int = 3, width: int = 6, growth: int = 3) -> dict[str, Tensor]:
    rows = {"conv_first": (inputs, width), "conv_body": (width, width), "conv_hr": (width, width)}
    rows |= {f"conv_up{index + 1}": (width, width) for index in range(ups)}
    rows |= {"conv_last": (width, 3)}
    for block in range(2):
        for dense in (1, 2, 3):
            sizes = {k: (width + (k - 1) * growth, growth if k < 5 else width) for k in range(1, 6)}
            rows |= {f"body.{block}.rdb{dense}.conv{k}": size for k, size in sizes.items()}
    draw = torch.Generator().manual_seed(3)
    shapes = {f"{name}.weight": (out, into, 3, 3) for name, (into, out) in rows.items()}
    shapes |= {f"{name}.bias": (out,) for name, (_, out) in rows.items()}
    return {name: torch.randn(shape, generator=draw) * 0.1 for name, shape in shapes.items()}


@pytest.mark.parametrize("eltwise", [True, False])
@pytest.mark.parametrize(("ups", "unshuffle"), [(2, 1), (2, 2), (1, 1)])
def test_the_tensors_of_an_rrdbnet_have_basicsr_names(ups: int, unshuffle: int, eltwise: bool, tmp_path: Path) -> None:
    state = rrdbnet_state(ups, 3 * unshuffle**2)
    path = rrdbnet_file(state, ups, eltwise=eltwise, unshuffle=unshuffle).write(tmp_path)
    ((_, read),) = read_states(path)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_either_file_finds_the_other_and_every_reader_takes_it(compact: Path, tmp_path: Path) -> None:
    one, other = load_checkpoint(compact), load_checkpoint(compact.with_suffix(".bin"))
    assert one.network.fingerprint() == other.network.fingerprint() and one.sha256 == other.sha256
    assert load_teacher(compact).network is not None
    assert open_model(compact).name == "torch"
    assert open_model(compact).descriptor.scale == 2
    written = tmp_path / "back.pth"
    convert_file(compact, "basicsr", written)
    assert load_checkpoint(written).network.fingerprint() == one.network.fingerprint()


def test_a_bin_that_is_a_pickle_is_read_as_one_beside_any_param(compact: Path) -> None:
    network = build(CompactSpec(2, width=4, depth=1), seed=2)
    torch.save(tensors_of(network, SRVGG.name), compact.with_suffix(".bin"))
    assert load_checkpoint(compact.with_suffix(".bin")).network.fingerprint() == network.fingerprint()


def test_a_run_finds_its_teacher_again_by_the_hash_of_its_weights(compact: Path) -> None:
    """Changed weights are another teacher, and those without them none."""
    recorded = TeacherFile(path=compact, sha256=load_checkpoint(compact).sha256, kind="srkd", options={})
    assert find_teacher_file(recorded) == compact
    weights = compact.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert find_teacher_file(recorded) is None
    weights.unlink()
    assert find_teacher_file(recorded) is None


@pytest.fixture
def reduced(tmp_path: Path) -> Path:
    """A file of x4 whose last layer halves the image."""
    file = compact_file(tensors_of(build(CompactSpec(4, width=6, depth=1), seed=1), SRVGG.name), 4)
    file.add("Interp", [len(file.layers) - 1], "0=3 1=0.5 2=0.5")
    return file.write(tmp_path)


def test_a_file_that_ends_with_a_resize_is_a_network_of_its_scale(reduced: Path) -> None:
    whole = build(CompactSpec(4, width=6, depth=1), seed=1)
    lr = torch.rand(1, 3, 9, 7)
    torch.testing.assert_close(load_checkpoint(reduced).network(lr), F.avg_pool2d(whole(lr), 2))
    assert load_checkpoint(reduced, scale=4).network.fingerprint() == whole.fingerprint()
    for other in ("1=0.5 2=0.25", "1=0.3 2=0.3", "1=0.5 2=0.5 3=18", "1=0.5 2=0.5 6=1"):
        in_param(reduced.read_text().rpartition("0=3 ")[2], f"{other}\n")(reduced)
        with pytest.raises(SrkdError, match="is not one of Compact"):
            load_checkpoint(reduced)


@pytest.mark.parametrize(
    "verb", ["inspect", "export --onnx", "compress --dry-run --teacher", "evaluate", "convert --to srvgg"]
)
def test_who_reads_the_scale_of_a_file_reads_how_it_is_made(
    verb: str, reduced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*verb.split(), str(reduced)]) == 0
    printed = " ".join("".join(capsys.readouterr()).split())
    assert (
        "x2: the mean of 2x2 pixels of the x4 image, by its last layer, where the file samples it bicubically"
        in printed
    )


def in_param(old: str, new: str) -> Damage:
    return replaced(old.encode(), new.encode(), 1)


def in_bin(change: Callable[[bytes], bytes]) -> Damage:
    return of_weights(lambda path: path.write_bytes(change(path.read_bytes())) and None)


REFUSED: dict[str, tuple[Damage, str]] = {
    "binary": (becomes((7767517).to_bytes(4, "little") * 9), "binary"),
    "a lost line": (in_param("BinaryOp l10 2 1 b8 b9 output 0=0\n", ""), "and claims"),
    "a billion layers": (in_param("\n12 ", "\n1000000000 "), "and claims"),
    "a huge size": (in_param("6=162", "6=1073741824"), "fit no 6 kernels"),
    "a negative size": (in_param("0=6", "0=-6"), "a size is 1 or more"),
    "more blobs than words": (in_param("Convolution l1 1 1", "Convolution l1 1 900000000"), "fewer blobs"),
    "eight bits": (in_param("5=1 6=162", "5=1 8=1 6=162"), "int8"),
    "a second input": (in_param("12 13\n", "13 14\nInput more 0 1 more\n"), "0 layers take its .more."),
    "a blob that is taken twice": (in_param("b8 b9", "b9 b9"), "0 layers take its .b8."),
    "a number without a point": (in_param("2=2.0", "2=2"), "parameter 2 is 2, not a number with a point"),
    "more digits than 32 bits": (in_param("2=2.0", "2=2.00000000001"), "not a number that ncnn reads"),
    "a number over 32 bits": (in_param("0=6", "0=4294967302"), "not a number that ncnn reads"),
    "a second value": (in_param("0=2\n", "0=2 0=2\n"), "a second value of 0"),
    "a fixed size": (in_param("2=2.0", "2=2.0 3=4"), "Interp.. is not one of Compact"),
    "an activation's slope": (in_param("6=162", "6=162 -23310=1,0.1"), "Convolution.. is not one of Compact"),
    "groups": (in_param("6=162", "6=162 7=2"), "parameter 7 of Convolution is not read"),
    "another layer": (in_param("PReLU l2", "Mish l2"), "Mish.. is not one of Compact"),
    "a cut end": (in_bin(lambda content: content[:-5]), "ends within layer .l7."),
    "weights as bytes": (in_bin(lambda content: (0x000D4B38).to_bytes(4, "little") + content[4:]), "int8 or packed"),
}  # fmt: skip


def test_a_second_constant_is_no_part_of_span(tmp_path: Path) -> None:
    path = write(build(SPANSpec(2, width=4, depth=1)), tmp_path)
    in_param("\n24 29\n", "\n25 30\nMemoryData more 0 1 more 0=1 1=1 2=3\n")(path)
    in_bin(lambda content: raw(torch.zeros(3)) + content)(path)
    with pytest.raises(SrkdError, match="0 layers take its 'more'"):
        load_checkpoint(path)


@pytest.mark.parametrize("damage", REFUSED)
def test_a_damaged_or_foreign_file_is_refused_in_one_line(damage: str, compact: Path) -> None:
    change, message = REFUSED[damage]
    change(compact)
    with pytest.raises(SrkdError, match=message) as raised:
        load_checkpoint(compact)
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).startswith(f"{compact}: ")


def test_an_image_that_changes_its_channels_is_refused(tmp_path: Path) -> None:
    path = rrdbnet_file(rrdbnet_state(2, 12), 2, eltwise=True).write(tmp_path)
    with pytest.raises(SrkdError, match="takes 12 channels"):
        load_checkpoint(path)


GOLDEN = ("compact_leaky_x3", "compact_prelu_x2", "span_x4", "rrdb_x4")
REAL = ("realesr-general-x4v3", "spanx2_ch48", "spanx4_ch48", "realesrgan-x4plus-anime")


@needs_shared
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("name", GOLDEN)
def test_random_networks_of_the_official_converter(name: str, precision: str) -> None:
    folder = shared() / "golden" / "ncnn" / f"{name}_{precision}"
    require_network(folder / "model.param", name)
    assert json.loads((folder / "meta.json").read_text())["cls"]
    for file in ("model.param", "model.bin"):
        assert distance(folder / file, np.load(folder / "input.npz")["x"], np.load(folder / "output.npz")["y"]) <= 2e-5


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_published_files(name: str) -> None:
    path, outputs = shared() / "data" / "checkpoints" / f"{name}.param", shared() / "golden" / "ncnn" / "real_files"
    require_network(path, name)
    assert distance(path, np.load(outputs / "input.npz")["x"], np.load(outputs / "output.npz")[f"y_{name}"]) <= 1e-4


def require_network(path: Path, name: str) -> None:
    if not path.is_file():
        pytest.skip(f"no {path.name} in the shared folder")
    if name.startswith(("rrdb", "realesrgan")) and "rrdbnet" not in NETWORKS:
        pytest.skip("RRDBNet is not a network here")


def distance(path: Path, image: np.ndarray, expected: np.ndarray) -> float:  # type: ignore[type-arg]
    lr = torch.from_numpy(image)
    with torch.no_grad():
        sr = load_checkpoint(path).network(lr if lr.dim() == 4 else lr[None])
    return float((sr - torch.from_numpy(expected)).abs().max())
