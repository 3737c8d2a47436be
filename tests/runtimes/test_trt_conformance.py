"""The doubles of TensorRT and of torch's CUDA have no more members than the real ones: NVIDIA's bindings, and torch.

The bindings are wheels; the libraries they need are not available everywhere. Stub libraries that only define the entry
points are enough to import them, and to read every class, flag, method and signature that srkd uses.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor.runtimes.tensorrt.build import FLAGS_10
from tests.support.nvidia import DOUBLES, needs_linux

pytestmark = [pytest.mark.extras, needs_linux]

ROOT = Path(__file__).resolve().parents[2]
BINDINGS = Path(sys.prefix) / "share"
"""Folder in which `make extras` installs each version of the bindings separately, as all have the same name."""

ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
INSTALLED = {path.parent.name.partition("==")[2]: path.parent for path in BINDINGS.glob("*==*/tensorrt_bindings")}
VERSIONS = ("10.0.1", "10.16.1.11", "11.4.0.106")


class Real:
    """One version of NVIDIA's bindings over stubs."""

    def __init__(self, version: str, folder: Path) -> None:
        self.version, self.folder = version, folder
        self.paths = [str(INSTALLED[version]), str(folder / "shim")]
        # NVIDIA's own package `tensorrt` is another name for its bindings.
        (folder / "shim" / "tensorrt").mkdir(parents=True)
        shim = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
        (folder / "shim" / "tensorrt" / "__init__.py").write_text(shim)
        self.stub("return 0;")

    def stub(self, body: str) -> None:
        """Build libraries of this version's names whose every function does this."""
        source = self.folder / "stub.c"
        source.write_text("".join(f"void *{name}(void) {{ {body} }}\n" for name in ENTRY_POINTS))
        major = self.version.partition(".")[0]
        for name in LIBRARIES:
            library = self.folder / f"lib{name}.so.{major}"
            command = ["cc", "-shared", "-fPIC", "-o", str(library), f"-Wl,-soname,{library.name}", str(source)]
            subprocess.run(command, check=True)

    def environment(self) -> dict[str, str]:
        paths = os.pathsep.join([*self.paths, str(ROOT), os.environ.get("PYTHONPATH", "")])
        libraries = f"{self.folder}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}"
        return {**os.environ, "PYTHONPATH": paths, "LD_LIBRARY_PATH": libraries}


@pytest.fixture(params=VERSIONS)
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Real:
    if request.param not in INSTALLED:
        pytest.skip(f"TensorRT bindings {request.param} are not in {BINDINGS}: make extras")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) to build stub libraries with")
    return Real(request.param, tmp_path)


def described(module: str, environment: dict[str, str]) -> dict[str, Any]:
    script = [sys.executable, str(ROOT / "tests" / "support" / "describe_module.py"), module]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def doubled(module: str, **more: str) -> dict[str, Any]:
    paths = os.pathsep.join(str(DOUBLES / name) for name in ("device", "tensorrt"))
    return described(module, {**os.environ, "PYTHONPATH": paths, **more})


def objections(double: dict[str, Any], real: dict[str, Any], constructed: set[str]) -> Iterator[str]:
    """Yield members of the double that the real one lacks, or has in another form."""
    for name, double_part in double.items():
        actual = real.get(name)
        if actual is None:
            yield f"{name} is not there"
        elif double_part["kind"] == "function":
            yield from disagreement(name, double_part["signatures"], actual.get("signatures", []))
        else:
            yield from class_objections(name, double_part, actual, constructed)


def class_objections(
    name: str, double_part: dict[str, Any], actual: dict[str, Any], constructed: set[str]
) -> Iterator[str]:
    yield from (f"{name}.{member} is not there" for member in set(double_part["members"]) - set(actual["members"]))
    if double_part["members"]:
        return
    for attribute, signatures in double_part["attributes"].items():
        if attribute in double_part["inner"]:
            continue
        if attribute == "__init__" and name not in constructed:
            continue
        if attribute not in actual["attributes"]:
            yield f"{name}.{attribute} is not there"
        elif (signatures is None) != (actual["attributes"][attribute] is None) and attribute not in actual["members"]:
            yield f"{name}.{attribute} is a method in one and a property in the other"
        elif signatures is not None and attribute not in actual["members"]:
            yield from disagreement(f"{name}.{attribute}", signatures, actual["attributes"][attribute])
    for inner, described_inner in double_part["inner"].items():
        yield from class_objections(f"{name}.{inner}", described_inner, actual["inner"][inner], constructed)


