"""The benchmark of the authors' own code, as far as it needs none of their repositories."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import authors_code, clones
from compressor.base.randomness import uniforms
from compressor.data.batches import Batch
from compressor.models.networks.registry import build
from compressor.models.students.students import parse_student


def test_a_clone_is_refused_if_its_training_step_is_missing_or_another(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"train\.py is missing: clone Vincent-Hoo/Knowledge-Distillation"):
        clones.FAKD.root(tmp_path)
    file = tmp_path / "FAKD" / "code" / "train.py"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"step\n")
    with pytest.raises(SystemExit, match="is not that of commit 589d35f7 of Vincent-Hoo"):
        clones.FAKD.root(tmp_path)
    git_id = hashlib.sha1(b"blob 5\0step\n", usedforsecurity=False).hexdigest()
    assert dataclasses.replace(clones.FAKD, trainer_id=git_id).root(tmp_path) == file.parent


def test_packages_that_are_missing_are_imported_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clones, "UNUSED_PACKAGES", ("nowhere",))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, clones.EmptyPackages])
    import nowhere.inside as inside  # type: ignore[import-not-found]
    from nowhere import Writer

    assert Writer("log").add_scalar("loss", 1) is not None and inside.function(1).anything is not None
    with pytest.raises(ModuleNotFoundError):
        __import__("nowhere_else")
    for name in ("nowhere", "nowhere.inside"):
        del sys.modules[name]


def test_losses_are_those_of_each_step_in_srkds_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "backward", torch.Tensor.backward)
    weight = torch.ones((), requires_grad=True)

    def train(batches: clones.Images) -> None:
        assert batches.dataset is batches
        for lr, _, name in batches:
            for _ in range(2):
                (weight * lr.sum()).backward()
            assert name == "name"

    authors = clones.Authors(clones.in_bytes("name"), train, unit=255, updates=2)
    batches = [authors.prepare(Batch(torch.full((1,), value), torch.zeros(1))) for value in (1.0, 3.0)]
    authors.run(batches)
    assert authors.losses(batches) == [2.0, 6.0]
    assert float(weight.grad or 0) == 2 * 255 * 2 * 4.0


def test_dukds_draws_are_srkds() -> None:
    draws = clones.OwnDraws(3, seed=10)
    for step in range(2):
        order = draws.random.permutation(16)
        assert sorted(order) == list(range(16))
        assert order[0] == uniforms("dukd-cells", 10, step, [0], 16)[0].argmin()
        coins = np.stack([draws.random.choice([0, 1], size=3, p=[0.7, 0.3]) for _ in range(4)], 1)
        assert np.array_equal(coins == 1, uniforms("dukd-zoom-in", 10, step, range(3), 4) < 0.3)


def test_a_note_says_what_was_compared_and_what_was_changed() -> None:
    for recipe, comparison in authors_code.COMPARISONS.items():
        note = comparison.note(recipe)
        assert note.startswith(f"- {recipe}: ") and f"`{comparison.preset}`" in note
        assert all(f"{clone.address}@{clone.commit[:8]}" in note for clone in comparison.clones)
        assert all(change in note for clone in comparison.clones for change in clone.changes)


def test_weights_have_the_names_of_the_code_that_loads_them() -> None:
    network = build(parse_student("edsr:width=4,depth=3,scale=4"), seed=1)
    assert "body3.0.body.2.weight" in clones.tensors_of(network, "fakd")
    names = [clones.pams_name(name) for name in clones.tensors_of(network, "edsr-pytorch")]
    assert {"body.0.body.0.weight", "body.0.body.3.weight", "body.3.weight", "tail.0.2.bias"} <= set(names)
    assert clones.edsr_sizes(network) == {"num_feat": 4, "num_block": 3, "res_scale": 1.0, "upscale": 4}
