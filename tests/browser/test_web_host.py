"""The page of `srkd export --for web`, with onnxruntime-web from the app's packages in place of its CDN."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from compressor.images.metrics import to_u8
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import build
from export.writing.exporting import HostFolder, Source
from tests.browser.app_site import Site, served
from tests.browser.visits import APP, PATIENCE_MS
from tests.support.hosts import STUDENTS, export_for_hosts, photo, refusal

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

pytestmark = pytest.mark.browser

ORT = "https://cdn.jsdelivr.net/npm/onnxruntime-web@"
"""Where the page gets it from."""


@pytest.fixture
def packages() -> None:
    if not (APP / "node_modules" / "onnxruntime-web" / "dist").is_dir():
        pytest.skip("onnxruntime-web is not in the app's packages: make app-for-tests")


def from_packages(route: Route) -> None:
    file = APP / "node_modules" / "onnxruntime-web" / "dist" / Path(route.request.url).name
    kind = "text/javascript" if file.suffix == ".mjs" else mimetypes.guess_type(file)[0]
    route.fulfill(path=file, headers={"access-control-allow-origin": "*", "content-type": str(kind)})


def page_of(network: Network, folder: Path) -> HostFolder:
    (written,) = export_for_hosts(network, Source("small"), ["web"], folder)
    return written


def enlarged_by_page(browser: Browser, folder: Path, lr: Tensor) -> tuple[str, np.ndarray]:
    """Return what the page said, and its picture (H,W,3) in grey levels."""
    Image.fromarray((255 * lr[0]).round().byte().permute(1, 2, 0).contiguous().numpy()).save(folder / "photo.png")
    site = Site({path.name: path for path in folder.iterdir()}, headers={})
    with served(site):
        page = browser.new_page()
        page.route(f"{ORT}**", from_packages)
        page.goto(f"{site.origin}/index.html")
        page.set_input_files("#picture", folder / "photo.png")
        page.wait_for_selector("#said:has-text('by WebAssembly')", timeout=2 * PATIENCE_MS)
        said = page.inner_text("#said")
        width, height, data = page.evaluate(
            """() => { const c = document.querySelector("#large");
                return [c.width, c.height, [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]]; }"""
        )
        page.close()
    return said, np.asarray(data, np.uint8).reshape(height, width, 4)[..., :3]


def difference(network: Network, lr: Tensor, picture: np.ndarray) -> int:
    with torch.no_grad():
        expected = to_u8(network(lr))[0].permute(1, 2, 0).numpy()
    return int(np.abs(picture.astype(int) - expected.astype(int)).max())


def test_the_page_enlarges_a_picture_in_tiles_as_python_does(browser: Browser, packages: None, tmp_path: Path) -> None:
    """A picture of several tiles, none of them whole, equals the whole picture's image."""
    network = build(CompactSpec(2, width=8, depth=2), seed=1).eval()
    folder = page_of(network, tmp_path).folder
    lr = torch.randint(0, 256, (1, 3, 201, 230), generator=torch.Generator().manual_seed(0)) / 255
    said, picture = enlarged_by_page(browser, folder, lr)
    assert said.startswith("460 × 402 in ") and said.endswith("by WebAssembly on the processor.")
    assert difference(network, lr, picture) <= 1


@pytest.mark.parametrize("student", STUDENTS)
def test_the_page_gives_the_networks_picture(student: str, browser: Browser, packages: None, tmp_path: Path) -> None:
    network = STUDENTS[student]().eval()
    written = page_of(network, tmp_path)
    if student == "plain-luma-x2":
        assert "enlarges RGB" in refusal(written) and not (tmp_path / "web").exists()
        return
    assert written.folder is not None, written.reason
    lr = photo(40, 28)
    _, picture = enlarged_by_page(browser, written.folder, lr)
    assert difference(network, lr, picture) <= 1
