"""A table with a row for each format, for the tests that every format must pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from compressor.models.networks.base import Spec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.sidecar import sidecar_path
from export.formats.table import FORMATS

WINDOWS = SwinIRSpec(width=8, depths=(2,), heads=(2,), window=4, scale=2, features=8)
RCAN = RCANSpec(width=8, hidden=2, groups=1, depth=1, scale=3)
CARN_M = CARNMSpec(width=8, scale=2)
GREY = CompactSpec(width=8, depth=1, scale=3, channels=1)
PLAIN = PlainSpec(width=8, depth=1, scale=3)

Damage: TypeAlias = Callable[[Path], None]
"""A change of an exported file or of a companion of it."""


@dataclass(frozen=True)
class FormatCase:
    """A format's files, what it converts, and the errors of damaged files."""

    name: str
    files: tuple[str, ...]
    specs: tuple[Spec, ...]
    """Networks that convert for any size, beside EDSR."""
    damages: tuple[tuple[Damage, str], ...]
    """Damages with the error of opening the file."""
    windows: tuple[SwinIRSpec, ...] = (WINDOWS,)
    """Networks with windows that convert for one size."""
    free_windows: bool = False
    """True if a network with windows converts for any size."""
    selects_precision: bool = False
    opens_foreign: bool = False
    """True if a file without srkd's metadata opens, and is known by its shapes."""
    max_abs: float = 1e-5


def replaced(old: bytes, new: bytes, count: int = -1) -> Damage:
    def replace(path: Path) -> None:
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, count))

    return replace


def becomes(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content) and None


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def torn(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(200) + content[208:])


def of_weights(damage: Damage) -> Damage:
    return lambda path: damage(path.with_suffix(".bin"))


NOT_OF_ONE_EXPORT = "are damaged or not of one export"

CASES = (
    FormatCase(
        "onnx",
        ("small.onnx",),
        specs=(),  # tests/models/test_traces.py has them
        damages=((half, "is not an ONNX file"),),
        free_windows=True,
    ),
    FormatCase(
        "openvino",
        ("small.openvino.bin", "small.openvino.xml"),
        specs=(RCAN, CARN_M, GREY, PLAIN, WINDOWS),
        damages=(
            (half, "small.openvino.xml is not a model OpenVINO can open: "),
            (of_weights(Path.unlink), r"keeps its weights in small\.openvino\.bin, which is not beside it"),
            (of_weights(becomes(b"abc")), "is not a model OpenVINO can open: Incorrect weights in bin file"),
            (becomes(b"<html><body>404</body></html>"), "is not an OpenVINO model: no <net> at its beginning"),
            (replaced(b"edsr", b"esdr"), r"small\.openvino: its srkd\.spec cannot be used: .*esdr"),
            (replaced(b'type="Convolution"', b'type="Folding"', 1), "is not a model OpenVINO can open: .*Folding"),
        ),
        free_windows=True,
        selects_precision=True,
        opens_foreign=True,
    ),
    FormatCase(
        "ncnn",
        ("small.bin", "small.param", "small.param.json"),
        specs=(
            EDSRSpec(width=8, depth=2, scale=4),
            EDSRSpec(width=8, depth=1, scale=3, res_scale=0.1, mean_shift="file"),
            RCANSpec(width=8, groups=2, depth=1, hidden=2, scale=2),
            GREY,
            PLAIN,
            CARNMSpec(width=8, scale=3),
        ),
        damages=(
            (half, NOT_OF_ONE_EXPORT),
            (of_weights(flipped), NOT_OF_ONE_EXPORT),
            (of_weights(half), NOT_OF_ONE_EXPORT),
            (replaced(b"0=8 ", b"0=9 ", 1), NOT_OF_ONE_EXPORT),
            (of_weights(Path.unlink), "its weights, small.bin, are not beside it"),
            (lambda path: sidecar_path(path).unlink(), "`srkd export` runs with its NAME.param.json beside it"),
        ),
        windows=(
            SwinIRSpec(width=12, depths=(2, 1), heads=(2, 3), window=4, features=8, scale=2),
            SwinIRSpec(
                2, width=8, depths=(2,), heads=(2,), window=4, upsampler="pixelshuffledirect", padding="testscript"
            ),
        ),
        max_abs=2e-5,
    ),
    FormatCase(
        "litert",
        ("small.tflite",),
        specs=(RCAN, CARN_M, CompactSpec(width=8, depth=1, scale=4, channels=1)),
        damages=(
            (half, "is not a model LiteRT can open"),
            (becomes(b"<html>404</html>"), "is not a LiteRT model: it does not begin as one"),
            (becomes(b""), "is not a LiteRT model"),
            (replaced(b'"edsr"', b'"esdr"'), r"small: its srkd\.spec cannot be used: .*esdr"),
            (torn, "is not a model LiteRT can open"),
        ),
        opens_foreign=True,
    ),
)
"""Formats whose files run on a processor; half precision, TensorRT and Core ML have tests of their own."""


def cases(items: Iterable[FormatCase] = CASES) -> list[object]:
    """Return the cases as test parameters, those of optional libraries marked."""
    return [pytest.param(case, id=case.name, marks=marks_of(case)) for case in items]


def marks_of(case: FormatCase) -> list[pytest.MarkDecorator]:
    return [] if FORMATS[case.name].extra is None else [pytest.mark.extras]


def networks(items: Iterable[FormatCase] = CASES) -> list[object]:
    """Return each case with each further network that converts for any size."""
    return [
        pytest.param(case, spec, id=f"{case.name}-{spec.arch}-x{spec.scale}", marks=marks_of(case))
        for case in items
        for spec in case.specs
    ]
