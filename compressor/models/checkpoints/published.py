"""Files of published weights for networks that judge images: read by the names and shapes that are expected of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.files import open_container
from compressor.models.checkpoints.unwrap import unwrap


def hub_file(name: str) -> Path:
    """The path of a file in torch.hub's cache ($TORCH_HOME), where torchvision keeps its weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def read_published(
    path: Path, shapes: Mapping[str, torch.Size | tuple[int, ...]], *, what: str, give: str, sha256: str = ""
) -> dict[str, Tensor]:
    """The tensors of these names and shapes as float32; others in the file are ignored, and no code in it is run.

    Its SHA-256 must begin with `sha256`. `what` and `give` name the network and the right file in errors.
    """
    state = {}
    try:
        container = open_container(path)
        if not container.sha256.startswith(sha256):
            raise SrkdError(f"its SHA-256 begins with {container.sha256[:8]}, not with {sha256}: download it again")
        tensors = unwrap(container.content).tensors
        for name, expected in shapes.items():
            tensor, shape = tensors.get(name), tuple(expected)
            if tensor is None or tuple(tensor.shape) != shape:
                actual = "missing" if tensor is None else f"of shape {str(tuple(tensor.shape))[:60]}"
                raise SrkdError(f"not {what}: {name} is {actual}, not of {shape}: give {give}")
            state[name] = tensor.float().contiguous()
    except SrkdError as error:
        raise SrkdError(f"{path}: {error}") from error
    return state
