"""The doubles of TensorRT and CUDA hold no more than the real ones: NVIDIA's bindings are imported over stub libraries.

The bindings are wheels; the libraries they want are not to be had everywhere. Libraries that define their entry points
and nothing else are enough to import them, and to read every class, flag, method and signature that srkd uses.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compressor.base.errors import SrkdError
from compressor.runtimes.tensorrt.apart import run_apart
from compressor.runtimes.tensorrt.build import FLAGS_10
from compressor.runtimes.tensorrt.cuda_python import CudaPython
from compressor.runtimes.tensorrt.driver import driver_missing
from compressor.runtimes.tensorrt.shapes import dynamic_shapes
from tests.support.nvidia import DOUBLES, needs_linux, nvidia, small_onnx

pytestmark = [pytest.mark.extras, needs_linux]

ROOT = Path(__file__).resolve().parents[2]
BINDINGS = Path(sys.prefix) / "share"
"""Where `make extras` puts each version of the bindings, in a folder of its own: they are all called the same."""

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
FOUND = {path.parent.name.partition("==")[2]: path.parent for path in BINDINGS.glob("*==*/tensorrt_bindings")}
VERSIONS = ("10.0.1", "10.16.1.11", "11.4.0.106")


class Real:
    """One version of NVIDIA's bindings over stubs."""

    def __init__(self, version: str, folder: Path) -> None:
        self.version, self.folder = version, folder
        self.paths = [str(FOUND[version]), str(folder / "shim")]
        # What NVIDIA's own package `tensorrt` is: another name for its bindings.
        (folder / "shim" / "tensorrt").mkdir(parents=True)
        shim = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
        (folder / "shim" / "tensorrt" / "__init__.py").write_text(shim)
        self.stub("return 0;")

    def stub(self, body: str) -> None:
        """Libraries of this version's names whose every function does this."""
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
    if request.param not in FOUND:
        pytest.skip(f"TensorRT bindings {request.param} are not in {BINDINGS}: make extras")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) to build stub libraries with")
    return Real(request.param, tmp_path)


def described(module: str, environment: dict[str, str]) -> dict[str, Any]:
    script = [sys.executable, str(ROOT / "tests" / "support" / "describe_module.py"), module]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


def doubled(module: str, **more: str) -> dict[str, Any]:
    paths = os.pathsep.join(str(DOUBLES / name) for name in ("device", "cuda_python", "tensorrt"))
    return described(module, {**os.environ, "PYTHONPATH": paths, **more})


def objections(double: dict[str, Any], real: dict[str, Any], constructed: set[str]) -> Iterator[str]:
    """What the double has and the real one has not, or has otherwise."""
    for name, ours in double.items():
        theirs = real.get(name)
        if theirs is None:
            yield f"{name} is not there"
        elif ours["kind"] == "function":
            yield from disagreement(name, ours["signatures"], theirs.get("signatures", []))
        else:
            yield from class_objections(name, ours, theirs, constructed)


def class_objections(name: str, ours: dict[str, Any], theirs: dict[str, Any], constructed: set[str]) -> Iterator[str]:
    yield from (f"{name}.{member} is not there" for member in set(ours["members"]) - set(theirs["members"]))
    if ours["members"]:
        return
    for attribute, taken in ours["attributes"].items():
        if attribute in ours["inner"]:
            continue
        if attribute == "__init__" and name not in constructed:
            continue
        if attribute not in theirs["attributes"]:
            yield f"{name}.{attribute} is not there"
        elif (taken is None) != (theirs["attributes"][attribute] is None) and attribute not in theirs["members"]:
            yield f"{name}.{attribute} is a method in one and a property in the other"
        elif taken is not None and attribute not in theirs["members"]:
            yield from disagreement(f"{name}.{attribute}", taken, theirs["attributes"][attribute])
    for inner, described_inner in ours["inner"].items():
        yield from class_objections(f"{name}.{inner}", described_inner, theirs["inner"][inner], constructed)


def disagreement(name: str, ours: list[list[str]], theirs: list[list[str]]) -> Iterator[str]:
    """None of the real overloads takes what the double takes, by the same names, and can do without the rest."""
    plain = [parameter.rstrip("=") for parameter in ours[0]] if ours else []
    for overload in theirs:
        names = [parameter.rstrip("=") for parameter in overload]
        if names[: len(plain)] == plain and all(parameter.endswith("=") for parameter in overload[len(plain) :]):
            return
    yield f"{name} takes {ours}, really {theirs}"


