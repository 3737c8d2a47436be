"""Pickles read as data: no name in a file is ever imported or called.

A checkpoint's pickle is a small program for a stack machine. The machine here knows only plain values, dictionaries and
the few names by which `torch.save` describes tensors (torch/_utils.py, `_rebuild_*`); it returns a `TensorRef` where
torch would build a tensor. Any other name is an error that quotes it.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterable, Mapping
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
    """Return the pickle at the stream's position; the stream is then positioned after it."""
    machine = _Machine()
    return Unpickled(_run(machine, stream), machine.storages)


def read_storages(stream: Stream) -> list[StorageRef]:
    """Return every storage reference in a pickle of TorchScript classes, skipping the objects.

    A storage may be referenced twice with different sizes. Non-dense tensors and C++ objects are refused.
    """
    machine = _StorageFinder()
    _run(machine, stream)
    return machine.references


def _run(machine: _Machine, stream: Stream) -> Any:
    try:
        for done, (opcode, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
            if done > MAX_OPERATIONS:
                raise SrkdError(f"its pickle runs to more than {MAX_OPERATIONS:,} operations: this is not a checkpoint")
            machine.execute(opcode.name, argument)
        return machine.pop()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError, struct.error) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]!r}"
        raise SrkdError(f"its pickle is damaged ({reason}): download or save the file again") from error


class _Machine:
    """The stack machine of `pickle`, without calls of arbitrary functions."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}

    def execute(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise SrkdError(f"its pickle uses {name}, which no checkpoint of weights needs; save a plain state dict")

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError("nothing on the stack above the last mark")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def collect(self, count: int) -> None:
        """Replace the topmost `count` values by a tuple of them."""
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def extend(self, items: Iterable[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, SkippedObject):
            raise TypeError(f"append to {type(target).__name__}")

    def set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(_pairs(flat))
        elif not isinstance(target, SkippedObject):
            raise TypeError(f"set an item of {type(target).__name__}")

    def name_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global without a name")
        self.stack.append(_allowed(GlobalName(module, name)))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.stack.append(_rebuild(function, arguments))

    def refer_to_storage(self) -> None:
        storage = _storage(self.pop())
        self.storages[storage.key] = storage
        self.stack.append(storage)


class _StorageFinder(_Machine):
    """A machine that skips unknown names, which are classes of the file's own program."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[StorageRef] = []

    def refer_to_storage(self) -> None:
        super().refer_to_storage()
        self.references.append(self.stack[-1])

    def name_global(self, module: Any, name: Any) -> None:
        symbol = GlobalName(str(module), str(name))
        if str(symbol).startswith("__torch__.torch.classes."):
            raise SrkdError(f"it holds an object of torch's own C++ code ({str(symbol)[:80]!r}): refused")
        if symbol.module == "torch._utils" and symbol.name.startswith("_rebuild_"):
            _allowed(symbol)
        self.stack.append(symbol)

    def call(self) -> None:
        self.pop()
        self.pop()
        self.stack.append(SkippedObject("object"))


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    if len(flat) % 2:
        raise ValueError("a key without a value")
    # Containers are no keys: hashing a deeply nested tuple overflows the C stack.
    return {
        key if isinstance(key, (str, int, float, bytes, type(None))) else SkippedObject("key"): value
        for key, value in zip(flat[::2], flat[1::2], strict=True)
    }


def _allowed(symbol: GlobalName) -> GlobalName:
    pair = (symbol.module, symbol.name)
    storage = symbol.module in ("torch", "torch.storage") and symbol.name in STORAGE_DTYPES
    dtype = symbol.module == "torch" and symbol.name in DTYPES
    if pair in _REBUILD or pair in DICTIONARIES or pair in HARMLESS or storage or dtype:
        return symbol
    if symbol.module == "torch._utils" and symbol.name.startswith("_rebuild_"):
        raise SrkdError(
            f"it holds sparse, quantised or meta tensors ({symbol}), which are not weights: save dense floats"
        )
    raise SrkdError(
        f"opening it would run {str(symbol)[:80]!r}: refused, nothing was run; it holds whole Python objects, where "
        "weights are enough: in the program that made it torch.save(model.state_dict(), path), or export the model "
        "to ONNX or TorchScript"
    )


