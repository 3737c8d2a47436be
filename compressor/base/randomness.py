"""Random numbers that are a pure function of (stream name, seed, step, global sample index).

There is no global state, and the numbers do not depend on the number of processes: a rank draws those of its samples by
their global index. Crop positions are drawn on the CPU, so nothing waits for a device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch


def uniforms(stream: str, seed: int, step: int, samples: Sequence[int], count: int) -> npt.NDArray[np.float64]:
    """Return `count` numbers in [0,1) per sample, (len(samples), count): Philox, one counter block per sample."""
    philox = np.random.Philox(key=_key(stream, seed))
    generator, state = np.random.Generator(philox), philox.state
    counter = state["state"]["counter"]
    numbers = np.empty((len(samples), count))
    for row, sample in zip(numbers, samples, strict=True):
        counter[:] = 0, sample, step, 0
        # Setting the state takes a quarter of the time of creating a generator.
        philox.state = state
        generator.random(out=row)
    return numbers


def generator_of(stream: str, seed: int, step: int, sample: int) -> np.random.Generator:
    """Return the generator of one sample, for numbers of which there are many or an unknown count."""
    return np.random.Generator(np.random.Philox(key=_key(stream, seed), counter=(0, sample, step, 0)))


def _key(stream: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{stream}:{seed}".encode(), digest_size=16).digest(), "little")


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator within the block, for layers that initialise themselves, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def torch_stream(stream: str, seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block by stream and seed, and restore it afterwards."""
    key = hashlib.blake2b(f"{stream}:{seed}".encode(), digest_size=8).digest()
    with torch_seed(int.from_bytes(key, "little") >> 1):
        yield


def next_torch_seed() -> int:
    """Draw a seed from torch's generator, for each of several modules that are built under one `torch_seed`."""
    return int(torch.randint(2**62, (), device="cpu").item())


def random_positions(
    stream: str, seed: int, step: int, samples: Sequence[int], largest: tuple[int, int], *, draws: int = 1
) -> list[list[tuple[int, int]]]:
    """Return `draws` lists of one (top, left) per sample, uniform from (0, 0) to `largest`, inclusive."""
    numbers = uniforms(stream, seed, step, samples, 2 * draws)
    return [
        [(int(row[2 * draw] * (largest[0] + 1)), int(row[2 * draw + 1] * (largest[1] + 1))) for row in numbers]
        for draw in range(draws)
    ]


def crop_each(images: torch.Tensor, corners: Iterable[tuple[int, int]], height: int, width: int) -> torch.Tensor:
    """Return (B,C,height,width): each sample cropped at its own (top, left)."""
    return torch.stack(
        [image[:, top : top + height, left : left + width] for image, (top, left) in zip(images, corners, strict=True)]
    )
