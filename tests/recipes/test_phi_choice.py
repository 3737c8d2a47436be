"""The selection of φ for a run: a file, torch.hub's cache, a download that may fail, or the teacher's own blocks."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import recipes.terms.phi
from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.published import hub_file
from compressor.models.networks.registry import build
from recipes.terms.perceptual import VGG19, TeacherPhi
from recipes.terms.phi import FILE, SHA256, resolve_phi
from tests.support.downloads import UNREACHABLE, file_server
from tests.support.networks import tiny


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Provide an empty cache and no server."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(recipes.terms.phi, "URL", UNREACHABLE)
    return hub_file(FILE)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return a file whose checksum is the expected one."""
    content = bytes(range(256)) * 64
    monkeypatch.setattr(recipes.terms.phi, "SHA256", hashlib.sha256(content).hexdigest()[:8])
    return content


def test_phi_without_a_file_or_a_network_is_the_teachers(hub: Path) -> None:
    source = resolve_phi()
    assert source.kind == "teacher"
    assert "its download failed: " in source.how and "refused" in source.how
    assert isinstance(source.build(build(tiny("edsr", 2))), TeacherPhi)
    assert isinstance(source.build(None), TeacherPhi), "of the embedded teacher"
    with pytest.raises(SrkdError, match=r"vgg19-dcbb9e9d\.pth"):
        resolve_phi("vgg19")
    assert not hub.exists()


def test_phi_is_what_the_user_says(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes.terms.phi, "fetch", lambda *_, **__: pytest.fail("nothing is to be downloaded"))
    assert resolve_phi("teacher").kind == "teacher"
    (tmp_path / "mine.pth").write_bytes(b"mine")
    source = resolve_phi(weights=tmp_path / "mine.pth")
    assert (source.kind, source.path) == ("vgg19", tmp_path / "mine.pth")
    assert source.sha256 == hashlib.sha256(b"mine").hexdigest()
    with pytest.raises(UsageError, match="phi=teacher uses no file"):
        resolve_phi("teacher", tmp_path / "mine.pth")
    with pytest.raises(SrkdError, match=r"absent\.pth"):
        resolve_phi(weights=tmp_path / "absent.pth")


def test_phi_is_downloaded_once_into_the_hub_cache(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.save(VGG19().state_dict(), file)
    weights = file.getvalue()
    monkeypatch.setattr(recipes.terms.phi, "SHA256", hashlib.sha256(weights).hexdigest()[:8])
    with file_server(weights) as server:
        monkeypatch.setattr(recipes.terms.phi, "URL", server.url)
        steps = list[tuple[str, int, int]]()
        source = resolve_phi(progress=lambda *step: steps.append(step))
        assert len(steps) > 2 and steps[0][0] == "VGG-19, MB" and steps[-1][1] == steps[-1][2] == len(weights) // 10**6
        assert (source.kind, source.path) == ("vgg19", hub) and hub.read_bytes() == weights
        assert isinstance(source.build(None), VGG19)
        assert resolve_phi("vgg19") == source
        assert server.requests == 1


@pytest.mark.parametrize(
    ("kept", "lost"),
    [
        pytest.param(lambda content: content[:-1] + b"?", 0, id="another file"),
        pytest.param(lambda content: content[:-1], 1, id="short"),
        pytest.param(lambda content: b"", 0, id="empty"),
        pytest.param(lambda content: None, 0, id="a server that never answers"),
    ],
)
def test_a_faulty_download_leaves_nothing_behind(
    hub: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch, kept: Callable[[bytes], bytes | None], lost: int
) -> None:
    content = kept(weights)
    monkeypatch.setattr(recipes.terms.phi, "STALLS_AFTER_S", 0.2)
    with file_server(content, announced=len(content or b"") + lost) as server:
        monkeypatch.setattr(recipes.terms.phi, "URL", server.url)
        source = resolve_phi()
    assert source.kind == "teacher" and "its download failed: " in source.how
    assert ("timed out" in source.how) == (content is None)
    assert not hub.parent.exists() or list(hub.parent.iterdir()) == []


def test_a_damaged_cache_is_fetched_again(hub: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.parent.mkdir(parents=True)
    hub.write_bytes(b"half a file")
    with file_server(weights) as server:
        monkeypatch.setattr(recipes.terms.phi, "URL", server.url)
        assert resolve_phi().kind == "vgg19"
    assert hub.read_bytes() == weights


def test_the_file_is_torchvisions() -> None:
    assert SHA256 in recipes.terms.phi.URL
