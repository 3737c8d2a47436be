"""The wheel: it holds every file, and works in an empty environment from another folder."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

import srkd
from tests.support.commands import ROOT
from tests.support.packages import PACKAGES, SOURCES

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    # Without Node and the npm registry; the browser tests build the app and look for it in a wheel.
    environment = {**os.environ, "SRKD_WITHOUT_APP": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("srkd-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty environment with the wheel and, by path, the large packages of this environment."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (site,) = environment.glob("lib/python*/site-packages")
    # .pth files in a folder named by a .pth file are not read, so an editable srkd of this environment is not found.
    (site / "heavy.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run_python(python: Path, folder: Path, program: str) -> str:
    done = subprocess.run([str(python), "-I", "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run_srkd(python: Path, folder: Path, *words: str) -> None:
    command = [str(python.parent / "srkd"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def package_files() -> Iterator[str]:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout:
        pytest.skip("no git checkout to compare the wheel with")
    yield from (name for name in listed.stdout.splitlines() if (ROOT / name).exists())


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert [name for name in package_files() if name not in names and not name.startswith("demo/app/")] == []
    others = {name.split("/")[0] for name in names} - set(PACKAGES)
    assert others == {f"srkd-{srkd.__version__}.dist-info"}
    assert wheel.stat().st_size <= 12_000_000


def test_the_metadata_of_the_wheel(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = f"srkd-{srkd.__version__}.dist-info"
    text = archive.read(f"{info}/METADATA").decode()
    assert f"\nVersion: {srkd.__version__}\n" in text
    assert "\nLicense-Expression: Apache-2.0 AND BSD-3-Clause\n" in text and "\nRequires-Python: >=3.10\n" in text
    assert "srkd = srkd.__main__:main" in archive.read(f"{info}/entry_points.txt").decode()
    assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
    assert f"{info}/licenses/compressor/assets/students/LICENSES.md" in archive.namelist()


def test_it_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    names = ", ".join(PACKAGES)
    files = json.loads(
        run_python(installed, tmp_path, f"import {names}, json; print(json.dumps([m.__file__ for m in ({names})]))")
    )
    assert all(Path(file).is_relative_to(installed.parent.parent) for file in files)
    for arguments in (["--version"], ["--help"], ["inspect", "--help"]):
        run_srkd(installed, tmp_path, *arguments)
    assert run_python(installed, tmp_path, "import srkd; print(all(getattr(srkd, n) for n in srkd.__all__))") == "True"


def test_a_student_is_made_exported_and_used_from_another_folder(installed: Path, tmp_path: Path) -> None:
    """With the teacher and the photos that come with srkd, as a user does after `pip install srkd`."""
    Image.new("RGB", (20, 12), "olive").save(tmp_path / "photo.png")
    small = ["--width", "0.25", "--init", "inherit", "--steps", "2", "--batch", "2", "--lr-patch", "12"]
    run_srkd(installed, tmp_path, "compress", *small, "--out", "small")
    run_srkd(installed, tmp_path, "export", "small", "--onnx")
    run_srkd(installed, tmp_path, "upscale", "small/student.onnx", "photo.png")
    run_srkd(installed, tmp_path, "upscale", "general-x2", "photo.png")
    run_srkd(installed, tmp_path, "report", "small")
    with Image.open(tmp_path / "photo_x4.png") as large:
        assert large.size == (80, 48)
    assert (tmp_path / "small" / "report.html").stat().st_size > 10_000
    app = run_python(installed, tmp_path, "from demo.files import is_app_built; print(is_app_built())")
    if app == "True":
        run_srkd(installed, tmp_path, "demo", "small", "--build", "site")
        assert (tmp_path / "site" / "index.html").is_file()


def requirements(wheel: Path) -> list[str]:
    """Return the requirements in the wheel's metadata, extras included."""
    info = zipfile.ZipFile(wheel).read(f"srkd-{srkd.__version__}.dist-info/METADATA").decode()
    return [line.partition(": ")[2] for line in info.splitlines() if line.startswith("Requires-Dist: ")]


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return match[0].lower()


def third_party_imports() -> dict[str, str]:
    """Return every module outside the standard library that our packages import, and a file that imports it."""
    imports: dict[str, str] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            else:
                continue
            for module in modules:
                imports[module.split(".")[0]] = str(path.relative_to(ROOT))
    return {name: file for name, file in imports.items() if name not in sys.stdlib_module_names | set(PACKAGES)}


def test_everything_imported_is_declared(wheel: Path) -> None:
    declared = {name_of(requirement) for requirement in requirements(wheel)}
    owners = metadata.packages_distributions()
    undeclared = {
        module: file
        for module, file in third_party_imports().items()
        if not {owner.lower().replace("_", "-") for owner in owners.get(module, [module.replace("_", "-")])} & declared
    }
    assert undeclared == {}


def test_dependencies_are_ranges_and_constraints_are_pins(wheel: Path) -> None:
    ranges = requirements(wheel)
    assert [text for text in ranges if "==" in text.split(";")[0]] == []
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in pins if "==" not in line.split(";")[0]] == []
    pinned = {name_of(line) for line in pins}
    tested = [text for text in ranges if "extra ==" not in text or "extra == 'dev'" in text]
    assert [text for text in tested if name_of(text) not in pinned] == []
