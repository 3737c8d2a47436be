"""`--for huggingface`, `--push` and hf://: a folder that rebuilds the network, and repositories in local folders."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import srkd
from compressor.base import hub
from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from export.writing.card import CardFacts
from export.writing.exporting import Source
from srkd.cli.main import run
from srkd.options.compress import TeacherOptions
from srkd.options.values import MODEL
from tests.support.commands import ROOT
from tests.support.hosts import STUDENTS, export_for_hosts, photo
from tests.support.pages import FENCE, head_of

FILES = {"README.md", "config.json", "model.safetensors"}


@dataclass(frozen=True)
class LocalHub:
    """huggingface_hub's calls on repositories that are folders under `root`."""

    root: Path

    def snapshot_download(
        self, repo_id: str, *, revision: str | None = None, local_dir: Path, allow_patterns: list[str]
    ) -> str:
        repository = self.root / repo_id
        if not repository.is_dir() or revision not in (None, "main"):
            raise RuntimeError("404 Client Error.\nRepository Not Found")
        local_dir.mkdir(parents=True, exist_ok=True)
        for file in repository.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, local_dir)
        return str(local_dir)

    def HfApi(self) -> LocalHub:
        return self

    def create_repo(self, repo_id: str, *, exist_ok: bool) -> str:
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], commit_message: str) -> None:
        assert commit_message
        for file in folder_path.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, self.root / repo_id)


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "hub"
    monkeypatch.setitem(sys.modules, "huggingface_hub", LocalHub(root))
    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "cache"))
    return root


def written(network: Network, folder: Path, source: Source | None = None, facts: CardFacts | None = None) -> Path:
    (host,) = export_for_hosts(network, source or Source("net"), ["huggingface"], folder, facts=facts)
    assert host.folder is not None, host.reason
    return host.folder


