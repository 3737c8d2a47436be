"""Files of ESRGAN and its relatives: what is read, what a file does not say, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.models.checkpoints.convert import state_in_dialect
from compressor.models.checkpoints.load import DoesNotFit, UnknownNetwork, load_checkpoint
from compressor.models.networks.registry import architecture, build
from compressor.models.networks.rrdbnet import RRDBNetSpec
from tests.support.networks import save_state

State = dict[str, torch.Tensor]


def state_of(spec: RRDBNetSpec, name: str = "esrgan-old") -> State:
    dialect = next(dialect for dialect in architecture("rrdbnet").dialects if dialect.name == name)
    return state_in_dialect(build(spec, seed=0), dialect)[0]


SMALL = RRDBNetSpec(4, width=8, depth=1, growth=4)


def test_an_old_file_for_x3_has_the_tensors_of_one_for_x2(tmp_path: Path) -> None:
    path = save_state(state_of(RRDBNetSpec(3, width=8, depth=1, growth=4)), tmp_path)
    assert [load_checkpoint(path, scale=scale).network.spec.scale for scale in (None, 2, 3)] == [2, 2, 3]


def test_relatives_are_refused_by_name(tmp_path: Path) -> None:
    state = state_of(SMALL)
    shuffle = {"model.3.weight": torch.zeros(32, 8, 3, 3), "model.3.bias": torch.zeros(32)}
    discriminator = ("conv0.weight", "conv1.weight_orig", "conv9.weight")
    relatives: dict[str, State] = {
        r"ESRGAN\+": {**state, "model.1.sub.0.RDB1.conv1x1.weight": torch.zeros(4, 8, 1, 1)},
        "ESRGAN with a pixel shuffle": {**state, **shuffle},
        "ESRGAN with norms": {**state, "model.1.sub.0.RDB1.conv1.1.weight": torch.ones(4)},
        "discriminator of Real-ESRGAN": dict.fromkeys(discriminator, torch.zeros(4, 3, 3, 3)),
    }
    for name, tensors in relatives.items():
        with pytest.raises(UnknownNetwork, match=f"{name}, a relative of rrdbnet"):
            load_checkpoint(save_state(tensors, tmp_path))


def test_another_number_of_inputs_is_a_variant(tmp_path: Path) -> None:
    state = state_of(SMALL, "real-esrgan")
    state["conv_first.weight"] = torch.zeros(8, 21, 3, 3)
    with pytest.raises(DoesNotFit, match="21 columns for 3 channels"):
        load_checkpoint(save_state(state, tmp_path))
