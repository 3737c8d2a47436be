"""Training loops as they are common in the field, for comparison: srkd itself does not use them.

Image folders read by a DataLoader of two workers with PIL, random crops and symmetries in numpy, tensors made by the
worker, or the same crops of images in memory; eager fp32 networks in torch's default layout; `torch.optim.Adam` as it
comes. Written after the official trainers that `FieldLoop` names; weights are random, as time does not depend on them.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

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
from recipes.terms.perceptual import LEVEL_WEIGHTS, VGG19_BLOCKS, VGG19_TAPS

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


class Pass(NamedTuple):
    """What a network computed: its first feature, those of three blocks, the one before the upsampler, the image."""

    first: torch.Tensor
    blocks: list[torch.Tensor]
    deep: torch.Tensor
    sr: torch.Tensor

    @property
    def features(self) -> list[torch.Tensor]:
        return [*self.blocks[:-1], self.deep]


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

    def forward(self, images: torch.Tensor, width: float = 1.0) -> Pass:
        for module in self.modules():
            if isinstance(module, SlimmableConv):
                module.width = width
        x = first = self.head(255 * (images - self.mean))
        blocks = []
        for number, block in enumerate(self.body, start=1):
            x = x + block(x)
            if number in self.taps:
                blocks.append(x)
        deep = self.body_end(x) + first
        return Pass(first, [*blocks, x], deep, self.image(deep))

    def images(self, run: Pass) -> list[torch.Tensor]:
        """The images that the tail makes of each block, and the last one."""
        return [*(self.image(self.body_end(block) + run.first) for block in run.blocks), run.sr]

    def image(self, deep: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = self.tail(self.up(deep)) / 255 + self.mean
        return image


class FieldHead(nn.Module):
    """An auxiliary head of 5 residual blocks of 64 channels on a feature (CLSD, rows DS)."""

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        self.enter, self.enter_first = nn.Conv2d(width, 64, 1), nn.Conv2d(width, 64, 1)
        self.body = FieldEDSR(64, 5, scale)

    def forward(self, feature: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        x = self.enter(feature)
        for block in self.body.body:
            x = x + block(x)
        return self.body.image(self.body.body_end(x) + self.enter_first(first))


class FieldVGG(nn.Module):
    """VGG-19 up to ReLU 5_1, in five slices (CSD, loss/vgg.py), here with random weights."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for count, channels in VGG19_BLOCKS:
            for _ in range(count):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = channels
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


THROUGH_VGG = ("csd", "clsd", "dckd")
"""Recipes that compute features of images in HR size."""
Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def changed(image: torch.Tensor, inverted: bool, rows: bool, columns: bool, transposed: bool) -> torch.Tensor:
    """Invert, flip and transpose an image (DUKD, models/dukd_model.py, noising)."""
    image = 1 - image if inverted else image
    image = image.flip(-2) if rows else image
    image = image.flip(-1) if columns else image
    return image.transpose(-2, -1) if transposed else image


def changed_back(image: torch.Tensor, inverted: bool, rows: bool, columns: bool, transposed: bool) -> torch.Tensor:
    image = image.transpose(-2, -1) if transposed else image
    return changed(image, inverted, rows, columns, False)