@pytest.mark.parametrize(
    "student", [pytest.param(name, marks=[pytest.mark.ci] * (name != "plain-luma-x2")) for name in STUDENTS]
)
def test_srkd_and_the_pages_snippet_rebuild_the_network(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = STUDENTS[student]().eval()
    folder = written(network, tmp_path)
    assert {file.name for file in folder.iterdir()} == FILES
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    spec, channels = network.spec, network.descriptor.channels
    assert (config["arch"], config["scale"], config["channels"]) == (spec.arch, spec.scale, channels)
    section = (ROOT / "docs" / "formats" / "hosts.md").read_text(encoding="utf-8").split("## Hugging Face\n")[1]
    snippet = next(body for language, body in FENCE.findall(section) if language == "python")
    names: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    exec(snippet, names)
    lr = photo(channels=channels)
    expected = network(lr)
    assert torch.equal(names["network"].eval()(lr), expected)
    torch.testing.assert_close(open_model(folder).run(lr), expected, atol=1e-6, rtol=0)


def test_what_the_checkpoint_says_stays_in_its_copy(tmp_path: Path) -> None:
    """Equal bytes have the hash that the run's record holds."""
    network = build(EDSRSpec(width=8, depth=1, scale=2), seed=3)
    srkd.save(network, tmp_path / "net.safetensors")
    (host,) = srkd.export(tmp_path / "net.safetensors", hosts="huggingface", out=tmp_path / "out").hosts
    assert (host.folder / "model.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


def test_the_readme_is_the_card_and_ends_with_the_three_lines(tmp_path: Path) -> None:
    source = Source("net", header={"srkd.recipe": "fit", "srkd.license": "cc-by-nc-4.0"})
    facts = CardFacts("net", source.header, "ab" * 32, "cc-by-nc-4.0", teacher="big.pth", base_model="me/big")
    network = build(EDSRSpec(width=8, depth=1, scale=2), seed=0)
    folder = written(network, tmp_path, source, facts)
    head = head_of(folder / "README.md")
    assert head["license"] == "cc-by-nc-4.0" and head["base_model"] == "me/big"
    assert (head["pipeline_tag"], head["library_name"]) == ("image-to-image", "srkd")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "# net\n" in text and "## Files" not in text and "forbids commercial use" in text
    ending = text.split("## Use\n")[1].split()
    assert [word for word, before in zip(ending[1:], ending, strict=False) if before == "-"] == [
        "Put",
        "Call:",
        "Expect",
    ]
    assert srkd.inspect(folder).licence == "cc-by-nc-4.0"


@pytest.mark.ci
def test_pushed_and_pulled(
    local_hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    srkd.save(build(EDSRSpec(width=8, depth=1, scale=2), seed=3), tmp_path / "net.safetensors")
    words = ["export", str(tmp_path / "net.safetensors"), "--for", "huggingface", "--push", "me/first"]
    assert run([*words, "-o", str(tmp_path / "out")]) == 0
    assert "pushed to https://huggingface.co/me/first" in " ".join(capsys.readouterr().out.split())
    assert {file.name for file in (local_hub / "me" / "first").iterdir()} == FILES
    Image.new("RGB", (20, 16), (200, 90, 10)).save(tmp_path / "a.png")
    assert run(["upscale", "hf://me/first", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png")]) == 0
    assert Image.open(tmp_path / "b.png").size == (40, 32)
    lr = photo()
    assert torch.equal(srkd.load("hf://me/first@main").forward(lr), srkd.load(tmp_path / "net.safetensors").forward(lr))
    teacher = TeacherOptions(teacher="hf://me/first").teacher
    assert isinstance(teacher, Path) and teacher.is_absolute() and teacher.is_dir()
    (local_hub / "other").write_text("a file where the owner's folder would be")
    report = srkd.export("hf://me/first", hosts="huggingface", push="other/first", out=tmp_path / "unpushed")
    assert not report.ok and report.hosts[0].folder and "cannot be pushed to other/" in str(report.hosts[0].reason)
    (host,) = srkd.export("hf://me/first", hosts="openmodeldb", out=tmp_path / "again").hosts
    assert host.files[-1].path is not None and host.files[-1].path.name == "2x-first.onnx"
    monkeypatch.chdir(tmp_path)
    assert srkd.export("hf://me/first", formats="onnx").files[0].path == Path("first/model.onnx")


def test_another_programs_checkpoint_is_fetched_by_its_name(local_hub: Path, tmp_path: Path) -> None:
    network = build(EDSRSpec(width=8, depth=1, scale=2), seed=3)
    (local_hub / "you" / "zoo").mkdir(parents=True)
    srkd.save(network, local_hub / "you" / "zoo" / "4x.safetensors")
    with pytest.raises(SrkdError, match=r"no model.safetensors: name a file of it, as in hf://you/zoo/FILE"):
        srkd.load("hf://you/zoo")
    lr = photo()
    assert torch.equal(srkd.load("hf://you/zoo/4x.safetensors").forward(lr), network(lr))
    with pytest.raises(SrkdError, match=r"no other\.pth"):
        srkd.load("hf://you/zoo/other.pth")
    with pytest.raises(SrkdError, match=r"hf://you/none cannot be fetched: 404 Client Error"):
        srkd.load("hf://you/none")


@pytest.mark.parametrize("address", ["hf://first", "hf://me/first/../../x", "hf://../first", "hf://me/fi rst"])
def test_what_is_no_address_is_refused(address: str, local_hub: Path) -> None:
    with pytest.raises(UsageError, match="hf://OWNER/NAME"):
        MODEL.read(address)


def test_push_is_refused_before_any_work(local_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srkd.save(build(EDSRSpec(width=8, depth=1, scale=2), seed=0), tmp_path / "net.safetensors")
    with pytest.raises(UsageError, match="--for huggingface: give both"):
        srkd.export(tmp_path / "net.safetensors", hosts="upscayl", push="me/first")
    with pytest.raises(UsageError, match="OWNER/NAME"):
        srkd.export(tmp_path / "net.safetensors", hosts="huggingface", push="first")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SrkdError, match=r"srkd\[hub\]"):
        srkd.export(tmp_path / "net.safetensors", hosts="huggingface", push="me/first")
    with pytest.raises(SrkdError, match=r"srkd\[hub\]"):
        srkd.load("hf://me/first")
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.extras
def test_the_real_library_has_these_calls_and_reads_the_card(tmp_path: Path) -> None:
    real = pytest.importorskip("huggingface_hub")
    for call, double in (
        (real.snapshot_download, LocalHub.snapshot_download),
        (real.HfApi.create_repo, LocalHub.create_repo),
        (real.HfApi.upload_folder, LocalHub.upload_folder),
    ):
        wanted = set(inspect.signature(double).parameters) - {"self"}
        assert wanted <= set(inspect.signature(call).parameters)
    source = Source(
        "net", header={"srkd.scores": '{"validation_psnr_y": 31.5, "bicubic_psnr_y": 29.0}', "srkd.license": "mit"}
    )
    facts = CardFacts("net", source.header, "ab" * 32, "mit", teacher="big.pth", base_model="me/big")
    folder = written(build(EDSRSpec(width=8, depth=1, scale=2), seed=0), tmp_path, source, facts)
    card = real.ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.library_name, card.data.base_model) == ("mit", "srkd", "me/big")
    (result,) = card.data.eval_results
    assert result.metric_value == 31.5 and "Y-PSNR" in result.metric_name
    for name in ("me/first", "me/4x-net_2.0"):
        hub.read_repository(name)
        real.utils.validate_repo_id(name)