def disagreement(name: str, double_part: list[list[str]], actual: list[list[str]]) -> Iterator[str]:
    """Yield a complaint unless a real overload has the double's parameters, by name, and requires no others."""
    plain = [parameter.rstrip("=") for parameter in double_part[0]] if double_part else []
    for overload in actual:
        names = [parameter.rstrip("=") for parameter in overload]
        if names[: len(plain)] == plain and all(parameter.endswith("=") for parameter in overload[len(plain) :]):
            return
    yield f"{name} takes {double_part}, really {actual}"


def used_of_trt() -> set[str]:
    """Return `BuilderFlag.TF32` for each trt.BuilderFlag.TF32 in the code."""
    attributes = set()
    for path in (ROOT / "compressor" / "runtimes" / "tensorrt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            while isinstance(node, ast.Attribute):
                names.insert(0, node.attr)
                node = node.value
            is_module = isinstance(node, ast.Name) and node.id == "trt"
            if names[:1] == ["_trt"] and isinstance(node, ast.Name) and node.id == "self":
                names, is_module = names[1:], True
            if is_module and names and not names[0].startswith("__"):
                attributes.add(".".join(names))
    return attributes


def constructed_of_trt() -> set[str]:
    """The classes that the code instantiates, or derives from."""
    classes = {"ILogger"}
    for path in (ROOT / "compressor" / "runtimes" / "tensorrt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id == "trt":
                    classes.add(node.func.attr)
    return classes


def test_tensorrt_has_all_that_the_double_has(real: Real) -> None:
    double = doubled("tensorrt", SRKD_DOUBLE_TRT=real.version)
    actual = described("tensorrt_bindings", real.environment())
    constructed = constructed_of_trt()
    assert constructed == {"ILogger", "Builder", "OnnxParser", "Runtime"}
    assert list(objections(double, actual, constructed)) == []
    assert ("FP16" in double["BuilderFlag"]["members"]) == ("FP16" in actual["BuilderFlag"]["members"])
    assert (set(FLAGS_10.values()) <= set(actual["BuilderFlag"]["members"])) == real.version.startswith("10.")


def test_what_the_code_names_is_there(real: Real) -> None:
    actual = described("tensorrt_bindings", real.environment())
    attributes = used_of_trt()
    assert {"TensorIOMode", "ILogger.Severity", "DataType.FLOAT"} <= attributes
    for path in attributes:
        name, _, rest = path.partition(".")
        assert name in actual, path
        here = actual[name]
        assert not rest or rest in here["members"] or rest in here["attributes"] or rest in here["inner"], path


OURS = """
import tensorrt as trt
from compressor.runtimes.tensorrt.build import network_flags, set_precision
from compressor.runtimes.tensorrt.installation import BuilderLog, has_precision_flags, import_tensorrt
assert import_tensorrt() is trt
log = BuilderLog(trt)
assert isinstance(log.logger, trt.ILogger)
log.logger.log(trt.ILogger.Severity.INFO, "no matter")
log.logger.log(trt.ILogger.Severity.ERROR, "the reason")
assert log.reason() == "the reason"
class Config:
    flags = []
    def set_flag(self, flag): self.flags.append(flag.name)
for precision in ("fp16", "bf16", "int8"):
    set_precision(trt, Config(), precision)
print(has_precision_flags(trt), network_flags(trt), *Config.flags, sep=",")
"""


def test_our_own_classes_are_taken_by_the_real_ones(real: Real) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OURS], env=real.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    weak = real.version.startswith("10.")
    flags = ["FP16", "BF16", "INT8"] if weak else []
    assert done.stdout.strip().split(",") == [str(weak), "0" if weak else "1", *flags]


def test_torch_has_all_that_the_double_has() -> None:
    """This covers names of torch.cuda, and parameters of its called functions."""
    double = doubled("double_torch")
    for name, kind in {name: value for name, value in double.items() if name in ("Stream", "CUDAGraph")}.items():
        actual = getattr(torch.cuda, name)
        for method, (parameters,) in {key: value for key, value in kind["attributes"].items() if value}.items():
            if method != "__init__":
                real_parameters = inspect.signature(getattr(actual, method)).parameters
                assert {parameter.rstrip("=") for parameter in parameters} <= set(real_parameters), f"{name}.{method}"
    functions = {name for name in double["cuda"]["attributes"] if not name.startswith("_")}
    assert {"init", "device_count", "set_device", "get_device_properties", "stream"} <= functions
    assert all(hasattr(torch.cuda, name) for name in functions - {"captures", "current"})