def high_bands(images: torch.Tensor) -> list[torch.Tensor]:
    """The three high bands of Haar's transform, channel by channel (pytorch_wavelets, DWTForward)."""
    signs = [[[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
    filters = torch.tensor(signs, dtype=images.dtype, device=images.device)[:, None] / 2
    bands = F.conv2d(images.flatten(0, 1)[:, None], filters, stride=2)
    return [band.reshape(*images.shape[:2], *band.shape[1:]) for band in bands.unbind(1)]


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
    - dukd: DUKD, models/dukd_model.py: zoom-in and zoom-out as passes of their own, operations sample by sample
    - dckd: DCKD, basicsr/models/dckd_model.py, with VGG-19 in place of its VQGAN
    - hkdsr: HKDSR, sr_l1_model.py, its second stage: high bands by a convolution with Haar's filters
    - ds, clsd, lfd, facd: no code was published. The formulas of docs/methods, in the same style
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
        self.teacher = build(teacher).eval().requires_grad_(False)
        self.vgg = FieldVGG().to(device) if recipe in THROUGH_VGG else None
        parts: dict[str, Callable[[], Sequence[nn.Module]]] = {
            **dict.fromkeys(("ds", "clsd"), lambda: [FieldHead(student.width, student.scale) for _ in range(2)]),
            **dict.fromkeys(("lfd", "facd"), lambda: [nn.Conv2d(student.width, teacher.width, 1) for _ in range(3)]),
            "hkdsr": lambda: [nn.Sequential(nn.Conv2d(6, 96, 1), nn.ReLU(), nn.Conv2d(96, 2, 1)) for _ in range(4)],
        }
        self.parts = nn.ModuleList(parts[recipe]() if recipe in parts else ()).to(device)
        self.history = copy.deepcopy(self.network).requires_grad_(False) if recipe == "dckd" else None
        self.average = copy.deepcopy(self.network) if recipe == "scratch" else None
        self.optimiser = torch.optim.Adam([*self.network.parameters(), *self.parts.parameters()], lr=1e-4)
        self.loss: Loss = getattr(self, f"_{recipe}")
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

    def _taught(self, lr: torch.Tensor) -> tuple[Pass, Pass]:
        student: Pass = self.network(lr)
        with torch.no_grad():
            return student, self.teacher(lr)

    def _scratch(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        return F.l1_loss(self.network(lr).sr, hr)

    def _logits(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        student, teacher = self._taught(lr)
        return 0.5 * F.l1_loss(student.sr, hr) + 0.5 * F.l1_loss(student.sr, teacher.sr)

    def _fakd(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        student, teacher = self._taught(lr)
        loss = 0.5 * F.l1_loss(student.sr, hr) + 0.5 * F.l1_loss(student.sr, teacher.sr)
        for mine, theirs in zip(student.features, teacher.features, strict=True):
            loss = loss + 10 / 255 * F.l1_loss(affinity(mine), affinity(theirs))
        return loss

    def _csd(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        teacher, student = self.network(lr).sr, self.network(lr, self.ratio).sr
        loss = F.l1_loss(student, hr) + F.l1_loss(teacher, hr)
        return loss + 200 / 255 * self._contrast(student, teacher.detach(), self._bicubic(lr[:10]))

    def _bicubic(self, lr: torch.Tensor) -> torch.Tensor:
        return F.interpolate(lr, scale_factor=self.scale, mode="bicubic", align_corners=False)

    def _contrast(
        self, anchor: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor, *, own: bool = False
    ) -> torch.Tensor:
        """CSD's ratio; `own`: the negatives are some of each sample, batch by batch."""
        assert self.vgg is not None
        ratio, batch = anchor.new_zeros(()), len(anchor)
        levels = zip(LEVEL_WEIGHTS, self.vgg(positive), self.vgg(anchor), self.vgg(negatives), strict=True)
        for weight, p, a, n in levels:
            pairs = n.reshape(-1, batch, *n.shape[1:]) - a if own else n[:, None] - a
            ratio = ratio + weight * (a - p).abs().mean() / (pairs.abs().mean((1, 2, 3, 4)).sum() + 1e-7)
        return ratio

    def _dukd(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        student, teacher = self._taught(lr)
        loss = 5 * F.l1_loss(student.sr, hr) + F.l1_loss(student.sr, teacher.sr)
        side, room = lr.shape[-1], hr.shape[-1] - lr.shape[-1]
        corners = [(random.randint(0, room), random.randint(0, room)) for _ in hr]
        crops = [image[:, y : y + side, x : x + side] for image, (y, x) in zip(hr, corners, strict=True)]
        smaller = F.interpolate(lr, scale_factor=1 / self.scale, mode="bicubic", antialias=True)
        for images in (torch.stack(crops), smaller):
            drawn = [[random.random() < 0.3 for _ in range(4)] for _ in images]
            sr = self.network(torch.stack([changed(one, *of) for one, of in zip(images, drawn, strict=True)])).sr
            with torch.no_grad():
                target = self.teacher(images).sr
            restored = [changed_back(one, *of) for one, of in zip(sr, drawn, strict=True)]
            loss = loss + F.l1_loss(torch.stack(restored), target)
        return loss

    def _dckd(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        assert self.history is not None
        student, teacher = self._taught(lr)
        drawn = [[random.random() < 0.5 for _ in range(4)] for _ in lr]
        with torch.no_grad():
            images = self.teacher(torch.stack([changed(one, *of) for one, of in zip(lr, drawn, strict=True)])).sr
            label = torch.stack([changed_back(one, *of) for one, of in zip(images, drawn, strict=True)])
            noisy = []
            for _ in range(4):
                sigma = torch.empty(len(lr), 1, 1, 1, device=lr.device).uniform_(1 / 255, 30 / 255)
                noisy.append((lr + sigma * torch.randn_like(lr)).clamp(0, 1))
            negatives = torch.cat([self.history(one).sr for one in (lr, *noisy)])
        loss = F.l1_loss(student.sr, hr) + F.l1_loss(student.sr, teacher.sr) + F.l1_loss(student.sr, label)
        return loss + 0.1 * self._contrast(student.sr, teacher.sr, negatives, own=True)

    def _hkdsr(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        student, teacher = self._taught(lr)
        with torch.no_grad():
            targets = self.teacher.images(teacher)
        loss = F.l1_loss(student.sr, hr)
        for gate, image, target in zip(self.parts, self.network.images(student), targets, strict=True):
            share = torch.softmax(torch.sigmoid(gate(torch.cat((hr, target), 1).mean((2, 3), keepdim=True))), 1)
            for mine, theirs in zip(high_bands(image), high_bands(target), strict=True):
                loss = loss + 0.0625 * F.l1_loss(mine, theirs)
            loss = loss + 0.2 * F.l1_loss(image, share[:, :1] * hr + share[:, 1:] * target)
        return loss

    def _ds(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        return self._supervised(lr, hr)[0]

    def _supervised(self, lr: torch.Tensor, hr: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        student = self.network(lr)
        images = [head(block, student.first) for head, block in zip(self.parts, student.blocks[:-1], strict=True)]
        loss = F.l1_loss(student.sr, hr)
        for image in images:
            loss = loss + F.l1_loss(image, hr)
        return loss, images

    def _clsd(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        loss, images = self._supervised(lr, hr)
        for image in images:
            loss = loss + 0.1 * self._contrast(image, hr, self._bicubic(lr[:10]))
        return loss

    def _regressed(self, student: Pass, teacher: Pass) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (part(mine), theirs)
            for part, mine, theirs in zip(self.parts, student.features, teacher.features, strict=True)
        ]

    def _lfd(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        student, teacher = self._taught(lr)
        loss = F.l1_loss(student.sr, hr)
        for mine, theirs in self._regressed(student, teacher):
            error = (mine - theirs).abs()
            by_position = error.detach().mean(1, keepdim=True)
            attention = by_position / (by_position.mean((2, 3), keepdim=True) + 1e-8)
            loss = loss + 0.003 * (attention * error).mean() / (theirs.abs().mean() + 1e-8)
        return loss

    def _facd(self, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        student, teacher = self._taught(lr)
        better = ((student.sr - hr).abs().mean((1, 2, 3)) > (teacher.sr - hr).abs().mean((1, 2, 3))).float()
        contrast = torch.zeros_like(better)
        for mine, theirs in self._regressed(student, teacher):
            distances = torch.stack([(mine - one).abs().mean((1, 2, 3)) for one in theirs], 1)
            own = distances.diagonal()
            contrast = contrast + own / (distances.sum(1) - own + 1e-7) / len(self.parts)
        image = (student.sr - teacher.sr).abs().mean((1, 2, 3))
        return F.l1_loss(student.sr, hr) + (better * (image + 0.06 * contrast)).mean()
