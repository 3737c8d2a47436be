"""The plain training loop as the field writes it, to compare with: nothing here is used by srkd itself.

Image folders read by a DataLoader of two workers with PIL, random crops and symmetries in numpy, tensors made by the
worker; eager fp32 networks in torch's default layout; `torch.optim.Adam` as it comes; an average of the weights kept
parameter by parameter (BasicSR).
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import embedded_pairs
from compressor.models.networks.base import Spec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher

SUB_IMAGE = 480
"""BasicSR trains on sub-images of this side, because whole 2K images take too long to decode."""


def write_pngs(folder: Path, *, scale: int, photos: list[Path] | None = None) -> Path:
    """HR/ and LR/ as PNG sub-images, the way data sets are prepared for this loop."""
    for name in ("HR", "LR"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for path in photos or [pair.hr for pair in embedded_pairs("train")]:
        whole = read_rgb_u8(path)
        side = min(SUB_IMAGE, *whole.shape[1:])
        for top in range(0, whole.shape[1] - side + 1, side // 2):
            for left in range(0, whole.shape[2] - side + 1, side // 2):
                hr_u8 = mod_crop(whole[:, top : top + side, left : left + side], scale)
                name = f"{path.stem}_{top}_{left}.png"
                for kind, image in (("HR", hr_u8), ("LR", downscale_u8(hr_u8, scale))):
                    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / kind / name)
    return folder


class PngPatches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Every item decodes its two files, crops, turns, and becomes two float tensors."""

    def __init__(self, folder: Path, *, scale: int, lr_patch: int, length: int) -> None:
        self.names = sorted((folder / "HR").iterdir())
        self.scale, self.lr_patch, self.length = scale, lr_patch, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        path = self.names[index % len(self.names)]
        hr = np.asarray(Image.open(path).convert("RGB"))
        lr = np.asarray(Image.open(path.parent.parent / "LR" / path.name).convert("RGB"))
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


def _tensor(image: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def field_loader(folder: Path, *, scale: int, lr_patch: int, batch: int, length: int) -> DataLoader:  # type: ignore[type-arg]
    data = PngPatches(folder, scale=scale, lr_patch=lr_patch, length=length)
    return DataLoader(data, batch_size=batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)


class FieldLoop:
    """Student, optional teacher, optimiser and average, one step after the other."""

    def __init__(
        self, spec: Spec, teacher: Teacher | None, folder: Path, *, batch: int, lr_patch: int, device: torch.device
    ) -> None:
        self.student = build(spec, seed=10).to(device).train()
        self.teacher = None if teacher is None else copy.deepcopy(teacher.require_network("outputs")).to(device).eval()
        if self.teacher is not None:
            self.teacher.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.student)
        self.optimiser = torch.optim.Adam(self.student.parameters(), lr=1e-4)
        self.device = device
        self.batches = iter(field_loader(folder, scale=spec.scale, lr_patch=lr_patch, batch=batch, length=10**6))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            lr, hr = next(self.batches)
            lr, hr = lr.to(self.device), hr.to(self.device)
            sr = self.student(lr)
            loss = F.l1_loss(sr, hr)
            if self.teacher is not None:
                with torch.no_grad():
                    target = self.teacher(lr)
                loss = loss + F.l1_loss(sr, target)
            self.optimiser.zero_grad()
            torch.autograd.backward(loss)
            self.optimiser.step()
            with torch.no_grad():
                for kept, now in zip(self.average.parameters(), self.student.parameters(), strict=True):
                    kept.mul_(0.999).add_(now, alpha=0.001)
