"""Training loops as they are common in the field, for comparison: srkd itself does not use them.

Image folders read by a DataLoader of two workers with PIL, random crops and symmetries in numpy, tensors made by the
worker, or the same crops of images in memory; eager fp32 networks in torch's default layout; `torch.optim.Adam` as it
comes. Written after the official trainers that `FieldLoop` names; weights are random, as time does not depend on them.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import embedded_pairs
from compressor.models.networks.edsr import EDSRSpec
from recipes.terms.perceptual import LEVEL_WEIGHTS, VGG19_LAYERS, VGG19_TAPS

Pixels: TypeAlias = "npt.NDArray[Any]"

SUB_IMAGE = 480
"""Side of the sub-images on which BasicSR trains, because whole 2K images take too long to decode."""


def write_pngs(folder: Path, *, scale: int) -> Path:
    """Write HR/ and LR/ as PNG sub-images, as data sets are prepared for this loop; return the folder."""
    for name in ("HR", "LR"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for pair in embedded_pairs("train"):
        whole = read_rgb_u8(pair.hr)
        side = min(SUB_IMAGE, *whole.shape[1:])
        for top in range(0, whole.shape[1] - side + 1, side // 2):
            for left in range(0, whole.shape[2] - side + 1, side // 2):
                hr_u8 = mod_crop(whole[:, top : top + side, left : left + side], scale)
                name = f"{pair.hr.stem}_{top}_{left}.png"
                for kind, image in (("HR", hr_u8), ("LR", downscale_u8(hr_u8, scale))):
                    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / kind / name)
    return folder


class PngPatches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A data set whose items decode two files, crop and flip them, and give two float tensors."""

    def __init__(self, folder: Path, *, scale: int, lr_patch: int, length: int) -> None:
        self.names = sorted((folder / "HR").iterdir())
        self.scale, self.lr_patch, self.length = scale, lr_patch, length
        self.decoded: dict[Path, tuple[Pixels, Pixels]] = {}
        """HR and LR images in memory, by file; empty: every item reads its files."""

    @staticmethod
    def decode(path: Path) -> tuple[Pixels, Pixels]:
        """Return HR and LR images of a pair of files."""
        hr = np.asarray(Image.open(path).convert("RGB"))
        return hr, np.asarray(Image.open(path.parent.parent / "LR" / path.name).convert("RGB"))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        path = self.names[index % len(self.names)]
        hr, lr = self.decoded.get(path) or self.decode(path)
        patch, scale = self.lr_patch, self.scale
        top, left = random.randint(0, lr.shape[0] - patch), random.randint(0, lr.shape[1] - patch)
        lr = lr[top : top + patch, left : left + patch]
        hr = hr[top * scale : (top + patch) * scale, left * scale : (left + patch) * scale]
        if random.random() < 0.5:
            lr, hr = lr[:, ::-1], hr[:, ::-1]
        if random.random() < 0.5:
            lr, hr = lr[::-1], hr[::-1]
        if random.random() < 0.5:
            lr, hr = lr.transpose(1, 0, 2), hr.transpose(1, 0, 2)
        return _tensor(lr), _tensor(hr)


