"""Small foreign models: one convolution and a pixel shuffle, in every format of teachers."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import nn

from tests.support.onnx_files import model_of

KINDS = {"TorchScript": "twin.pt", "ONNX": "twin.onnx", "torch.export": "twin.pt2"}


def twin(scale: int = 2, seed: int = 0) -> nn.Sequential:
    """Return the network of the files below in torch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        conv = nn.Conv2d(3, 3 * scale**2, 3, padding=1)
    return nn.Sequential(conv, nn.PixelShuffle(scale)).eval()


class Particular(nn.Module):
    """A model that is sharper than bicubic for its own range and order of colours, and repeats pixels for others."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        is_right = True
        if self.kind == "255":
            is_right = bool(x.max() > 2)
        elif self.kind == "-1..1":
            is_right = bool(x.min() < -0.1)
        elif self.kind == "bgr":
            is_right = bool(x[:, 0].mean() < x[:, 2].mean())
        larger = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        if is_right:
            larger = nn.functional.interpolate(x, scale_factor=2.0, mode="bicubic", align_corners=False)
            wider = nn.functional.pad(larger, (1, 1, 1, 1), mode="replicate")
            larger = larger + 0.5 * (larger - nn.functional.avg_pool2d(wider, 3, 1, 0))
        return larger * 255.0 if self.kind == "bright" else larger


class MultiplesOf(nn.Module):
    """A pixel shuffle that refuses images whose sides are not multiples of a number."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple
        self.inner = twin()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2], x.shape[3]
        assert height % self.multiple == 0 and width % self.multiple == 0
        return self.inner(x)


def save_torchscript(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def save_onnx(
    module: nn.Sequential, path: Path, *, size: tuple[int, int] | None = None, batch: int | None = None
) -> Path:
    """Write the twin as ONNX; `size` (width, height) makes it the only size of the file. Return the path."""
    conv = module[0]
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    scale = int((conv.out_channels // 3) ** 0.5)
    height, width = ("h", "w") if size is None else (size[1], size[0])
    model = model_of(
        f"""twin (float[{"n" if batch is None else batch}, 3, {height}, {width}] lr) => (float[] sr) {{
            features = Conv <pads = [1, 1, 1, 1]> (lr, weight, bias)
            sr = DepthToSpace <blocksize = {scale}, mode = "CRD"> (features)
        }}""",
        weight=conv.weight.detach().numpy(),
        bias=conv.bias.detach().numpy(),
    )
    onnx.save(model, str(path))
    return path


def save_export(module: nn.Module, path: Path, *, dynamic: bool = True) -> Path:
    sizes = {0: torch.export.Dim("n", max=64), 2: torch.export.Dim("h", max=2048), 3: torch.export.Dim("w", max=2048)}
    example = torch.rand(2 if dynamic else 1, 3, 9, 12)
    program = torch.export.export(module, (example,), dynamic_shapes=(sizes,) if dynamic else None)
    torch.export.save(program, path)
    return path


def save_all(folder: Path) -> dict[str, Path]:
    """Write the twin in every format; return the paths by kind."""
    return {
        "TorchScript": save_torchscript(twin(), folder / KINDS["TorchScript"]),
        "ONNX": save_onnx(twin(), folder / KINDS["ONNX"]),
        "torch.export": save_export(twin(), folder / KINDS["torch.export"]),
    }
