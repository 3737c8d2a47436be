"""A quantised network is saved as its spec, weights, ranges and the key `srkd.quant`, and loaded from them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

import srkd
from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.models.checkpoints.convert import convert_file
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.models.networks.registry import NETWORKS, build, quantise
from compressor.models.quantisation.description import Placement, Quantisation
from compressor.models.quantisation.file_facts import QuantisedFile, read_quantised_file, read_training
from tests.support.networks import SMALL, find_ranges

LR = torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))


def quantised(arch: str = "edsr", bits: int = 8, placement: Placement = "paper") -> Network:
    return find_ranges(quantise(build(SMALL[arch], seed=1), Quantisation("pact", bits, placement)), LR)


def saved(path: Path, network: Network | None = None) -> Path:
    save_network(network or quantised(), path)
    return path


def with_header(path: Path, **changes: str | None) -> Path:
    """Write the file again with other metadata."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    for key, value in changes.items():
        name = f"srkd.{key}"
        if value is None:
            header["__metadata__"].pop(name)
        else:
            header["__metadata__"][name] = value
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return path


@pytest.mark.ci
@pytest.mark.parametrize("arch", sorted(NETWORKS))
@pytest.mark.parametrize("placement", ["paper", "all"])
def test_a_file_gives_the_same_network(arch: str, placement: Placement, tmp_path: Path) -> None:
    network = quantised(arch, 4, placement)
    loaded = load_checkpoint(saved(tmp_path / "student.safetensors", network))
    assert loaded.network.quantisation == network.quantisation and loaded.header["srkd.quant"]
    assert loaded.network.fingerprint() == network.fingerprint()
    assert torch.equal(loaded.network(LR), network(LR))


def test_every_way_to_open_it_runs_the_quantised_network(tmp_path: Path) -> None:
    network = quantised(bits=3)
    path = saved(tmp_path / "student.safetensors", network)
    expected, plain = network(LR), build(SMALL["edsr"], seed=1)(LR)
    assert not torch.allclose(expected, plain, atol=1e-3)
    runtime = open_model(path)
    assert torch.allclose(runtime.run(LR), expected, atol=1e-6)
    assert srkd.load(path).require_network("a test").quantisation == network.quantisation
    # Copied like in a runtime, and moved to another memory layout.
    assert json.loads(runtime.metadata["srkd.quant"])["bits"] == 3


def test_inspect_counts_bytes_at_the_bits(tmp_path: Path) -> None:
    facts = srkd.inspect(saved(tmp_path / "student.safetensors", quantised(bits=4)))
    size = facts.quantisation
    assert size is not None and (size.method, size.bits, size.placement) == ("pact", 4, "paper")
    assert size.bytes_as_float == 4 * (facts.params or 0)
    # Eight weights need four bytes instead of 32; nothing else becomes smaller, and ranges and scales are added.
    assert size.bytes_as_float - size.quantised_weights * 7 // 2 < size.bytes_at_bits < size.bytes_as_float
    assert srkd.inspect(saved(tmp_path / "float.safetensors", build(SMALL["edsr"], seed=1))).quantisation is None
    assert srkd.inspect(quantised(bits=4)).quantisation == size


def test_a_header_that_lies_is_refused_in_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path / "student.safetensors")
    whole = Quantisation("pact", 8, "all").to_json()
    for quant, words in (
        ("{", "srkd.quant is not JSON"),
        ('{"bits": 10000000000}', "srkd.quant is not an object with"),
        (whole.replace("pact", "magic"), "method='magic'"),
        (whole, "missing"),
        ("[" * 100_000, "srkd.quant"),
    ):
        with pytest.raises(SrkdError, match=words) as caught:
            load_checkpoint(with_header(path, quant=quant))
        assert "\n" not in str(caught.value)
    with pytest.raises(SrkdError, match="9 unexpected"):
        load_checkpoint(with_header(path, quant=None))


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_range_that_is_none_is_refused(alpha: float, tmp_path: Path) -> None:
    network = quantised()
    with torch.no_grad():
        network.get_parameter("blocks.1.branch.alpha").fill_(alpha)
    with pytest.raises(SrkdError, match=r"blocks\.1\.branch\.alpha is -?[01]"):
        load_checkpoint(saved(tmp_path / "student.safetensors", network))


def test_other_code_bases_have_no_place_for_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "student.safetensors")
    with pytest.raises(SrkdError, match=r"basicsr .*pact, 8 bits"):
        convert_file(path, "basicsr", tmp_path / "out.pth")
    again = convert_file(path, "srkd", tmp_path / "again.safetensors")
    assert load_checkpoint(again.path).network.fingerprint() == load_checkpoint(path).network.fingerprint()


# Facts in 8-bit files, written by srkd or by others.

READ = {"flavour": "cpu", "calibration": "32 patches of photos", "weight_bits": 7, "in_float": "sums"}
READ |= {"drop_db": 0.0322, "psnr_to_source_db": 48.1, "photos": 2}
OURS = {**READ, "bits": 8, "float_layers": [], "precision": "int8", "solved_weights": False}


def keys(value: object) -> dict[str, str]:
    return {"srkd.quant": value if isinstance(value, str) else json.dumps(value)}


def test_a_file_of_ours_says_everything() -> None:
    file = read_quantised_file(keys(OURS))
    assert file == QuantisedFile(**READ)
    assert file.line() == "int8 for cpu, -0.032 dB of Y-PSNR on 2 photos, calibrated on 32 patches of photos"
    learnt = read_quantised_file(keys({"flavour": "cpu", "method": "pams", "calibration": "learnt in training"}))
    assert learnt is not None and learnt.line() == "int8 for cpu, learnt in training by pams"


def test_anything_else_is_no_int8_file() -> None:
    for value in ("", "not JSON", "[" * 100_000, "[1]", {}, {"flavour": 3}, {"flavour": "a\nb"}, {"flavour": None}):
        assert read_quantised_file(keys(value)) is None
    assert read_quantised_file({}) is None


def test_a_loss_that_is_no_number_is_unknown() -> None:
    for drop in ("much", True, [], None, float("nan"), float("inf"), 10**400):
        file = read_quantised_file(keys({"flavour": "cpu", "drop_db": drop, "photos": "two", "calibration": 1}))
        assert file == QuantisedFile(flavour="cpu")


def test_a_float_file_of_a_network_trained_quantised_says_how_it_was_trained() -> None:
    quantisation = Quantisation("pact", 4, "all")
    assert read_training(keys(quantisation.to_json())) == quantisation
    assert read_quantised_file(keys(quantisation.to_json())) is None
    assert read_training(keys(OURS)) is None
    assert read_training({}) is None