def _rebuild(function: Any, arguments: Any) -> Any:
    """Return the value of a call of an allowed name."""
    if not isinstance(function, GlobalName) or not isinstance(arguments, tuple):
        raise TypeError(f"call of {type(function).__name__}")
    pair = (function.module, function.name)
    if pair in _REBUILD:
        return _REBUILD[pair](arguments)
    if pair in DICTIONARIES:
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        return _pairs([part for key, value in pairs for part in (key, value)])
    if pair in HARMLESS:
        return SkippedObject(str(function))
    raise TypeError(f"call of {function}")


def _tensor(arguments: tuple[Any, ...]) -> TensorRef:
    """Return the tensor of _rebuild_tensor(storage, offset, size, stride) or _v2(…, requires_grad, hooks)."""
    storage, offset, shape, stride = arguments[:4]
    shape, stride = tuple(shape), tuple(stride)
    if not isinstance(storage, StorageRef) or storage.dtype is None or len(shape) != len(stride):
        raise TypeError("a tensor without a storage, or with another number of strides than axes")
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *stride)):
        raise ValueError("a tensor with a negative or fractional size")
    return TensorRef(storage, offset, shape, stride)


def _tensor_with_dtype(arguments: tuple[Any, ...]) -> TensorRef:
    """Return the tensor of _rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype).

    Its storage counts bytes.
    """
    storage, dtype = arguments[0], arguments[6]
    if not isinstance(storage, StorageRef) or not isinstance(dtype, GlobalName) or dtype.name not in DTYPES:
        raise TypeError(f"a tensor of type {dtype}")
    kind = DTYPES[dtype.name]
    return _tensor((replace(storage, dtype=kind, size=storage.size // kind.itemsize), *arguments[1:4]))


def _storage(identity: Any) -> StorageRef:
    """Return the storage of ('storage', type, key, location, size[, view]), as torch/serialization.py writes it."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise ValueError("a persistent id that names no storage")
    kind, key, size = identity[1], identity[2], identity[4]
    if not isinstance(kind, GlobalName) or kind.name not in STORAGE_DTYPES or type(size) is not int or size < 0:
        raise ValueError("a storage of unknown type or size")
    view = identity[5] if len(identity) > 5 else None
    start = view[1] if isinstance(view, tuple) else 0
    if type(start) is not int or not 0 <= start <= size:
        raise ValueError("a view that starts outside its storage")
    return StorageRef(str(key), STORAGE_DTYPES[kind.name], size - start, start)


_REBUILD: Mapping[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_with_dtype,
    ("torch._utils", "_rebuild_parameter"): lambda arguments: arguments[0],
    ("torch._utils", "_rebuild_parameter_with_state"): lambda arguments: arguments[0],
    # (function, type, arguments, state): the tensor's attributes are dropped.
    ("torch._tensor", "_rebuild_from_type_v2"): lambda arguments: _rebuild(arguments[0], arguments[2]),
    ("torch", "Size"): lambda arguments: tuple(arguments[0]),
}
# fmt: off
_VALUES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
})
# fmt: on
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_ACTIONS: Mapping[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.collect(1),
    "TUPLE2": lambda machine, _: machine.collect(2),
    "TUPLE3": lambda machine, _: machine.collect(3),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "FROZENSET": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "DICT": lambda machine, _: machine.stack.append(_pairs(machine.pop_to_mark())),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "PUT": lambda machine, index: machine.remember(index),
    "BINPUT": lambda machine, index: machine.remember(index),
    "LONG_BINPUT": lambda machine, index: machine.remember(index),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "GLOBAL": lambda machine, names: machine.name_global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name_global(*[machine.pop(), machine.pop()][::-1]),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.pop(),
    "BINPERSID": lambda machine, _: machine.refer_to_storage(),
}
