"""The page of `srkd export --for web`, with onnxruntime-web from the app's packages in place of its CDN."""

from __future__ import annotations

import mimetypes
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Route

from compressor.images.metrics import to_u8
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import build
from export.hosts.web import ORT
from export.hosts.writing import export_for_hosts
from export.writing.exporting import Source
from tests.browser.app_site import Site, served
from tests.browser.visits import APP, App

pytestmark = pytest.mark.browser


def from_packages(route: Route) -> None:
    file = APP / "node_modules" / "onnxruntime-web" / "dist" / Path(route.request.url).name
    kind = "text/javascript" if file.suffix == ".mjs" else mimetypes.guess_type(file)[0]
    route.fulfill(path=file, headers={"access-control-allow-origin": "*", "content-type": str(kind)})


def test_the_page_enlarges_a_picture_in_tiles_as_python_does(app: App, tmp_path: Path) -> None:
    """A picture of several tiles, none of them whole, equals the whole picture's image."""
    network = build(CompactSpec(2, width=8, depth=2), seed=1).eval()
    (folder,) = export_for_hosts(network, Source("small"), ["web"], tmp_path)
    assert folder.folder is not None
    rgb = np.random.default_rng(0).integers(0, 256, (201, 230, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "photo.png")
    site = Site({path.name: path for path in folder.folder.iterdir()}, headers={})
    with served(site):
        page = app.browser.new_page()
        page.route(f"{ORT}**", from_packages)
        page.goto(f"{site.origin}/index.html")
        page.set_input_files("#picture", tmp_path / "photo.png")
        page.wait_for_selector("#said:has-text('by WebAssembly')")
        said = page.inner_text("#said")
        pixels = page.evaluate(
            """() => { const c = document.querySelector("#large");
                return [c.width, c.height, [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]]; }"""
        )
        page.close()
    width, height, data = pixels
    assert said.startswith("460 × 402 in ") and said.endswith("by WebAssembly on the processor.")
    large = np.asarray(data, np.uint8).reshape(height, width, 4)[..., :3]
    lr = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        expected = to_u8(network(lr))[0].permute(1, 2, 0).numpy()
    difference = np.abs(large.astype(int) - expected.astype(int))
    assert difference.max() <= 1
