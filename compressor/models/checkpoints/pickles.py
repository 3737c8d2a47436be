"""Pickles read as data: no name in a file is ever imported or called.

A checkpoint's pickle is a small program for a stack machine. The machine here knows only plain values, dictionaries and
the few names by which `torch.save` describes tensors (torch/_utils.py, `_rebuild_*`); it returns a `TensorRef` where
torch would build a tensor. Any other name is an error that quotes it.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from compressor.base.errors import SrkdError

STORAGE_DTYPES: Mapping[str, torch.dtype | None] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": None,
}
DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype for dtype in STORAGE_DTYPES.values() if dtype is not None
}
DICTIONARIES = frozenset({("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "Counter")})
HARMLESS_NAMES: Mapping[str, tuple[str, ...]] = {
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "_codecs": ("encode",),
    "argparse": ("Namespace",),
    "datetime": ("datetime", "timedelta"),
    "pathlib": ("PosixPath", "WindowsPath"),
    "pytorch_lightning.utilities.parsing": ("AttributeDict",),
    "lightning_fabric.utilities.data": ("AttributeDict",),
    "lightning.fabric.utilities.data": ("AttributeDict",),
    "torch": ("device", "Tensor"),
    "torch.nn.parameter": ("Parameter",),
    "builtins": ("dict", "list"),
    "__builtin__": ("dict", "list"),
}
HARMLESS = frozenset((module, name) for module, names in HARMLESS_NAMES.items() for name in names)
"""Names that training scripts save beside the weights. They are skipped, not built."""


MAX_AXES = 64  # as in torch
MAX_OPERATIONS = 2_000_000
"""The most operations of a pickle. A tensor takes about forty: a longer pickle is a bomb, or not a checkpoint."""


@dataclass(frozen=True)
class StorageRef:
    """A storage by its key in the file, its first value `start`, and its number of values from there."""

    key: str
    dtype: torch.dtype | None
    size: int
    start: int = 0


@dataclass(frozen=True)
class TensorRef:
    """A tensor that is not read yet; strides and offset count values, as in torch."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def contiguous(cls, key: str, dtype: torch.dtype, shape: tuple[int, ...]) -> TensorRef:
        """Return a tensor whose values are all those of a storage of its own, row by row."""
        stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return cls(StorageRef(key, dtype, math.prod(shape)), 0, shape, stride)


@dataclass(frozen=True)
class GlobalName:
    """A global name in the file, which is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False)
class SkippedObject:
    """An object that no network needs (an option, a date); its contents are dropped."""

    what: str

    def append(self, item: object) -> None:
        """Drop an item."""

    def __setitem__(self, key: object, item: object) -> None:
        """Drop an item."""


class Stream(Protocol):
    """The source of a pickle; `read` must return fewer bytes than requested if fewer are left."""

    def read(self, count: int, /) -> bytes: ...

    def readline(self) -> bytes: ...


@dataclass(frozen=True)
class Unpickled:
    """A pickle's value, and every storage that it references."""

    value: object
    storages: Mapping[str, StorageRef]


def read_pickle(stream: Stream) -> Unpickled:
    """Read the pickle at the stream's position; the stream is then positioned after it."""
    unpickler = _Unpickler(stream)
    value = unpickler.run()
    return Unpickled(value, {storage.key: storage for storage in unpickler.references})


class _WholeReads:
    """A stream on which to read past the end is an error that says how much was asked for."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.readline = stream, stream.readline

    def read(self, count: int) -> bytes:
        content = self.stream.read(count)
        if len(content) < count:
            raise EOFError(f"{count} bytes expected, {len(content)} left")
        return content


class _Operations:
    """The operations of one pickle: they are counted, and are only those that weights need."""

    def __init__(self) -> None:
        self.done = 0

    def count(self, operations: int) -> None:
        self.done += operations
        if self.done > MAX_OPERATIONS:
            raise SrkdError(f"its pickle runs to more than {MAX_OPERATIONS:,} operations: this is not a checkpoint")

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.count(1)
        name = _NAMES.get(code)
        if name is None:
            raise ValueError(f"opcode {code} is unknown")
        if name not in _OPERATIONS:
            raise SrkdError(f"its pickle uses {name}, which no checkpoint of weights needs; save a plain state dict")
        return _OPERATIONS[name]


class _Unpickler(pickle._Unpickler):
    """Python's unpickler in Python, since the one in C can be made to hang or to take all memory.

    In C, a memo index of 2**28 takes gigabytes, and a deeply nested tuple as a key of a dictionary overflows the stack.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(_WholeReads(stream), encoding="latin-1")
        self.references: list[StorageRef] = []
        self.operations = _Operations()
        self.dispatch = self.operations  # type: ignore[misc,assignment]

    def run(self) -> Any:
        try:
            return self.load()
        except (*_DAMAGE, pickle.UnpicklingError) as error:
            reason = f"{type(error).__name__}: {str(error)[:80]!r}"
            raise SrkdError(f"its pickle is damaged ({reason}): download or save the file again") from error

    def find_class(self, module: str, name: str) -> GlobalName:
        return _allowed(GlobalName(module, name))

    def persistent_load(self, pid: Any) -> StorageRef:
        self.references.append(_storage(pid))
        return self.references[-1]

    def call(self, function: Any, arguments: Any) -> Any:
        if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], list):
            self.operations.count(len(arguments[0]))  # the same list may be the argument of many calls
        return _call(function, arguments)


def _key(key: Any) -> Any:
    """Keep a key that is quick to hash.

    Containers are no keys: hashing a deeply nested tuple overflows the C stack. Nor are large numbers, whose hashes can
    be made equal: a dictionary of half a million such keys takes twenty minutes.
    """
    if isinstance(key, (str, bytes, type(None))) or (isinstance(key, int) and abs(key) < 2**31):
        return key
    return SkippedObject("key")


