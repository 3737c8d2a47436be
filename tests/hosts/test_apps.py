"""`--for coreml` and `--for coreai`: what apps of Apple's systems take. No device of Apple's is run."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compressor.inference.open import open_model
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import build
from export.hosts.writing import export_for_hosts
from export.writing.exporting import Source
from tests.support.exports import export_file
from tests.support.hosts import STUDENTS, as_without, photo

pytestmark = pytest.mark.extras


@pytest.mark.parametrize("student", STUDENTS)
def test_core_ai_gives_the_networks_image(student: str, tmp_path: Path) -> None:
    pytest.importorskip("coreai_torch")
    pytest.importorskip("coreai")
    network = STUDENTS[student]().eval()
    with as_without("coreai"):  # the proof of export runs twenty images, which takes Core AI a minute on a CPU
        (folder,) = export_for_hosts(network, Source("net"), ["coreai"], tmp_path)
    assert folder.reason is None
    (file,) = folder.files
    name = f"{network.descriptor.scale}x-net.aimodel"
    assert file.path is not None and file.path.name == name
    lr = photo(40, 28, channels=network.descriptor.channels)
    with torch.no_grad():
        torch.testing.assert_close(open_model(file.path).run(lr), network(lr), atol=1e-4, rtol=0)


def test_core_ai_runs_where_a_notebook_has_its_loop(tmp_path: Path) -> None:
    pytest.importorskip("coreai_torch")
    pytest.importorskip("coreai")
    network = build(CompactSpec(2, width=8, depth=1), seed=0).eval()
    with as_without("coreai"):
        path = export_file(network, "coreai", tmp_path).path
    assert path is not None
    lr = photo(16, 12)

    async def cell() -> Tensor:
        return open_model(path).run(lr)

    with ThreadPoolExecutor(1) as thread, torch.no_grad():  # where no browser of other tests has a loop
        torch.testing.assert_close(thread.submit(asyncio.run, cell()).result(), network(lr), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("student", STUDENTS)
def test_core_mls_program_gives_the_networks_picture(student: str, tmp_path: Path) -> None:
    """torch computes the operations that stand in the package with its weights in fp16; Core ML itself is on macOS."""
    pytest.importorskip("coremltools")
    from export.convert.coreml_program import run_program
    from export.convert.to_coreml import read_back

    network, (width, height) = STUDENTS[student]().eval(), (32, 24)
    (folder,) = export_for_hosts(network, Source("net"), ["coreml"], tmp_path, size=(width, height))
    assert folder.folder is not None, folder.reason
    (file,) = folder.files
    assert file.path is not None
    program, spec = read_back(file.path)
    descriptor = network.descriptor
    for value, factor in ((spec.description.input[0], 1), (spec.description.output[0], descriptor.scale)):
        picture = value.type.imageType
        assert (picture.width, picture.height) == (width * factor, height * factor)
        assert picture.ColorSpace.Name(picture.colorSpace) == {3: "RGB", 1: "GRAYSCALE"}[descriptor.channels]
    lr = photo(width, height, descriptor.channels)
    with torch.no_grad():
        difference = run_program(program, 255 * lr) - 255 * network(lr).clamp(0, 1)
    assert difference.abs().max() < 0.5, "half a grey level"
    readme = (folder.folder / "README.md").read_text(encoding="utf-8")
    assert "Xcode" in readme and "Nothing of this was run on a device" in readme