def used_of_trt() -> set[str]:
    """`BuilderFlag.TF32` for each trt.BuilderFlag.TF32 in the code."""
    found = set()
    for path in (ROOT / "compressor" / "trt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            while isinstance(node, ast.Attribute):
                names.insert(0, node.attr)
                node = node.value
            is_module = isinstance(node, ast.Name) and node.id == "trt"
            if names[:1] == ["_trt"] and isinstance(node, ast.Name) and node.id == "self":
                names, is_module = names[1:], True
            if is_module and names and not names[0].startswith("__"):
                found.add(".".join(names))
    return found


def constructed_of_trt() -> set[str]:
    """Classes that the code makes objects of, or derives from."""
    found = {"ILogger", "IProgressMonitor"}
    for path in (ROOT / "compressor" / "trt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id == "trt":
                    found.add(node.func.attr)
    return found


def test_tensorrt_has_all_that_the_double_has(real: Real) -> None:
    double = doubled("tensorrt", SRKD_DOUBLE_TRT=real.version)
    theirs = described("tensorrt_bindings", real.environment())
    constructed = constructed_of_trt()
    assert constructed == {"ILogger", "IProgressMonitor", "Builder", "OnnxParser", "Runtime"}
    assert list(objections(double, theirs, constructed)) == []
    assert ("FP16" in double["BuilderFlag"]["members"]) == ("FP16" in theirs["BuilderFlag"]["members"])
    wanted = {flag for flags in FLAGS_10.values() for flag in flags}
    assert (wanted <= set(theirs["BuilderFlag"]["members"])) == real.version.startswith("10.")


def test_what_the_code_names_is_there(real: Real) -> None:
    theirs = described("tensorrt_bindings", real.environment())
    used = used_of_trt()
    assert {"BuilderFlag.TF32", "TensorIOMode", "ILogger.Severity", "MemoryPoolType.WORKSPACE"} <= used
    for path in used:
        name, _, rest = path.partition(".")
        assert name in theirs, path
        here = theirs[name]
        assert not rest or rest in here["members"] or rest in here["attributes"] or rest in here["inner"], path


def test_an_objection_is_found() -> None:
    """The comparison itself: a double that has more, or takes something else, is told."""
    real = {"A": described_class(run=[["size", "path="]], count=None), "f": function(["a"])}
    for double, message in (
        ({"B": described_class()}, "B is not there"),
        ({"A": described_class(go=[[]])}, "A.go is not there"),
        ({"A": described_class(run=None)}, "A.run is a method in one"),
        ({"A": described_class(run=[["bytes"]])}, "A.run takes"),
        ({"A": described_class(run=[["size", "path", "more"]])}, "A.run takes"),
        ({"A": described_class(run=[[]])}, "A.run takes"),
        ({"f": function(["a", "b"])}, "f takes"),
    ):
        (told,) = objections(double, real, set())
        assert message in told
    assert list(objections({"A": described_class(run=[["size"]], count=None)}, real, set())) == []


def described_class(**attributes: object) -> dict[str, Any]:
    return {"kind": "class", "members": [], "attributes": attributes, "inner": {}}


def function(names: list[str]) -> dict[str, Any]:
    return {"kind": "function", "signatures": [names]}


OURS = """
import tensorrt as trt
from compressor.runtimes.tensorrt.build import network_flags, progress_monitor, set_precision
from compressor.runtimes.tensorrt.library import Said, has_precision_flags, logger, tensorrt
assert tensorrt() is trt
said, seen = Said(), []
log = logger(trt, said)
monitor = progress_monitor(trt, lambda *event: seen.append(event))
assert isinstance(log, trt.ILogger) and isinstance(monitor, trt.IProgressMonitor)
log.log(trt.ILogger.Severity.INFO, "no matter")
log.log(trt.ILogger.Severity.ERROR, "the reason")
monitor.phase_start("build", None, 2)
assert monitor.step_complete("build", 0) is True
monitor.phase_finish("build")
assert said.reason() == "the reason" and seen == [("build", 0, 2), ("build", 1, 2), ("build", 2, 2)]
class Config:
    flags = []
    def set_flag(self, flag): self.flags.append(flag.name)
    def clear_flag(self, flag): self.flags.append("no " + flag.name)
for precision in ("fp32", "tf32", "fp16", "bf16", "int8"):
    set_precision(trt, Config(), precision)
print(has_precision_flags(trt), network_flags(trt), *Config.flags, sep=",")
"""


def test_our_own_classes_are_taken_by_the_real_ones(real: Real) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OURS], env=real.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    weak = real.version.startswith("10.")
    flags = ["no TF32", "TF32", "TF32", *["FP16"] * weak, "TF32", *["BF16"] * weak, "TF32", *["INT8"] * weak]
    assert done.stdout.strip().split(",") == [str(weak), "0" if weak else "1", *flags]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 0;", "TensorRT's process ended with exit code 1: TypeError: .*nullptr"),
        ("*(volatile int *) 0 = 1; return 0;", r"TensorRT crashed \(SIGSEGV\); srkd itself is unharmed"),
    ],
)
def test_a_crash_of_real_native_code_is_one_line(real: Real, tmp_path: Path, body: str, message: str) -> None:
    real.stub(body)
    job = {
        "onnx": str(small_onnx(tmp_path / "small.onnx")),
        "plan": str(tmp_path / "plan"),
        "precision": "fp32",
        "shapes": dynamic_shapes(3, 1, 1).to_dict(),
        "timing_cache": str(tmp_path / "timing"),
        "device": 0,
    }
    (tmp_path / "doubles").mkdir()
    with nvidia(tmp_path / "doubles", ("device", "cuda_python")), pytest.MonkeyPatch.context() as patch:
        for name, value in real.environment().items():
            patch.setenv(name, value)
        with pytest.raises(SrkdError, match=message) as caught:
            run_apart("build", job, "small.onnx could not be built")
    assert "\n" not in str(caught.value) and not (tmp_path / "plan").exists()


def test_cuda_python_has_all_that_the_double_has() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed: make extras")
    double = {name: value for name, value in doubled("double_device").items() if name.startswith("cuda")}
    assert len(double) >= 18
    theirs = described("cuda.bindings.runtime", dict(os.environ))
    assert list(objections(double, theirs, set())) == []
    assert {"name", "major", "minor", "totalGlobalMem"} <= set(theirs["cudaDeviceProp"]["attributes"])


def test_real_cuda_python_without_a_driver_is_one_line() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed: make extras")
    if driver_missing() is None:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(SrkdError, match="CUDA: cudaGetDeviceCount failed with error 35: CUDA driver version is insuf"):
        CudaPython(0)
