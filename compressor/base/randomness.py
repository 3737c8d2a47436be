"""Random numbers that are a pure function of (stream name, seed, step, global sample index).

No global state, and the same numbers whatever the number of processes: a rank asks for its
samples by their global index.

A crop of each sample at its own place; places are drawn on the CPU, so nothing waits for a device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch


def uniforms(stream: str, seed: int, step: int, samples: Sequence[int], count: int) -> npt.NDArray[np.float64]:
    """`count` numbers in [0,1) for each sample, shape (len(samples), count). Philox, one counter block a sample."""
    key = int.from_bytes(hashlib.blake2b(f"{stream}:{seed}".encode(), digest_size=16).digest(), "little")
    source = np.random.Philox(key=key)
    generator, state = np.random.Generator(source), source.state
    counter = state["state"]["counter"]
    numbers = np.empty((len(samples), count))
    for row, sample in zip(numbers, samples, strict=True):
        counter[:] = 0, sample, step, 0
        # A state set is a quarter of the time of a generator made.
        source.state = state
        generator.random(out=row)
    return numbers


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block, for layers that initialise themselves, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def drawn(stream: str, seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block by stream and seed, and restore it afterwards."""
    key = hashlib.blake2b(f"{stream}:{seed}".encode(), digest_size=8).digest()
    with torch_seed(int.from_bytes(key, "little") >> 1):
        yield


def next_torch_seed() -> int:
    """Draw a seed from torch's generator: for each of several modules that are built under one `torch_seed`."""
    return int(torch.randint(2**62, (), device="cpu").item())


def places(
    stream: str, seed: int, step: int, samples: Sequence[int], room: tuple[int, int], *, draws: int = 1
) -> list[list[tuple[int, int]]]:
    """For each of `draws`, one place (top, left) a sample, uniform over 0…room in both directions."""
    drawn = uniforms(stream, seed, step, samples, 2 * draws)
    return [
        [
            (int(row[2 * draw] * (room[0] + 1)), int(row[2 * draw + 1] * (room[1] + 1)))
            for row in drawn
        ]
        for draw in range(draws)
    ]  # fmt: skip


def crop_each(images: torch.Tensor, where: Iterable[tuple[int, int]], height: int, width: int) -> torch.Tensor:
    """(B,C,height,width): sample b from its (top, left) on."""
    cut = [image[:, top : top + height, left : left + width] for image, (top, left) in zip(images, where, strict=True)]
    return torch.stack(cut)
