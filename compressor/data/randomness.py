"""Random numbers that are a pure function of (stream name, seed, step, global sample index).

No global state, and the same numbers whatever the number of processes: a rank asks for its
samples by their global index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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
def drawn(stream: str, seed: int) -> Iterator[None]:
    """Within the block torch's own generator is a function of stream and seed, for layers that initialise themselves;
    afterwards it is as it was."""
    key = hashlib.blake2b(f"{stream}:{seed}".encode(), digest_size=8).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(key, "little") >> 1)
        yield
