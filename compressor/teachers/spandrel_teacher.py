"""State dicts of networks supported by spandrel (https://github.com/chaiNNer-org/spandrel), without torchvision.

srkd's own reader, which runs no code, reads the file; spandrel only receives tensors.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from compressor.base.errors import MissingExtra, SrkdError, one_line
from compressor.models.networks.base import Descriptor
from compressor.teachers.foreign import ForeignFacts, ModuleProgram, count_params


class NotKnown(SrkdError):
    """Raised if spandrel recognises no network in these tensors."""


def is_spandrel_installed() -> bool:
    return importlib.util.find_spec("spandrel") is not None


def open_spandrel(state: Mapping[str, torch.Tensor], label: str) -> ModuleProgram:
    """Return the network that spandrel recognises in a state dict, as a model of images in [0,1]."""
    spandrel = import_spandrel()
    try:
        model = spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(state))
    except spandrel.UnsupportedModelError as error:
        raise NotKnown(f"{label}: spandrel {spandrel.__version__} does not know it either") from error
    except Exception as error:
        raise NotKnown(f"{label}: spandrel cannot build it: {str(error).strip()[:120]!r}") from error
    name = str(model.architecture.name)
    if not isinstance(model, spandrel.ImageModelDescriptor) or model.input_channels != model.output_channels:
        raise SrkdError(f"{label}: spandrel's {name} does not turn an image into an image of as many channels")
    model.model.eval()
    multiple, smallest = model.size_requirements.multiple_of, max(1, model.size_requirements.minimum)
    descriptor = Descriptor(scale=model.scale, channels=model.input_channels, size_multiple=multiple, min_size=smallest)
    facts = ForeignFacts("spandrel", name, descriptor, count_params(model.model))
    # Called directly: its own call clamps to [0,1], and no loss can use its tensors.
    return ModuleProgram(model.model, facts, f"{label} ({name})", getattr(model, "_call_fn", None))


def import_spandrel() -> Any:
    """Return the package spandrel; two of its 42 architectures import three names of torchvision."""
    if not is_spandrel_installed():
        raise MissingExtra("spandrel", "spandrel")
    with torchvision_stand_in(), one_line("spandrel is installed but cannot be imported"):
        return importlib.import_module("spandrel")


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Provide within the block the names in `torchvision.transforms.functional` that LaMa and RestoreFormer import.

    An installed torchvision is used as it is. The stand-ins are removed afterwards, so that no other code mistakes them
    for torchvision; calling one raises an error about the missing package.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        yield
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    stand_ins = {name: types.ModuleType(name) for name in names}
    package, transforms, functional = stand_ins.values()
    vars(package).update(transforms=transforms)
    vars(transforms).update(functional=functional)
    modes = types.SimpleNamespace(NEAREST="nearest", BILINEAR="bilinear")
    vars(functional).update(InterpolationMode=modes, rotate=_refuse, normalize=_refuse)
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def _refuse(*arguments: object, **named: object) -> torch.Tensor:
    raise SrkdError("this architecture of spandrel needs torchvision, which is not installed: pip install torchvision")
