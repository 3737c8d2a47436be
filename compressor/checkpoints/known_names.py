"""Names that a checkpoint may hold: what `torch.save` writes, and what training scripts leave beside the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch

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
"""Names that training scripts leave beside the weights. They are passed over, not built."""
