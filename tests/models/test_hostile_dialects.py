"""Every dialect of every network, randomly damaged: a network that runs, or one line that names the file."""

from __future__ import annotations

import io
import random
import time
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.convert import state_in_dialect
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import NETWORKS, architecture, build
from compressor.models.networks.rrdbnet import RRDBNetSpec
from compressor.models.networks.span import SPANSpec
from compressor.models.networks.spanf3 import SPANF3Spec
from compressor.models.networks.swinir import SwinIRSpec
from tests.support.hostile_checkpoints import damaged, damaged_pickle

State = dict[str, torch.Tensor]
SPECS: tuple[Spec, ...] = (
    EDSRSpec(2, 4, 3),
    RCANSpec(2, 4, 2, 2, 2),
    CARNSpec(3, 4),
    CARNMSpec(2, 4, groups=2),
    SwinIRSpec(2, 4, (2, 1), (2, 2), window=2, features=4),
    SwinIRSpec(2, 4, (2,), (2,), window=2, upsampler="pixelshuffledirect"),
    CompactSpec(4, 4, 2),
    SPANSpec(2, 4, 1),
    SPANF3Spec(2, 4, 1),
    RRDBNetSpec(2, 4, 1, growth=2),
)
WRAPPERS = ("params", "params_ema", "state_dict", "model", "net_g", "no_note of", "")
PREFIXES = ("module.", "model.", "net_g.", "model.net.", "ema_model.", "a.", "")


def dialects() -> dict[str, State]:
    """Return one valid state dict in every dialect's names."""
    states: dict[str, State] = {}
    for spec in SPECS:
        network = build(spec, seed=0)
        for dialect in architecture(spec.arch).dialects:
            name = f"{spec.arch} {dialect.name} {getattr(spec, 'upsampler', '')}"
            states[name] = state_in_dialect(network, dialect)[0]
    return states


def mutated(state: State, rng: random.Random) -> State:
    """Return a state dict with one to three random changes of names, shapes, types and values."""
    state = dict(state)
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(list(state))
        tensor, kind = state[name], rng.randrange(14)
        if kind == 0 and len(state) > 1:
            del state[name]
        elif kind == 1:
            state[
                name.replace(rng.choice(("0", "1", "2", ".", "body", "weight")), rng.choice(("9", "", "é", "17")))
            ] = state.pop(name)
        elif kind == 2:
            state[name] = tensor.reshape(-1)
        elif kind == 3:
            state[name] = tensor[: len(tensor) // 2] if tensor.dim() else tensor
        elif kind == 4:
            state[name] = tensor.unsqueeze(0)
        elif kind == 5:
            state[name] = tensor.to(rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)))
        elif kind == 6:
            state[name] = torch.full_like(tensor, rng.choice((float("nan"), float("inf"), 1e30)), dtype=torch.float32)
        elif kind == 7:
            other = rng.choice(list(state))
            state[name], state[other] = state[other], state[name]
        elif kind == 8:
            state[name] = torch.zeros(())
        elif kind == 9:
            state[name] = tensor.expand(rng.choice((2, 1000)), *tensor.shape)
        elif kind == 10:
            state[f"{name}.{rng.choice(('weight', '0', 'gate'))}"] = tensor
        elif kind == 11:
            state[f"body.{rng.choice((-1, 99, 10**9, 10**30))}.conv1.weight"] = tensor
        elif kind == 12:
            state = {key: value for key, value in state.items() if rng.random() < 0.9} or state
        else:
            state[name] = torch.empty(rng.choice(((0,), (0, 3), (4, 0, 3, 3), (1, 1, 1, 1, 1))))
    return state


def attacked(states: dict[str, State], rng: random.Random) -> tuple[str, bytes]:
    """Return a random dialect, damaged in its tensors, its wrapping or its bytes."""
    dialect = rng.choice(list(states))
    state = mutated(states[dialect], rng) if rng.random() < 0.7 else dict(states[dialect])
    state = {rng.choice(PREFIXES) + name if rng.random() < 0.02 else name: value for name, value in state.items()}
    if rng.random() < 0.3:
        prefix = rng.choice(PREFIXES)
        state = {prefix + name: value for name, value in state.items()}
    wrapper = rng.choice(WRAPPERS)
    stream = io.BytesIO()
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, stream)
    content = stream.getvalue()
    if rng.random() < 0.3:
        content = damaged(content, rng) if rng.random() < 0.5 else damaged_pickle(content, rng)
    return dialect, content


def verdict(path: Path) -> str:
    """Return `loaded`, `refused`, or a description of the failure."""
    try:
        loaded = load_checkpoint(path)
    except SrkdError as error:
        message = str(error)
        fine = message.isprintable() and len(message) < 900 and message.startswith(f"{path}: ")
        return "refused" if fine else f"not one line that names the file: {message[:300]!r}"
    network = loaded.network
    with torch.no_grad():
        sr = network(torch.zeros(1, network.descriptor.channels, 3, 2))
    return "loaded" if sr.shape[-1] == 2 * network.spec.scale else f"an output of shape {tuple(sr.shape)}"


def attack(count: int, seed: int, folder: Path) -> None:
    states, rng, path = dialects(), random.Random(seed), folder / "hostile.pth"
    tally = {"loaded": 0, "refused": 0}
    for number in range(count):
        dialect, content = attacked(states, rng)
        path.write_bytes(content)
        begin = time.process_time()
        try:
            message = verdict(path)
        except Exception as error:
            raise AssertionError(f"attack {number} of seed {seed} on {dialect}: {error!r}") from error
        assert message in tally, f"attack {number} of seed {seed} on {dialect}: {message}"
        assert time.process_time() - begin < 20, f"attack {number} of seed {seed} on {dialect} takes for ever"
        tally[message] += 1
    assert tally["loaded"] >= count // 20, tally
    assert tally["refused"] >= count // 3, tally


def test_every_dialect_is_attacked(tmp_path: Path) -> None:
    states = dialects()
    named = {(name.split()[0], name.split()[1]) for name in states}
    assert named == {(arch, dialect.name) for arch in NETWORKS for dialect in architecture(arch).dialects}
    for name, state in states.items():
        torch.save(state, tmp_path / "good.pth")
        assert verdict(tmp_path / "good.pth") == "loaded", name


@pytest.mark.ci
def test_attacks_on_all_dialects(tmp_path: Path) -> None:
    attack(120, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_thousands_of_attacks_on_all_dialects(seed: int, tmp_path: Path) -> None:
    attack(2500, seed, tmp_path)
