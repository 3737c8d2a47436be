"""Files of `torch.save` as plain values, read by torch's unpickler of weights, which runs no code of a file.

It builds tensors and plain containers, and refuses any other name, but for those that training scripts save beside the
weights: `STAND_INS`.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

from compressor.base.errors import SrkdError, one_line


class Skipped:
    """Stands for an object that no network needs, such as an option or a date: its contents are dropped."""

    def __new__(cls, *arguments: object, **named: object) -> Skipped:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Drop the state."""


STAND_INS: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            "numpy.dtype",
            "numpy.ndarray",
            "numpy.core.multiarray.scalar",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray.scalar",
            "numpy._core.multiarray._reconstruct",
            "argparse.Namespace",
            "datetime.datetime",
            "datetime.timedelta",
            "pathlib.PosixPath",
            "pathlib.WindowsPath",
            "pathlib._local.PosixPath",
            "pathlib._local.WindowsPath",
            "builtins.dict",
            "builtins.list",
        ),
        Skipped,
    ),
    "collections.defaultdict": lambda *_: OrderedDict(),  # empty: its items follow
    **dict.fromkeys(
        (
            "pytorch_lightning.utilities.parsing.AttributeDict",
            "lightning_fabric.utilities.data.AttributeDict",
            "lightning.fabric.utilities.data.AttributeDict",
        ),
        OrderedDict,
    ),
}
"""What stands for the names that checkpoints of the field hold beside weights."""


def read_pickled(path: Path, *, mapped: bool) -> object:
    """Return the content of a file of torch.save, on the CPU. Mapped values stay in the file until they are used."""
    names: list[Any] = [(stand_in, name) for name, stand_in in STAND_INS.items()]
    with one_line("its content is damaged", first=True), safe_globals(names), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # The texts of Python 2 are bytes of any kind.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped, encoding="latin1")
        except pickle.UnpicklingError as error:
            raise _refusal(str(error)) from error


def _refusal(message: str) -> SrkdError:
    """Return torch's refusal as a line that names what it refused."""
    name = re.search(r"(?:GLOBAL|function) ([^\s]{1,80})", message)
    if name is None:
        reason = re.search(r"(Unsupported operand \d+|Can only .{1,80})", message)
        return SrkdError(
            f"its pickle is not one of weights ({'' if reason is None else reason[0]}): "
            "save torch.save(model.state_dict(), path)"
        )
    return SrkdError(
        f"opening it would run {name[1]!r}: refused, nothing was run; it holds whole Python objects, where weights are "
        "enough: in the program that made it torch.save(model.state_dict(), path), or export the model to ONNX"
    )
