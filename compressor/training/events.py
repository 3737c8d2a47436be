"""Student, teacher and bicubic side by side on the same few images, by the protocol of every other number here.

What is told of a run while it goes on: metrics, progress, validation, checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from compressor.base.context import Note, Progress
from compressor.base.processes import Interrupted, Processes
from compressor.data.prepare import ValidationImage
from compressor.data.sampler import BatchHashes
from compressor.images.metrics import psnr_y, to_u8
from compressor.images.resize import upscale_bicubic
from compressor.models.networks.base import ImageModel
from compressor.training.guard import Balance, Skipped
from compressor.training.losses import Losses
from compressor.training.run_folder import RunFolder
from compressor.training.stage import Stage
from compressor.training.state import State, require_alike


@torch.no_grad()
def quantised_sr(network: ImageModel | None, lr: torch.Tensor, scale: int) -> torch.Tensor:
    """The network's output in fp32, or the bicubic upscale where no network is given; rounded to 8 bit, on the CPU."""
    sr = upscale_bicubic(lr, scale) if network is None else network(lr.to(network.device))
    return to_u8(sr.float()).cpu().float() / 255


def mean_psnr_y(
    network: ImageModel | None, images: Sequence[ValidationImage], scale: int, processes: Processes | None = None
) -> float:
    """Mean Y-PSNR in dB, border = scale; no network means bicubic. Processes share the images in turn."""
    processes = processes or Processes()
    figures = torch.zeros(len(images))
    for index in range(processes.place.rank, len(images), processes.place.world):
        image = images[index]
        figures[index] = psnr_y(quantised_sr(network, image.lr, scale), image.hr, border=scale)
    processes.total_(figures)
    return float(figures.mean())


SAVE_SECONDS = 60.0
"""The most work, in seconds, that a crash can cost beside the step in hand."""


@dataclass(frozen=True)
class Reference:
    """What the student is held against, in dB on the validation images."""

    bicubic: float
    teacher: float | None


class RunEvents:
    """Writes metrics.jsonl, log.txt and TensorBoard, validates, keeps the last state and the best student."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        stages: Sequence[Stage],
        images: Sequence[ValidationImage],
        reference: Reference,
        progress: Progress,
        announce: Note,
        processes: Processes,
        witness: BatchHashes | None = None,
    ) -> None:
        self.folder, self.stages = folder, stages
        self.ends = tuple(accumulate(stage.schedule.steps for stage in stages))
        self.steps = self.ends[-1]
        self.images, self.reference = images, reference
        self.progress, self.announce = progress, announce
        self.log_every = max(1, min(100, self.steps // 100))
        self.processes, self.saved_at = processes, time.monotonic()
        self.witness = witness
        self.balance, self.flagged = Balance(), bool(folder.flags())

    def stepped(self, done: int, rate: float, losses: Losses) -> None:
        self.progress("training", done, self.steps)
        if self._logs(done):
            numbers = losses.numbers()
            self.folder.metrics("train", done, {**numbers, "rate": rate}, self._batches_of(done))
            self._weigh(done, numbers)

    def _weigh(self, done: int, numbers: Mapping[str, float]) -> None:
        """Flag, once a run, terms that outweigh the pixel loss."""
        began = max(end for end in (0, *self.ends) if end < done)
        found = self.balance.see(done - began, numbers)
        if found is not None and not self.flagged:
            self.flagged = True
            self.folder.flag(done, found)
            self.announce(f"step {done}/{self.steps}: {found}")

    def _batches_of(self, done: int) -> dict[str, str]:
        """The hash of what was drawn since the row before, where somebody has watched."""
        since = next(step for step in range(done - 1, -1, -1) if step == 0 or self._logs(step))
        return {} if self.witness is None else self.witness.tell(since, done)

    def _logs(self, done: int) -> bool:
        return done == 1 or done % self.log_every == 0 or done == self.steps

    def skipped(self, done: int, skipped: Skipped) -> None:
        self.progress("training", done, self.steps)
        self.folder.skipped(done, skipped)
        self.announce(f"step {done}/{self.steps} skipped: {skipped.why}")

    def note(self, line: str) -> None:
        self.folder.log(line)
        self.announce(line)

    def way_on(self) -> str:
        """Resuming repeats the same steps: it helps only where the fault was outside the run."""
        best = self.folder.best
        start = f" --init-from {best}" if best.is_file() else ""
        return (
            f"{self.folder.safe()}; start anew with a lower rate (--set schedule.rate=...{start}) or, if the images "
            f"or the machine were at fault, continue with: {self.folder.continuing}"
        )

    def due(self, done: int, state: State) -> None:
        validates = done % self.stages[state.stage].validate_every == 0 or done in self.ends
        if validates:
            self.validate(done, state)
        stops = self.processes.wish.stops
        if validates or stops or time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.folder.save(state)
            self.saved_at = time.monotonic()
        if stops and done < self.steps:
            raise Interrupted(
                f"interrupted and saved at step {done} of {self.steps}; continue with: {self.folder.continuing}"
            )

    def validate(self, done: int, state: State) -> None:
        """Score the averaged student; keep it beside the last state when it is the best so far."""
        require_alike(state, self.processes)
        averaged = state.averaged()
        student = mean_psnr_y(averaged, self.images, averaged.spec.scale, self.processes)
        if state.role == "teacher":
            self.folder.metrics("validation", done, {"tuned_teacher_psnr_y": student})
            self.note(f"step {done}/{self.steps}: teacher being tuned {student:.3f} dB, {told(self.reference)}")
            return
        numbers = {"student_psnr_y": student, "bicubic_psnr_y": self.reference.bicubic}
        if self.reference.teacher is not None:
            numbers["teacher_psnr_y"] = self.reference.teacher
        self.folder.metrics("validation", done, numbers)
        line = f"step {done}/{self.steps}: student {student:.3f} dB, {told(self.reference)}"
        self.note(line)
        if student > state.best_psnr_y:
            state.best_psnr_y = student
            self.folder.keep(averaged)


def told(reference: Reference) -> str:
    teacher = "" if reference.teacher is None else f"teacher {reference.teacher:.3f} dB, "
    return f"{teacher}bicubic {reference.bicubic:.3f} dB"
