"""`--for coreml`: what apps of Apple's systems take. No device of Apple's is run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.formats.conversion import FileOptions
from export.writing.exporting import Source
from tests.support.hosts import STUDENTS, export_for_hosts, photo

pytestmark = pytest.mark.extras


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("student", STUDENTS)
def test_core_mls_program_gives_the_networks_picture(student: str, tmp_path: Path) -> None:
    """torch computes the operations that stand in the package with its weights in fp16; Core ML itself is on macOS."""
    pytest.importorskip("coremltools")
    from export.convert.coreml_program import run_program
    from export.convert.to_coreml import read_back

    network, (width, height) = STUDENTS[student]().eval(), (32, 24)
    options = FileOptions(lr_size=(width, height))
    (folder,) = export_for_hosts(network, Source("net"), ["coreml"], tmp_path, options=options)
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