def _tensor(image: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


class InMemory:
    """Batches of the same patches from images in memory, without files and workers."""

    def __init__(self, folder: Path, *, scale: int, lr_patch: int, batch: int) -> None:
        self.patches = PngPatches(folder, scale=scale, lr_patch=lr_patch, length=batch)
        self.patches.decoded = {path: self.patches.decode(path) for path in self.patches.names}
        self.batch = batch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            pairs = [self.patches[random.randrange(10**6)] for _ in range(self.batch)]
            yield torch.stack([lr for lr, _ in pairs]), torch.stack([hr for _, hr in pairs])


class SlimmableConv(nn.Conv2d):
    """A convolution that runs on the leading part of its channels, as CSD's does (model/slimmable_ops.py)."""

    width = 1.0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.width == 1.0:
            return super().forward(input)
        outputs = self.out_channels if self.out_channels == 3 else int(self.out_channels * self.width)
        bias = None if self.bias is None else self.bias[:outputs]
        return F.conv2d(input, self.weight[:outputs, : input.shape[1]], bias, padding=self.padding)


class FieldEDSR(nn.Module):
    """EDSR as the field writes it (EDSR-PyTorch, FAKD's models/edsr.py): three feature maps and the image."""

    def __init__(self, width: int, depth: int, scale: int) -> None:
        super().__init__()
        conv = partial(SlimmableConv, kernel_size=3, padding=1)
        self.head, self.tail, self.body_end = conv(3, width), conv(width, 3), conv(width, width)
        self.body = nn.ModuleList(
            nn.Sequential(conv(width, width), nn.ReLU(inplace=True), conv(width, width)) for _ in range(depth)
        )
        factors = {2: (2,), 3: (3,), 4: (2, 2)}[scale]
        self.up = nn.Sequential(
            *(layer for factor in factors for layer in (conv(width, factor**2 * width), nn.PixelShuffle(factor)))
        )
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.tensor([0.4488, 0.4371, 0.404]).view(1, 3, 1, 1))
        self.taps = (depth // 3, 2 * depth // 3)

    def forward(self, images: torch.Tensor, width: float = 1.0) -> tuple[list[torch.Tensor], torch.Tensor]:
        for module in self.modules():
            if isinstance(module, SlimmableConv):
                module.width = width
        x = first = self.head(255 * (images - self.mean))
        features = []
        for number, block in enumerate(self.body, start=1):
            x = x + block(x)
            if number in self.taps:
                features.append(x)
        x = self.body_end(x) + first
        return [*features, x], self.tail(self.up(x)) / 255 + self.mean


class FieldVGG(nn.Module):
    """VGG-19 up to ReLU 5_1, in five slices (CSD, loss/vgg.py), here with random weights."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for layer in VGG19_LAYERS:
            if isinstance(layer, int):
                layers += [nn.Conv2d(inputs, layer, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = layer
            else:
                layers.append(nn.MaxPool2d(2))
        starts = (0, *(tap + 1 for tap in VGG19_TAPS))
        self.slices = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in pairwise(starts))
        self.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x, levels = 255 * images, []
        for one in self.slices:
            x = one(x)
            levels.append(x)
        return levels


def affinity(features: torch.Tensor) -> torch.Tensor:
    """Return the affinities of all pairs of positions (FAKD, feature_transformation.py, spatial_similarity)."""
    flat = features.flatten(2)
    flat = flat / (flat.pow(2).sum(1, keepdim=True).sqrt() + 1e-8)
    return flat.transpose(1, 2).bmm(flat)


class FieldLoop:
    """A training loop in eager fp32, written after the method's official trainer.

    - scratch: BasicSR, models/sr_model.py: L1 and an average of the weights, parameter by parameter
    - logits: FAKD's trainer (train.py, loss.py) without features: L1 to the original and to the teacher's image
    - fakd: the same with the affinities of three feature maps
    - csd: CSD, trainer/slim_contrast_trainer.py, loss/contrast_loss.py: the student on slices of the teacher's weights,
      both trained, and the contrast through VGG-19 to ten bicubic negatives
    """

    def __init__(
        self,
        recipe: str,
        teacher: EDSRSpec,
        student: EDSRSpec,
        folder: Path,
        *,
        data: Literal["png", "memory"],
        batch: int,
        lr_patch: int,
        device: torch.device,
    ) -> None:
        def build(spec: EDSRSpec) -> FieldEDSR:
            return FieldEDSR(spec.width, spec.depth, spec.scale).to(device)

        torch.manual_seed(10)
        self.device, self.scale, self.ratio = device, student.scale, student.width / teacher.width
        self.network = build(teacher if recipe == "csd" else student).train()
        self.teacher = build(teacher).eval().requires_grad_(False) if recipe in ("logits", "fakd") else None
        self.vgg = FieldVGG().to(device) if recipe == "csd" else None
        self.average = copy.deepcopy(self.network) if recipe == "scratch" else None
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.loss = {"scratch": self._scratch, "logits": self._logits, "fakd": self._fakd, "csd": self._csd}[recipe]
        if data == "memory":
            self.batches = iter(InMemory(folder, scale=self.scale, lr_patch=lr_patch, batch=batch))
        else:
            patches = PngPatches(folder, scale=self.scale, lr_patch=lr_patch, length=10**6)
            loader = DataLoader(
                patches, batch_size=batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
            )
            self.batches = iter(loader)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            lr, hr = next(self.batches)
            self.optimiser.zero_grad()
            loss = self.loss(lr.to(self.device), hr.to(self.device))
            torch.autograd.backward(loss)
            self.optimiser.step()
            loss.item()  # for the log
            if self.average is not None:
                with torch.no_grad():
                    for mean, weight in zip(self.average.parameters(), self.network.parameters(), strict=True):
                        mean.mul_(0.999).add_(weight, alpha=0.001)

    def _scratch(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        return F.l1_loss(self.network(lr)[1], hr)

    def _logits(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        return self._distilled(lr, hr)[0]

    def _fakd(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        loss, features, teacher_features = self._distilled(lr, hr)
        for mine, theirs in zip(features, teacher_features, strict=True):
            loss = loss + 10 / 255 * F.l1_loss(affinity(mine), affinity(theirs))
        return loss

    def _distilled(
        self, lr: torch.Tensor, hr: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        assert self.teacher is not None
        features, sr = self.network(lr)
        with torch.no_grad():
            teacher_features, target = self.teacher(lr)
        return 0.5 * F.l1_loss(sr, hr) + 0.5 * F.l1_loss(sr, target), features, teacher_features

    def _csd(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        assert self.vgg is not None
        teacher, student = self.network(lr)[1], self.network(lr, self.ratio)[1]
        negatives = F.interpolate(lr[:10], scale_factor=self.scale, mode="bicubic", align_corners=False)
        positive, anchor, away = self.vgg(teacher.detach()), self.vgg(student), self.vgg(negatives)
        loss = F.l1_loss(student, hr) + F.l1_loss(teacher, hr)
        for weight, p, a, n in zip(LEVEL_WEIGHTS, positive, anchor, away, strict=True):
            far = (n[None] - a[:, None]).abs().mean((0, 2, 3, 4)).sum()
            loss = loss + 200 / 255 * weight * (a - p).abs().mean() / (far + 1e-7)
        return loss
