"""The job of a converter: one file to write, its options, and the error of a format that cannot hold a network."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError, reason_of

if TYPE_CHECKING:
    from compressor.models.networks.base import ImageModel, Network
    from export.formats.proof_inputs import ProofInput

INPUT, OUTPUT = "input", "output"
"""Names of the image tensors of exported files, which programs such as vs-mlrt expect; ncnn's are its own."""

IO = Literal["float", "uint8", "fp16"]
Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Int8Options:
    """The options of int8 formats."""

    calibrate: Path | None = None
    """`--calibrate DIR`: photos that the ranges are measured on; None: the embedded ones."""
    data: Path | None = None
    """`--data DIR`: photos that the drop is measured on; None: embedded ones, not those of `calibrate`."""
    max_drop: float | None = 0.1
    """`--max-drop DB`: the most that the Y-PSNR on these photos may drop. None: all is quantised, to time the file."""
    teacher: Callable[[], ImageModel] | None = None
    """Loads the teacher to whose images the Y-PSNR is measured if it is the student's goal; None: to the originals."""


@dataclass(frozen=True)
class FileOptions:
    """The options of an exported file. `Format.options` lists those that a format supports."""

    lr_size: Size | None = None
    """`--static WxH`: the only image size that the file takes, in a batch of one; None: any."""
    io: IO = "float"
    """float: N,C,H,W in [0,1], unclamped. uint8: N,H,W,C in 0..255, so that an app needs no image code. fp16: as float,
    in float16, for programs that keep images so on the GPU."""
    sizes: tuple[Size, Size] | None = None
    """`--sizes WxH,WxH`: the size that a file is tuned for and the largest that it takes, for formats that are tuned
    to a size; the others take any size."""
    int8: Int8Options = Int8Options()

    def __post_init__(self) -> None:
        if self.lr_size is not None and self.sizes is not None:
            raise UsageError("--static is for one size and --sizes for many: give one of them")

    def require_used(self, supported: Collection[str]) -> None:
        """Refuse options of int8 and of engines if none of the files to write, by their `Format.options`, use them."""
        int8, usual = self.int8, Int8Options()
        of_int8 = {"--calibrate": int8.calibrate, "--data": int8.data}
        given = [flag for flag, value in of_int8.items() if value is not None]
        given += ["--max-drop"] if int8.max_drop != usual.max_drop else []
        if given and "int8" not in supported:
            flags = " and ".join(given)
            raise UsageError(f"{flags}: only files in int8 use this, and none is asked for: add --int8")
        if self.sizes is not None and "sizes" not in supported:
            raise UsageError(
                "--sizes is for TensorRT engines, and none is asked for: add --trt; other files take any size, or one "
                "by --static"
            )

    def changed(self) -> dict[str, str]:
        """The options that differ from their defaults and change the file, by their command-line names."""
        changes = {} if self.lr_size is None else {"static": "{}x{}".format(*self.lr_size)}
        if self.io != "float":
            changes["io"] = self.io
        return changes

    def marks(self) -> str:
        """The marks of changed options in a file's name: `-320x180-uint8`. Images in fp16 are `-fp16io`, as
        the suffix `.fp16.onnx` alone is that of float32 images."""
        marks = self.changed()
        if self.io == "fp16":
            marks["io"] = "fp16io"
        return "".join(f"-{mark}" for mark in marks.values())


DEFAULTS = FileOptions()


def tuned_and_largest(sizes: Sequence[Size] | None) -> tuple[Size, Size] | None:
    """The size to tune for and the largest size; one given size is both."""
    if sizes is None:
        return None
    if not 1 <= len(sizes) <= 2:
        raise UsageError(f"--sizes has {len(sizes)} sizes: give what to tune for and the largest, 320x180,640x360")
    tuned, largest = sizes[0], sizes[-1]
    if tuned[0] > largest[0] or tuned[1] > largest[1]:
        text = "{}x{},{}x{}".format(*tuned, *largest)
        raise UsageError(f"--sizes {text}: the second is the largest and must hold the first")
    return tuned, largest


@dataclass(frozen=True)
class Conversion:
    """One file to write. `network` is the converter's own copy: CPU, float32, eval, without gradients. `path` is the
    main file, under its final name in an empty temporary folder; companions such as weights are written beside it."""

    network: Network
    path: Path
    metadata: Mapping[str, str]
    options: FileOptions = DEFAULTS
    context: Context = QUIET
    inputs: Sequence[ProofInput] = ()
    """The images that the file is compared on, for a converter that measures intermediate values."""
    format: str = ""
    """The name of the format's row, for a converter of several formats."""


class CannotConvert(SrkdError):
    """The format or its converter cannot hold this network."""


def example_size(network: Network) -> Size:
    """A size that the network takes, with different sides so that a converter does not treat them as equal."""
    descriptor = network.descriptor
    step = descriptor.size_multiple
    side = -(-max(20, descriptor.min_size) // step) * step
    return side + 4 * step, side


def needs_fixed_size(network: Network) -> bool:
    """Whether a graph of the network holds for one image size only, because its form depends on the size."""
    width, height = example_size(network)
    return network.for_size(height, width) is not network


def require_size(job: Conversion, title: str) -> None:
    """Refuse a conversion without a fixed size if the network's graph holds for one size only."""
    if job.options.lr_size is None and needs_fixed_size(job.network):
        raise CannotConvert(
            f"{job.network.spec.arch} in {title} takes images of one size only, as it works on whole squares: "
            "name it, as in --static 64x64"
        )


@contextmanager
def refusals_of(converter: str, network: Network) -> Iterator[None]:
    """Suppress a converter's output, and turn its errors into one line that it cannot convert the network."""
    try:
        with silence():
            yield
    except SrkdError:
        raise
    except Exception as error:
        raise CannotConvert(
            f"{converter} cannot convert {network.spec.arch}: {reason_of(error, first=True)}"
        ) from error


@contextmanager
def silence() -> Iterator[None]:
    """Suppress a converter's prints, logs and warnings: they are for developers of converters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
