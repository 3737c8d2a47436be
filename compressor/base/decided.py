"""What a run decides before its first step: its mode, its margin, its first weights. No torch, as run.json holds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from compressor.base.choices import CompileOption, Layout, Precision, PrecisionOption

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M", bound="nn.Module")


@dataclass(frozen=True)
class SpeedOptions:
    """The choices of a preset; "auto" leaves a choice to the facts of machine and run."""

    precision: PrecisionOption = "auto"
    teacher_precision: PrecisionOption = "auto"
    """The teacher's precision; auto: the student's."""
    compile: CompileOption = "auto"

    def of_teacher(self, student: Precision) -> Precision:
        return student if self.teacher_precision == "auto" else self.teacher_precision


@dataclass(frozen=True)
class ExecutionMode:
    """The chosen mode and its reason; run.json stores its fields, so that a resumed run trains in the same mode."""

    precision: Precision
    layout: Layout
    teacher_precision: Precision = "fp32"
    compiled: bool = False
    reason: str = ""

    def lay_out(self, module: M, *, frozen: bool = False) -> M:
        """Return a module with its tensors converted in place to the mode's memory layout.

        A frozen one computes no gradients of weights: it is faster with channels last.
        """
        from compressor.base.precision import memory_format

        layout: Layout = "channels_last" if frozen else self.layout
        return module.to(memory_format=memory_format(layout))  # type: ignore[call-overload, no-any-return]

    def line(self) -> str:
        mode = f"{self.precision}, {self.layout.replace('_', ' ')}" + (", compiled" if self.compiled else "")
        return f"training in {mode}" + (f": {self.reason}" if self.reason else "")


PLAIN_MODE = ExecutionMode("fp32", "channels_last")


def plain_mode(options: SpeedOptions) -> ExecutionMode:
    """Return the mode independently of a machine: open options become fp32 and not compiled."""
    precision: Precision = "bf16" if options.precision == "bf16" else "fp32"
    return ExecutionMode(precision, PLAIN_MODE.layout, options.of_teacher(precision), options.compile == "on")


@dataclass(frozen=True)
class LabelMargin:
    """The margin of a run: `pixels` on each side of a patch, where its image has them, in windows of `side` pixels."""

    pixels: int
    side: int
    psnr_alone: float | None = None
    """PSNR in dB of labels of patches alone to whole images; None: not measured."""
    psnr: float | None = None
    """The same with the margin."""

    def line(self, lr_patch: int) -> str:
        """The margin, its reason and its price as one line."""
        if not self.pixels:
            return f"labels: {self.psnr:.1f} dB from the teacher's whole images"
        reason = ""
        if self.psnr is not None:
            reason = f"{self.psnr:.1f} dB from the teacher's whole images in place of {self.psnr_alone:.1f}, by "
        return (
            f"labels: {reason}a margin of {self.pixels} LR pixels that the teacher sees around each patch; it runs on "
            f"{self.side**2 / lr_patch**2:.1f} times as many pixels a step"
        )


@dataclass(frozen=True)
class InitReport:
    """The report on an initialisation, with the student's parameters by name."""

    path: Path
    sha256: str
    architecture: str
    scale: int
    copied: tuple[str, ...]
    missing: tuple[str, ...]
    """Parameters that are not in the file."""
    misshaped: tuple[str, ...]
    """Parameters that have another shape in the file."""
    unused: tuple[str, ...]
    """Parameters of the file that the student does not have."""
    differences: tuple[str, ...] = ()
    """Lines about spec fields that differ although the weights depend on them."""
    licence: str | None = None

    def lines(self) -> tuple[str, ...]:
        """Return lines for the user: what was copied, and what was not."""
        total = len(self.copied) + len(self.missing) + len(self.misshaped)
        lines = [
            f"init-from {self.path} ({self.architecture} x{self.scale}): took {len(self.copied)} of {total} tensors"
        ]
        for what, names in (("not in it", self.missing), ("of another shape", self.misshaped), ("unused", self.unused)):
            if names:
                more = f", … ({len(names)} in all)" if len(names) > 4 else ""
                lines.append(f"init-from: {what}: {', '.join(names[:4])}{more}")
        lines.extend(f"init-from: {difference}" for difference in self.differences)
        return tuple(lines)
