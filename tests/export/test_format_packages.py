"""A format with its runtime, and a host, are one file and one registration each, in srkd and in another package."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from tests.support.commands import ROOT, python
from tests.support.packages import SOURCES, install, names_in

pytestmark = pytest.mark.ci

EXAMPLE = Path(__file__).resolve().parents[1] / "example_formats" / "toyformat.py"
HOST = """
from export.hosts.table import Host, HostFile

HOSTS = (
    Host(
        name="toybox",
        title="Toy box",
        writes="NAME.toy",
        proved="in the toy runtime",
        files=(HostFile("toy", name="{scale}x_{model}.toy"),),
    ),
)
"""
WORK = """
import json, sys
from pathlib import Path
import srkd
from srkd.api.doctor import diagnose

folder, photo = Path(sys.argv[1]), sys.argv[2]
report = srkd.export(folder / "small.safetensors", formats=["toy"], hosts=["toybox"], out=folder / "out")
(file,), (host,) = report.files, report.hosts
srkd.upscale(file.path, photo, out=folder / "up")
report = srkd.profile(file.path, runtime=["toy"], seconds=0.1, lr_size=[(16, 16)], quality=False)
(row,) = report.rows
inspection = srkd.inspect(file.path)
diagnosis = diagnose()
print(json.dumps({
    "export": [file.verdict, file.parity.max_abs, file.facts["arrays"]],
    "host": [host.verdict, sorted(path.name for path in host.folder.iterdir())],
    "evaluate": list(srkd.evaluate(file.path).models),
    "profile": [row.runtime, row.model, row.macs > 0, row.peak_memory_mb is not None, report.notes],
    "inspect": [inspection.dialect, inspection.architecture],
    "again": [file.verdict for file in srkd.export(file.path, formats=["onnx"], out=folder / "again").files],
    "doctor": [piece.ready for piece in diagnosis.pieces if piece.name == "toy"],
}))
"""


def test_a_format_and_a_host_of_other_packages_do_all_that_srkds_own_do(tmp_path: Path, photos: Path) -> None:
    site = install(tmp_path / "site", "toyformat", EXAMPLE.read_text(), "srkd.formats", "toy = toyformat:PACKAGE")
    install(site, "toyhost", HOST, "srkd.hosts", "toybox = toyhost:HOSTS", package="box")
    assert sorted(path.name for path in site.glob("*.py")) == ["toyformat.py", "toyhost.py"], "one file each"
    registrations = [
        line for path in site.glob("*/entry_points.txt") for line in path.read_text().split("\n") if "=" in line
    ]
    assert len(registrations) == 2
    save_network(build(EDSRSpec(width=8, depth=1, scale=2), seed=0), tmp_path / "small.safetensors")
    photo = next(path for path in sorted(photos.rglob("*")) if path.is_file())
    path = os.pathsep.join([str(site), str(ROOT)])
    done = python("-c", WORK, tmp_path, photo, PYTHONPATH=path)
    assert done.code == 0, done.err
    facts = json.loads(done.out.splitlines()[-1])
    verdict, difference, arrays = facts["export"]
    assert verdict == "passed" and difference < 1e-6 and arrays > 4
    assert facts["host"] == ["written", ["2x_small.toy", "README.md"]]
    assert len(list((tmp_path / "up").iterdir())) == 1 and facts["evaluate"] == ["bicubic", "small"]
    *row, notes = facts["profile"]
    assert row == ["toy", "small", True, True], notes
    assert facts["inspect"] == ["toy", "edsr"] and facts["again"] == ["passed"] and facts["doctor"] == [True, True]
    command = python(
        "-m", "srkd", "export", tmp_path / "small.safetensors", "--toy", "-o", tmp_path / "cli", PYTHONPATH=path
    )
    assert command.code == 0 and (tmp_path / "cli" / "small.toy").is_file(), command.err
    without = python("-m", "srkd", "upscale", tmp_path / "out" / "small.toy", photo)
    assert without.code == 1 and "Traceback" not in without.err


def test_a_format_inside_touches_its_files_and_the_tables() -> None:
    """With its test and its rows in pyproject.toml and docs, it touches five files besides its two modules.

    The module of a program (export/hosts) names the format that the program reads, runtime_choice the runtime it tries.
    """
    tables = {"compressor/runtimes/table.py", "export/formats/table.py", "compressor/inference/runtime_choice.py"}
    owned = {
        name: {
            f"compressor/runtimes/{name}_runtime.py",
            f"export/int8/to_{name}_int8.py",
            f"export/int8/{name}_quantiser.py",
            *(
                f"export/convert/{file}.py"
                for file in (f"to_{name}", f"to_{name}_images", f"{name}_graph", f"{name}_program", f"{name}_file")
            ),
        }
        for name in ("openvino", "ncnn", "litert", "coreml")
    }
    for name in owned:
        assert (ROOT / f"compressor/runtimes/{name}_runtime.py").is_file(), name
        assert (ROOT / f"export/convert/to_{name}.py").is_file(), name
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        texts, imports = names_in(path)
        for name, files in owned.items():
            if place in {*files, *tables, "compressor/runtimes/onnx_providers.py"} or place.startswith(
                ("export/hosts/", "demo/")
            ):
                continue
            assert name not in texts, f"{place} names {name}: let its row in the table say what is needed"
            assert not {file.removesuffix(".py").replace("/", ".") for file in files} & imports, place
