"""The guard of adversarial training: it compares fixed crops with the teacher's before artefacts can show.

    spectrum   10·log10((P_S,k + ε)/(P_T,k + ε)) over rings: their mean, and the largest above half Nyquist
    colour     the largest |mean(S - T)| of a channel over all crops, and over blocks of 8 LR pixels
    distance   PSNR(S, T)
    flat       deviation within the flattest 5 % of the teacher's blocks of 8×8, over the teacher's
    opponent   its accuracy on the crops, which it never learns from

Most bounds are relative to the start. One breach halves the adversarial weight, and for a tenth of the stage no other
counts; after the third the student goes back to the last one without a breach, and adversarial training ends. [choice]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

from compressor.images.looks import power_ratios, ring_powers
from compressor.models.networks.base import Network
from compressor.training.method import AfterAverage
from recipes.terms.discriminator import accuracy
from recipes.terms.texture import BLOCK_SIDE, deviations

Judge: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""The opponent's logits of images."""

CROPS, FEWEST = 64, 16
"""The crops, and the fewest with which a short stage begins; all patches of the steps that give them are kept. Of 16
crops the distance differs by 0.5 dB from that of 16 others.
"""
BATCH = 16
LEVEL = 1 / 255
MOST_MEAN_DB, MOST_RING_DB = 1.0, 3.0
MOST_COLOUR, MOST_BLOCK_COLOUR = 0.5 * LEVEL, LEVEL
MOST_LOSS_DB = 1.0
MOST_FLAT = 1.2
FLATTEST = 0.05
FLOOR = 0.5 * LEVEL
"""The smallest deviation that counts: half a level, as images are rounded."""
STRONG = 0.98
STRONG_SHARE = 0.25
REST_SHARE = 0.1
"""Part of the stage after a breach in which no other one counts."""
BREACHES = 3
SAVED = ("lr", "target", "start", "now", "scale", "breaches", "breached_at", "strong_since")


@dataclass(frozen=True)
class Looks:
    """What the guard measures on its crops."""

    spectrum_db: float
    ring_db: float
    colour: float
    block_colour: float
    psnr: float
    flat: float
    opponent: float

    def breach(self, start: Looks) -> str | None:
        """Return the first bound that is broken, in words."""
        if self.spectrum_db > MOST_MEAN_DB or self.ring_db > MOST_RING_DB:
            return (
                f"the student's spectrum is {self.spectrum_db:+.2f} dB from the teacher's on average and "
                f"{self.ring_db:+.2f} dB at one frequency (at most {MOST_MEAN_DB:+g} and {MOST_RING_DB:+g})"
            )
        for name, now, first, more in (
            ("colour", self.colour, start.colour, MOST_COLOUR),
            ("colour of blocks", self.block_colour, start.block_colour, MOST_BLOCK_COLOUR),
        ):
            if now > first + more:
                return (
                    f"the {name} is {255 * now:.2f} grey levels from the teacher's, {255 * first:.2f} at the start "
                    f"(at most {255 * more:g} more)"
                )
        if self.psnr < start.psnr - MOST_LOSS_DB:
            return f"{self.psnr:.2f} dB to the teacher, {start.psnr:.2f} at the start (at most {MOST_LOSS_DB:g} less)"
        if self.flat > MOST_FLAT * max(1.0, start.flat):
            return (
                f"flat areas vary {self.flat:.2f} times as much as the teacher's, {start.flat:.2f} at the start "
                f"(at most {MOST_FLAT:g} times)"
            )
        return None


