"""Each network is converted bitwise to each code base that has it; lost settings are reported or refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.convert import code_bases, convert_file, state_in_dialect
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.layers import DIV_FLICKR_MEAN
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import NETWORKS, architecture, build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.networks.windows import shift_mask
from srkd.cli.main import run
from srkd.options.option import declarations
from srkd.options.verbs import ConvertOptions
from tests.support import official, official_rcan
from tests.support.networks import VARIANTS, save_new, tiny
from tests.support.shared import needs_shared, shared

ALL = [*(tiny(arch, scale) for arch in NETWORKS for scale in (3, 4)), *VARIANTS]
PAIRS = [
    (spec, to)
    for arch in NETWORKS
    for dialect in architecture(arch).dialects
    for number, to in enumerate(dialect.targets)
    for spec in ([spec for spec in ALL if spec.arch == arch] if number == 0 else [tiny(arch, 2)])
]
"""Each form for the first code base of a dialect; the others write the same files."""


def test_every_network_has_a_way_home() -> None:
    assert {spec.arch for spec, _ in PAIRS} == set(NETWORKS) - {"plain"}, "plain is srkd's own"
    assert {to for _, to in PAIRS} == set(code_bases())
    (told,) = (row.help for row in declarations(ConvertOptions) if row.name == "to")
    assert set(re.findall(r"[\w-]+", told)) == {*code_bases(), "srkd", "also"}
    assert {"srvgg", "carn_m"} <= set(code_bases()), "names that docs/networks/README.md has in its table"


@pytest.mark.ci
@pytest.mark.parametrize("to", code_bases())
def test_the_way_home_and_back_changes_no_bit(to: str, tmp_path: Path) -> None:
    attempts = refused = 0
    for number, spec in enumerate(spec for spec, target in PAIRS if target == to):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = save_new(spec, folder)
        try:
            converted = convert_file(path, to)
        except SrkdError as error:
            assert any(why in str(error) for why in ("mean_shift=file", "res_scale=0.1", "cannot hold scale=8")), error
            assert [file.name for file in folder.iterdir()] == [path.name]
            refused += 1
            continue
        assert converted.path == folder / f"{spec.arch}_{to}.pth"
        unused = {"features": spec.features} if isinstance(spec, SwinIRSpec) else {}
        again = load_checkpoint(converted.path, arch_options={**converted.needs, **unused})
        assert (again.dialect, again.network.spec, again.wrapping) == (converted.dialect, spec, converted.wrapping)
        assert again.network.fingerprint() == load_checkpoint(path).network.fingerprint()
        assert (again.sha256, again.bytes) == (converted.sha256, converted.bytes)
        first = converted.path.read_bytes()
        assert convert_file(path, to, folder / "other name.pt").sha256 == again.sha256
        assert converted.path.read_bytes() == first
        attempts += 1
    assert attempts >= 1 and refused <= 2


def test_what_a_file_cannot_hold_is_said(tmp_path: Path) -> None:
    path = save_new(EDSRSpec(2, 8, 1, res_scale=0.1, mean=DIV_FLICKR_MEAN, img_range=1.0), tmp_path)
    assert convert_file(path, "basicsr").needs == {"res_scale": 0.1, "mean": DIV_FLICKR_MEAN, "img_range": 1.0}
    assert convert_file(path, "edsr-pytorch").needs == {"res_scale": 0.1}
    assert convert_file(path, "csd").needs == {}
    path = save_new(EDSRSpec(2, 8, 1), tmp_path)
    assert (convert_file(path, "basicsr").needs, convert_file(path, "csd").needs) == ({}, {"res_scale": 1.0})
    path = save_new(SwinIRSpec(2, 12, (2,), (2,), window=4, img_range=255.0, features=4), tmp_path)
    assert convert_file(path, "swinir").needs == {"img_range": 255.0}


@pytest.mark.parametrize(
    ("spec", "to", "message"),
    [
        (
            EDSRSpec(2, 8, 1, mean_shift="file"),
            "basicsr",
            "only mean_shift=constant.*to csd or edsr-pytorch or fakd or rcan or srkd",
        ),
        (RCANSpec(2, 8, 1, 1, 2, res_scale=0.1), "rcan", "only res_scale=1.0.*has res_scale=0.1.*to basicsr or srkd"),
        (CARNSpec(2, 4, img_range=255.0), "carn", "only img_range=1.0.*img_range=255.0.*convert to srkd"),
        (CompactSpec(2, 4, 1), "carn", "carn has no compact; those that have: basicsr, srvgg, srkd"),
        (EDSRSpec(2, 8, 1), "basicrs", "no code base is called 'basicrs'; did you mean 'basicsr'"),
    ],
)
def test_what_a_code_base_cannot_say_is_refused(spec: Spec, to: str, message: str, tmp_path: Path) -> None:
    path = save_new(spec, tmp_path)
    with pytest.raises(SrkdError, match=message):
        convert_file(path, to)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_names_of_outputs(tmp_path: Path) -> None:
    path = save_new(EDSRSpec(2, 8, 1), tmp_path)
    for out, message in (("x.safetensors", "files end with .pth"), ("x.onnx", "files end with .pth")):
        with pytest.raises(UsageError, match=message):
            convert_file(path, "basicsr", tmp_path / out)
    with pytest.raises(UsageError, match=r"edsr\.safetensors.*-o"):
        convert_file(path, "srkd", path)
    home = convert_file(path, "basicsr").path
    with pytest.raises(UsageError, match=r"edsr_basicsr\.pth.*-o"):
        convert_file(home, "basicsr", home)


def test_to_srkd_keeps_what_the_header_says(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    save_network(build(EDSRSpec(2, 8, 1, 0.1), seed=0), path, metadata={"srkd.recipe": "csd", "srkd.scores": "{}"})
    header = load_checkpoint(convert_file(path, "srkd", tmp_path / "again.safetensors").path).header
    assert (header["srkd.recipe"], json.loads(header["srkd.spec"])["res_scale"]) == ("csd", 0.1)
    torch.save(official.carn((2, 3), 8), tmp_path / "carn.pth")
    converted = load_checkpoint(convert_file(tmp_path / "carn.pth", "srkd", scale=3).path)
    assert (converted.network.spec, converted.dialect) == (CARNSpec(3, 8), "srkd")
    assert converted.header["srkd.source_sha256"] == load_checkpoint(tmp_path / "carn.pth", scale=2).sha256


@pytest.mark.parametrize(
    ("state", "to"),
    [
        (official.edsr_pytorch(4, 8, 2), "edsr-pytorch"),
        (official.basicsr_edsr(2, 8, 2), "basicsr"),
        (official.csd_edsr(4, 8, 2), "csd"),
        (official.fakd_edsr(2, 8, 5), "fakd"),
        (official.carn_m((4,), 8, groups=2), "carn"),
        (official_rcan.rcan(official_rcan.RCAN, 2), "rcan"),
        (official_rcan.drifted(official_rcan.rcan(official_rcan.RCAN, 2)), "edsr-pytorch"),
    ],
)
def test_official_files_come_home_as_they_left(state: official.State, to: str, tmp_path: Path) -> None:
    """Names, shapes and every bit, including mean shifts, as the official code would save them."""
    torch.save(state, tmp_path / "official.pth")
    content = torch.load(convert_file(tmp_path / "official.pth", to).path, weights_only=True)
    for wrapper in ("params", "model_state_dict"):
        content = content.get(wrapper, content)
    home = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    assert home.keys() == state.keys()
    assert [name for name, tensor in state.items() if not torch.equal(tensor, home[name])] == []


@needs_shared
def test_golden_states_come_home_as_they_left() -> None:
    compared = 0
    for case in sorted((shared() / "golden" / "archs").glob("*/state.pth")):
        name = case.parent.name
        if name.startswith(("pams", "carn_multi", "hkdsr", "csd")) or name.endswith("_REFUSE"):
            continue  # other scales, heads and wrappings; their round trip is tested above
        loaded = load_checkpoint(case)
        dialect = next(d for d in architecture(loaded.network.spec.arch).dialects if d.name == loaded.dialect)
        raw = torch.load(case, weights_only=True)
        raw = raw.get("params_ema", raw.get("params", raw))
        home, _ = state_in_dialect(loaded.network, dialect)
        if dialect.fold is not None:  # branches come home in another form, of the same names and shapes
            assert {key: tensor.shape for key, tensor in home.items()} == {key: t.shape for key, t in raw.items()}, name
            (raw, _), (home, _) = dialect.fold(raw), dialect.fold(home)  # type: ignore[assignment]
        assert home.keys() == raw.keys(), name
        for key, tensor in raw.items():
            if key.endswith("attn_mask"):  # of the test's own small training size
                side = int((tensor.shape[0] * tensor.shape[1]) ** 0.5)
                window = int(tensor.shape[1] ** 0.5)
                assert torch.equal(tensor, shift_mask(side, side, window, torch.device("cpu"))), key
            else:
                assert torch.equal(tensor, home[key]), f"{name}: {key}"
        compared += 1
    assert compared >= 12


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_new(EDSRSpec(2, 8, 1, res_scale=0.5), tmp_path)
    assert run(["convert", str(path), "--to", "basicsr", "-o", str(tmp_path / "home.pth"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["schema"], value["to"], value["wrapping"]) == ("srkd.convert/1", "basicsr", "params")
    assert value["needs"] == {"res_scale": 0.5}
    assert run(["convert", str(path), "--to", "basicsr"]) == 0
    assert "not in the file: res_scale=0.5" in capsys.readouterr().out
    assert run(["convert", str(path), "--to", "nothing"]) == 2