def _set_items(machine: Any) -> None:
    flat = machine.pop_mark()
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        machine.stack[-1][_key(key)] = value


def _set_item(machine: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1][_key(key)] = value


def _make_dictionary(machine: Any) -> None:
    flat = machine.pop_mark()
    machine.append({_key(key): value for key, value in zip(flat[::2], flat[1::2], strict=True)})


def _reduce(machine: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.append(machine.call(function, arguments))


def _allowed(symbol: GlobalName) -> GlobalName:
    pair = (symbol.module, symbol.name)
    storage = symbol.module in ("torch", "torch.storage") and symbol.name in STORAGE_DTYPES
    dtype = symbol.module == "torch" and symbol.name in DTYPES
    if pair in _REBUILD or pair in DICTIONARIES or pair in HARMLESS or storage or dtype:
        return symbol
    if symbol.module == "torch._utils" and symbol.name.startswith("_rebuild_"):
        raise SrkdError(
            f"it holds sparse, quantised or meta tensors ({str(symbol)[:80]!r}), which are not weights: "
            "save dense floats"
        )
    raise SrkdError(
        f"opening it would run {str(symbol)[:80]!r}: refused, nothing was run; it holds whole Python objects, where "
        "weights are enough: in the program that made it torch.save(model.state_dict(), path), or export the model "
        "to ONNX or TorchScript"
    )


def _call(function: Any, arguments: Any) -> Any:
    """Return what a call of an allowed name stands for; any other name is refused."""
    if not isinstance(function, GlobalName) or not isinstance(arguments, tuple):
        raise TypeError(f"call of {type(function).__name__}")
    pair = (function.module, function.name)
    if pair in _REBUILD:
        return _REBUILD[pair](arguments)
    if pair in DICTIONARIES:
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        return {_key(key): value for key, value in pairs}
    if pair in HARMLESS:
        return SkippedObject(str(function))
    raise TypeError(f"call of {function}")


def _tensor(arguments: tuple[Any, ...]) -> TensorRef:
    """Return the tensor of _rebuild_tensor(storage, offset, size, stride) or _v2(…, requires_grad, hooks)."""
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, StorageRef) or storage.dtype is None or not len(shape) == len(stride) <= MAX_AXES:
        raise TypeError(
            f"a tensor without a storage, with over {MAX_AXES} axes, or another number of strides than axes"
        )
    if not all(_is_count(number) for number in (offset, *shape, *stride)):
        raise ValueError("a tensor with a negative, fractional or huge size")
    return TensorRef(storage, offset, tuple(shape), tuple(stride))


def _tensor_with_dtype(arguments: tuple[Any, ...]) -> TensorRef:
    """Return the tensor of _rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype).

    Its storage counts bytes.
    """
    storage, dtype = arguments[0], arguments[6]
    if not isinstance(storage, StorageRef) or not isinstance(dtype, GlobalName) or dtype.name not in DTYPES:
        raise TypeError("a tensor without a storage or of unknown type")
    kind = DTYPES[dtype.name]
    return _tensor((replace(storage, dtype=kind, size=storage.size // kind.itemsize), *arguments[1:4]))


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _storage(identity: Any) -> StorageRef:
    """Return the storage of ('storage', type, key, location, size[, view]), as torch/serialization.py writes it."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise ValueError("a persistent id that names no storage")
    kind, key, size = identity[1], identity[2], identity[4]
    if not isinstance(kind, GlobalName) or kind.name not in STORAGE_DTYPES or not _is_count(size):
        raise ValueError("a storage of unknown type or size")
    if not isinstance(key, (str, int)):
        raise TypeError("a storage whose key is not text")
    view = identity[5] if len(identity) > 5 else None
    start = view[1] if isinstance(view, tuple) else 0
    if not _is_count(start) or start > size:
        raise ValueError("a view that starts outside its storage")
    return StorageRef(str(key), STORAGE_DTYPES[kind.name], size - start, start)


_REBUILD: Mapping[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_with_dtype,
    ("torch._utils", "_rebuild_parameter"): lambda arguments: arguments[0],
    ("torch._utils", "_rebuild_parameter_with_state"): lambda arguments: arguments[0],
    # (function, type, arguments, state): the tensor's attributes are dropped.
    ("torch._tensor", "_rebuild_from_type_v2"): lambda arguments: _call(arguments[0], arguments[2]),
    ("torch", "Size"): lambda arguments: tuple(arguments[0]),
}
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError, struct.error)
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_AS_IN_PYTHON = """
PROTO STOP MARK POP POP_MARK DUP BINPERSID GLOBAL STACK_GLOBAL
PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING
UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT
"""
_PYTHON = {_NAMES[code]: load for code, load in pickle._Unpickler.dispatch.items()}
_OPERATIONS: Mapping[str, Callable[[Any], None]] = {
    **{name: _PYTHON[name] for name in _AS_IN_PYTHON.split()},
    "DICT": _make_dictionary,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    # Sets hash their items; as lists they don't.
    "EMPTY_SET": _PYTHON["EMPTY_LIST"],
    "FROZENSET": _PYTHON["LIST"],
    "ADDITEMS": _PYTHON["APPENDS"],
    # An object is what its name makes of the arguments; its state is dropped.
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "BUILD": _PYTHON["POP"],
    "BYTEARRAY8": _PYTHON["BINBYTES8"],  # Python makes room for a bytearray before it reads it
    "FRAME": lambda machine: machine.read(8),
}