class LooksGuard(nn.Module):
    """The crops, the values at the start, and what the guard has decided; all of it is saved with the run."""

    def __init__(self, student: Network) -> None:
        super().__init__()
        self.good = copy.deepcopy(student).requires_grad_(False).eval()
        """The last averaged student without a breach."""
        self.lr, self.target = torch.empty(0), torch.empty(0)
        self.start: Looks | None = None
        self.now: Looks | None = None
        self.scale = 1.0
        """Factor of the adversarial weight; 0: adversarial training has ended."""
        self.breaches, self.breached_at, self.strong_since = 0, -1, -1

    def collects(self, *, is_early: bool) -> bool:
        """Return True while crops are missing: `CROPS`, or if it isn't early any more `FEWEST`."""
        return len(self.lr) < (CROPS if is_early else FEWEST)

    def collect(self, lr: torch.Tensor, target: torch.Tensor) -> None:
        """Keep these patches and the teacher's images of them."""
        self.lr = torch.cat([self.lr.to(lr.device), lr.detach()]) if len(self.lr) else lr.detach().clone()
        self.target = torch.cat([self.target.to(lr.device), target]) if len(self.target) else target.clone()

    def check(self, averaged: Network, opponent: Judge, done: int, steps: int) -> AfterAverage:
        """Measure the averaged student after `done` of the stage's `steps`, and act on a breach."""
        self.now = self.measure(averaged, opponent)
        if self.start is None:
            self.start = self.now
        why = self.now.breach(self.start) or self._too_strong(done, steps)
        if why is None:
            self.good.load_state_dict(averaged.state_dict())
            return AfterAverage()
        if self.breached_at >= 0 and done - self.breached_at < REST_SHARE * steps:
            return AfterAverage()
        self.breaches, self.breached_at = self.breaches + 1, done
        if self.breaches < BREACHES:
            self.scale /= 2
            return AfterAverage((f"{why}: the adversarial weight is halved to {self.scale:g} of the recipe's",))
        self.scale = 0.0
        message = f"{why}, the third time: back to the last student without this, and adversarial training ends"
        return AfterAverage((message,), self.good)

    def _too_strong(self, done: int, steps: int) -> str | None:
        assert self.now is not None
        if self.now.opponent <= STRONG:
            self.strong_since = -1
            return None
        if self.strong_since < 0:
            self.strong_since = done
        if done - self.strong_since < STRONG_SHARE * steps:
            return None
        self.strong_since = done
        return f"the discriminator tells {self.now.opponent:.1%} of the pixels of held-apart patches apart"

    @torch.no_grad()
    def measure(self, averaged: Network, opponent: Judge) -> Looks:
        """Return what the averaged student makes of the crops, beside the teacher's images of them."""
        device = next(averaged.parameters()).device
        target = self.target.to(device)
        images = torch.cat([averaged(lr.to(device)).float() for lr in torch.split(self.lr, BATCH)]).clamp(0, 1)
        logits = [
            torch.cat([opponent(part) for part in torch.split(side, BATCH)])
            for side in (target, (255 * images).round() / 255)
        ]
        error = images - target
        blocks = min(BLOCK_SIDE * averaged.descriptor.scale, *error.shape[-2:])
        powers = (ring_powers(255 * side) for side in (images, target))
        student, teacher = (power.mean(0) for power in powers)
        rings = power_ratios(student, teacher)
        student_flat, teacher_flat = (deviations(side, BLOCK_SIDE).flatten() for side in (images, target))
        flattest = teacher_flat <= teacher_flat.quantile(FLATTEST)
        return Looks(
            spectrum_db=float(rings.mean()),
            ring_db=float(rings[len(rings) // 2 :].max()),
            colour=float(error.mean((0, -2, -1)).abs().max()),
            block_colour=float(F.avg_pool2d(error, blocks).abs().mean()),
            psnr=float(-10 * torch.log10(error.square().mean().clamp_min(1e-10))),
            flat=float(student_flat[flattest].mean().clamp_min(FLOOR) / teacher_flat[flattest].mean().clamp_min(FLOOR)),
            opponent=float(accuracy(*logits)),
        )

    def get_extra_state(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in SAVED}
        return {name: asdict(value) if isinstance(value, Looks) else value for name, value in values.items()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        for name in SAVED:
            value = state[name]
            setattr(self, name, Looks(**value) if isinstance(value, dict) else value)

    def numbers(self) -> dict[str, float]:
        """Return what was measured last, by name, for the log."""
        return {} if self.now is None else {field.name: getattr(self.now, field.name) for field in fields(Looks)}
