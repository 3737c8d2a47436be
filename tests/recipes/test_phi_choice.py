"""The selection of φ for a run: a file, torch.hub's cache, a download that may fail, or the teacher's own blocks."""

from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path

import pytest
import torch

import recipes.terms.phi
from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.registry import build
from recipes.terms.perceptual import VGG19, TeacherPhi
from recipes.terms.phi import SHA256, PhiSource, hub_cache, resolve_phi
from tests.support.networks import tiny


class Server:
    """A fake server: the response of `connect`, and the number of requests."""

    def __init__(self, content: bytes, *, length: int | None = None) -> None:
        self.content, self.length, self.requests = content, length, 0

    def __call__(self, url: str) -> recipes.terms.phi._Response:
        self.requests += 1
        total = len(self.content) if self.length is None else self.length
        return recipes.terms.phi._Response(self.content[:100], io.BytesIO(self.content[100:]), total)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Provide an empty cache and no network connection."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def offline(url: str) -> recipes.terms.phi._Response:
        raise OSError("no route to host")

    monkeypatch.setattr(recipes.terms.phi, "connect", offline)
    return hub_cache()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Write a VGG-19 with random weights whose checksum is the expected one."""
    torch.manual_seed(0)
    torch.save(VGG19().state_dict(), tmp_path / "random.pth")
    content = (tmp_path / "random.pth").read_bytes()
    monkeypatch.setattr(recipes.terms.phi, "SHA256", hashlib.sha256(content).hexdigest()[:8])
    return content


def test_phi_without_a_file_or_a_network_is_the_teachers(hub: Path) -> None:
    source = resolve_phi()
    assert source.kind == "teacher"
    assert "no route to host" in source.how
    assert isinstance(source.build(build(tiny("edsr", 2))), TeacherPhi)
    with pytest.raises(SrkdError, match="--phi-weights FILE"):
        source.build(None)
    with pytest.raises(SrkdError, match=r"--phi-weights FILE, or put it at .*vgg19-dcbb9e9d\.pth"):
        resolve_phi("vgg19")
    assert not hub.exists()


def test_phi_is_what_the_user_says(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes.terms.phi, "connect", lambda url: pytest.fail("nothing is to be downloaded"))
    assert resolve_phi("teacher").kind == "teacher"
    (tmp_path / "mine.pth").write_bytes(b"mine")
    source = resolve_phi(weights=tmp_path / "mine.pth")
    assert (source.kind, source.path) == ("vgg19", tmp_path / "mine.pth")
    assert source.sha256 == hashlib.sha256(b"mine").hexdigest()
    with pytest.raises(UsageError, match=r"phi=teacher.*leave out --phi-weights"):
        resolve_phi("teacher", tmp_path / "mine.pth")
    with pytest.raises(SrkdError, match=r"absent\.pth"):
        resolve_phi(weights=tmp_path / "absent.pth")


def test_phi_is_downloaded_once_into_the_hub_cache(hub: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    server, reports = Server(weights), list[tuple[int, int]]()
    monkeypatch.setattr(recipes.terms.phi, "connect", server)
    source = resolve_phi(progress=lambda title, done, total: reports.append((done, total)))
    assert (source.kind, source.path) == ("vgg19", hub)
    assert hub.read_bytes() == weights
    assert reports[-1] == (len(weights), len(weights))
    assert reports == sorted(reports)
    assert isinstance(source.build(None), VGG19)
    assert resolve_phi("vgg19") == source
    assert server.requests == 1


@pytest.mark.parametrize("fault", ["checksum", "short", "breaks"])
def test_a_faulty_download_leaves_nothing_behind(
    hub: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise TimeoutError("timed out")

    def connect(url: str) -> recipes.terms.phi._Response:
        if fault == "breaks":
            return recipes.terms.phi._Response(weights[:100], Breaking(), len(weights))
        content = weights[:-1] + b"?" if fault == "checksum" else weights[:-1]
        return Server(content, length=len(weights))(url)

    monkeypatch.setattr(recipes.terms.phi, "connect", connect)
    source = resolve_phi()
    assert source.kind == "teacher"
    assert {"checksum": "SHA-256", "short": "broke off", "breaks": "timed out"}[fault] in source.how
    assert list(hub.parent.iterdir()) == []


def test_a_damaged_cache_is_fetched_again(hub: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.parent.mkdir(parents=True)
    hub.write_bytes(b"half a file")
    monkeypatch.setattr(recipes.terms.phi, "connect", Server(weights))
    assert resolve_phi().kind == "vgg19"
    assert hub.read_bytes() == weights


def test_a_download_that_does_not_start_is_not_waited_for(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def silence(url: str) -> recipes.terms.phi._Response:
        never.wait()
        raise OSError("at last")

    monkeypatch.setattr(recipes.terms.phi, "connect", silence)
    assert recipes.terms.phi.START_WITHIN_S == 5
    monkeypatch.setattr(recipes.terms.phi, "START_WITHIN_S", 0.05)
    source = resolve_phi()
    never.set()
    assert source.kind == "teacher"
    assert "did not start within 0.05 s" in source.how


def test_the_file_is_torchvisions() -> None:
    assert SHA256 in recipes.terms.phi.URL
    assert isinstance(PhiSource("teacher", "x").build(build(tiny("compact", 2))), TeacherPhi)
