"""A simulated accelerator for torch, the device `sim`: its memory is the host's, but no tensor of it mixes with one of
the CPU, and what crosses between them is counted.

A tensor of `sim` is an ordinary one of torch's PrivateUse1, which DLPack made of host memory. One fallback runs every
operation on CPU tensors of that memory, so views, strides and changes in place are what they are on a CPU. Nothing is
shown about speed or rounding, nor about a GPU's own kernels.
"""

from __future__ import annotations

import ctypes
import functools
import types
from collections import Counter
from typing import Any, cast

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

from compressor.runtimes.table import RUNTIMES

NAME = "sim"
HOST, EXTENSION = 1, 12
"""DLPack's numbers of the CPU, and of devices that extend a framework."""
counts: Counter[str] = Counter()
"""Copies `to_device` and `to_host`, and `waits` for the device."""
INDEXED = ("aten::index", "aten::_index_put_impl_", "aten::index_put", "aten::_unsafe_index")
"""Operations that take indices of the CPU on a GPU, too: they are copied there."""
kept: list[object] = []
"""Torch forgets what a library registers when the library goes."""
OF_TORCH, STORAGE_OF_TORCH = torch.Tensor.__deepcopy__, torch.UntypedStorage.cpu
_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def same_memory(tensor: torch.Tensor, device: int) -> torch.Tensor:
    """Return a tensor of the same memory on another device: DLPack's note of the device is written over."""
    capsule = torch._C._to_dlpack(tensor)
    ctypes.c_int32.from_address(_address(capsule, b"dltensor") + 8).value = device
    return torch._C._from_dlpack(capsule)


def is_here(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == NAME


def run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation of `sim` on CPU tensors of its memory; a tensor of the CPU among its arguments is an error."""
    name = op._schema.name
    if name == "aten::_copy_from":
        return copy(args[0], args[1])
    if name == "aten::_local_scalar_dense":
        counts["to_host"] += 1
    leaves = tree_leaves((args, kwargs))
    strangers = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not is_here(leaf) and leaf.dim()]
    if strangers and not (name in INDEXED and is_here(args[0])):
        raise RuntimeError(f"{op}: expected all tensors on {NAME}, found one on {strangers[0].device}")
    counts["to_device"] += len(strangers)
    results = [
        leaf for argument in op._schema.arguments if argument.is_out for leaf in tree_leaves(kwargs[argument.name])
    ]
    hosts = {id(leaf): same_memory(leaf, HOST) for leaf in leaves if is_here(leaf)}
    hosts |= {id(leaf): torch.empty(0, dtype=leaf.dtype) for leaf in results if leaf.shape == (0,)}
    outs = [hosts[id(leaf)] for leaf in results]
    given = {id(hosts[id(leaf)]): leaf for leaf in leaves if id(leaf) in hosts}

    def to_host(value: Any) -> Any:
        return torch.device("cpu") if isinstance(value, torch.device) else hosts.get(id(value), value)

    def to_device(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return given[id(value)] if id(value) in given else same_memory(value, EXTENSION)

    args, kwargs = tree_map(to_host, (args, kwargs))
    result = tree_map(to_device, op(*args, **kwargs))
    for host, leaf in zip(outs, results, strict=True):
        if host.shape != leaf.shape:  # empty, for the operation to resize
            leaf.data = same_memory(host, EXTENSION)
    return result


def copy(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if is_here(source) != is_here(target):
        counts["to_device" if is_here(target) else "to_host"] += 1
    hosts = [same_memory(tensor, HOST) if is_here(tensor) else tensor for tensor in (target, source)]
    hosts[0].copy_(hosts[1])
    return target


def deepcopy_of(tensor: Any, memo: dict[int, Any]) -> torch.Tensor:
    """Copy a tensor of `sim` as one of other devices without storages that Python can make."""
    if not is_here(tensor) or id(tensor) in memo:
        return OF_TORCH(tensor, memo)
    memo[id(tensor)] = copied = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    return copied


def storage_on_host(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """Copy a storage as torch.save does."""
    if storage.device.type != NAME:
        return STORAGE_OF_TORCH(storage)
    counts["to_host"] += 1
    host = torch.UntypedStorage(storage.size())
    ctypes.memmove(host.data_ptr(), storage.data_ptr(), storage.size())
    return host


def module() -> types.ModuleType:
    """Return what stands as `torch.sim`: the questions that srkd asks an accelerator, answered."""
    here = types.ModuleType(f"torch.{NAME}")

    def synchronize(device: object = None) -> None:
        counts["waits"] += 1

    facts: dict[str, Any] = dict.fromkeys(("set_device", "manual_seed_all", "reset_peak_memory_stats", "empty_cache"))
    facts |= {"is_available": True, "is_initialized": True, "_is_in_bad_fork": False, "mem_get_info": (1 << 34,) * 2}
    facts |= {"device_count": 1, "current_device": 0, "max_memory_allocated": 0}
    facts["get_amp_supported_dtype"] = [torch.bfloat16]
    for name, fact in facts.items():
        setattr(here, name, functools.partial(lambda fact, *device: fact, fact))
    here.synchronize = synchronize  # type: ignore[attr-defined]
    return here


def install() -> None:
    """Make `sim` a device of this process; once."""
    if hasattr(torch, NAME):
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, module())
    every, own = libraries = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(run, "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # it computes in what it is given
    # What torch asks of a backend of one's own in place of its convolutions.
    forward, backward = torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default
    own.impl("convolution_overrideable", functools.partial(run, forward), "PrivateUse1")
    own.impl("_conj", torch.ops.aten.conj_physical.default, "PrivateUse1")  # DLPack knows no conjugate views
    own.impl(
        "convolution_backward_overrideable",
        lambda gradient, x, weight, *rest: run(backward, gradient, x, weight, [len(weight)], *rest),
        "PrivateUse1",
    )
    kept.extend(libraries)
    torch.Tensor.__deepcopy__, torch.UntypedStorage.cpu = deepcopy_of, storage_on_host
    for runtime in ("torch", "torch-compiled"):
        cast(dict[str, str], RUNTIMES[runtime].devices)[NAME] = r"\d+"
