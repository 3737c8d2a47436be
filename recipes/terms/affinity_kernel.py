"""FAKD's affinity distance and its gradient as one kernel for NVIDIA GPUs (fakd.py has the formula and the plain form).

A program handles one sample and a block of positions i. It iterates over blocks of positions j, computes the block
D = SᵀS - TᵀT (j,i) from the columns, sums up |D|, and adds S_j·sign(D_ji) to the gradient of its own positions. Blocks
of D are kept in registers: global memory grows with N, not with N².

    sums_i = Σ over the block's i of Σ_j |D_ji|      gradient_i = 2/N² · Σ_j S_j·sign(D_ji),   sign(D_ii) = 0

Every program writes to its own memory, and the order of its sums is fixed: equal inputs give equal bits. For the same
reason the block sizes, which set the order of the sums, are not chosen by timing (as triton.autotune does). A program
keeps the gradient of `GRADIENT_CHANNELS` channels in registers; wider students get one program per group of channels,
which computes D again. Computing only a symmetric half of D, as the plain form does, would need a second output place.

`PRECISION` is the precision of the products. "tf32", triton's default, rounds the columns to 11 bits: entries of D are
then off by up to 5e-4 and one sign in 2,000 is wrong (random columns, compared with fp64), and more if the student is
close to the teacher. "ieee" multiplies and adds in fp32, as torch's own products do by default. "tf32x3", three
tensor-core products, is as accurate in theory and should be faster; `python -m benchmarks affinity_kernel` measures
both.

This module can only be imported with triton: fakd.py imports it for the first tensor on such a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

PRECISION = "ieee"
POSITIONS = 64
"""Number of positions i per program."""
OTHERS = 32
"""Number of positions j per iteration."""
CHANNELS = 16
"""Number of channels per partial product."""
GRADIENT_CHANNELS = 128
"""The most channels whose gradient one program keeps."""
LAUNCH: Mapping[str, Any] = {"num_warps": 8, "num_stages": 2, "enable_fp_fusion": True}
"""Launch options: a program fits into registers, but for 24 bytes at most, from capability 8.0 to 12.0 (ptxas -v)."""


@triton.jit
def column_products(
    columns: tl.tensor,
    channel_stride: tl.tensor,
    position_stride: tl.tensor,
    channels: tl.tensor,
    positions: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    chunk: tl.constexpr,
    precision: tl.constexpr,
) -> tl.tensor:
    """Return the products of the columns at `first` with those at `second`; zero outside the map."""
    products = tl.zeros([first.shape[0], second.shape[0]], tl.float32)
    for start in range(0, channels, chunk):
        channel = start + tl.arange(0, chunk)
        left = tl.load(
            columns + first[:, None] * position_stride + channel[None, :] * channel_stride,
            mask=(first[:, None] < positions) & (channel[None, :] < channels),
            other=0.0,
        )
        right = tl.load(
            columns + channel[:, None] * channel_stride + second[None, :] * position_stride,
            mask=(channel[:, None] < channels) & (second[None, :] < positions),
            other=0.0,
        )
        products = tl.dot(left, right, products, input_precision=precision)
    return products


@triton.jit
def affinity_kernel(
    student: tl.tensor,
    teacher: tl.tensor,
    sums: tl.tensor,
    gradient: tl.tensor,
    positions: tl.tensor,
    student_channels: tl.tensor,
    teacher_channels: tl.tensor,
    student_sample_stride: tl.tensor,
    student_channel_stride: tl.tensor,
    student_position_stride: tl.tensor,
    teacher_sample_stride: tl.tensor,
    teacher_channel_stride: tl.tensor,
    teacher_position_stride: tl.tensor,
    gradient_sample_stride: tl.tensor,
    gradient_channel_stride: tl.tensor,
    gradient_position_stride: tl.tensor,
    gradient_factor: tl.tensor,
    with_gradient: tl.constexpr,
    own_channels: tl.constexpr,
    own_positions: tl.constexpr,
    others: tl.constexpr,
    chunk: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    block, group = tl.program_id(0), tl.program_id(2)
    # Offsets of whole samples may exceed 32 bits, unlike those within a sample.
    sample = tl.program_id(1).to(tl.int64)
    student += sample * student_sample_stride
    teacher += sample * teacher_sample_stride
    here = block * own_positions + tl.arange(0, own_positions)
    own = group * own_channels + tl.arange(0, own_channels)
    total = tl.zeros([own_positions], tl.float32)
    own_gradient = tl.zeros([own_channels, own_positions], tl.float32)
    for start in range(0, positions, others):
        there = start + tl.arange(0, others)
        # Two products instead of one of both networks' channels: equal features then differ by exactly zero.
        difference = column_products(
            student,
            student_channel_stride,
            student_position_stride,
            student_channels,
            positions,
            there,
            here,
            chunk,
            precision,
        ) - column_products(
            teacher,
            teacher_channel_stride,
            teacher_position_stride,
            teacher_channels,
            positions,
            there,
            here,
            chunk,
            precision,
        )
        total += tl.sum(tl.abs(difference), 0)
        if with_gradient:
            # The last value is 0, or NaN if the difference is.
            signs = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, difference))
            signs = tl.where(there[:, None] == here[None, :], 0.0, signs)
            columns = tl.load(
                student + own[:, None] * student_channel_stride + there[None, :] * student_position_stride,
                mask=(own[:, None] < student_channels) & (there[None, :] < positions),
                other=0.0,
            )
            own_gradient = tl.dot(columns, signs, own_gradient, input_precision=precision)
    if group == 0:
        tl.store(sums + sample * tl.num_programs(0) + block, tl.sum(total, 0))
    if with_gradient:
        gradient += sample * gradient_sample_stride
        tl.store(
            gradient + own[:, None] * gradient_channel_stride + here[None, :] * gradient_position_stride,
            own_gradient * gradient_factor,
            mask=(own[:, None] < student_channels) & (here[None, :] < positions),
        )


def sizes_for(student_channels: int, *, with_gradient: bool) -> dict[str, Any]:
    """Return the compile-time constants of the kernel."""
    widest = min(GRADIENT_CHANNELS, max(16, triton.next_power_of_2(student_channels)))
    return {
        "with_gradient": with_gradient,
        "own_channels": widest if with_gradient else 16,
        "own_positions": POSITIONS,
        "others": OTHERS,
        "chunk": CHANNELS,
    }


def distances_by_kernel(
    student: torch.Tensor, teacher: torch.Tensor, with_gradient: bool, *, precision: str = PRECISION
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return d of each sample, (B,), for unit columns (B,C,N) in fp32, and on request the student's gradient."""
    samples, channels, positions = student.shape
    sizes = sizes_for(channels, with_gradient=with_gradient)
    blocks = triton.cdiv(positions, POSITIONS)
    groups = triton.cdiv(channels, sizes["own_channels"]) if with_gradient else 1
    sums = student.new_empty(samples, blocks)
    gradient = torch.empty_like(student) if with_gradient else student
    launcher: Any = affinity_kernel  # the function as compiled by triton.jit
    # A kernel starts on the current GPU, which may be a different one.
    with torch.cuda.device_of(student):  # type: ignore[no-untyped-call]
        launcher[(blocks, samples, groups)](
            student,
            teacher,
            sums,
            gradient,
            positions,
            channels,
            teacher.shape[1],
            *student.stride(),
            *teacher.stride(),
            *gradient.stride(),
            2 / positions**2,
            **sizes,
            precision=precision,
            **LAUNCH,
        )
    return sums.sum(1) / positions**2, gradient if with_gradient else None
