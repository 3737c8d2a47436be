"""LR images without HR partners: the teacher's output is the label, for every recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.base.errors import SrkdError
from compressor.data.batches import Batch, Batches
from compressor.data.decode import decode_all
from compressor.images.sets import LrImage, find_lr_images
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.training.step import Runner, Step, StepNetworks
from recipes.config.options import make_method
from srkd import compress, resume
from srkd.cli.main import run
from tests.support.run_files import read_json
from tests.support.small_runs import SMALL


@pytest.fixture
def lr_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "lr"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (20 + index, 24, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def test_the_store_holds_the_files_pixels_and_no_hr(lr_folder):
    images = find_lr_images(lr_folder)
    store = decode_all(images, scale=4).select(lr_patch=8)
    assert store.hr is None and store.names == ("0", "1", "2")
    for index, image in enumerate(images):
        expected = torch.from_numpy(np.array(Image.open(image.lr))).permute(2, 0, 1)
        assert torch.equal(store.lr.image(index), expected)
    batch = Batches.for_store(store, batch=3, lr_patch=8, seed=0).at(0)
    assert batch.hr is None and tuple(batch.lr.shape) == (3, 3, 8, 8)
    assert batch.digest() == Batches.for_store(store, batch=3, lr_patch=8, seed=0).at(0).digest()


@pytest.mark.parametrize("recipe", ["scratch", "logits"])
def test_the_label_is_the_teachers_output_unclipped_and_without_gradient(recipe):
    teacher, student = (build(EDSRSpec(scale=2, width=width, depth=1), seed=width) for width in (8, 4))
    lr = torch.rand(1, 3, 9, 9) * 30 - 10
    frozen = Runner(teacher, trains=False)
    step = Step(0, 0, Batch(lr, None), StepNetworks([Runner(student, trains=True)], frozen))
    with torch.no_grad():
        sr = teacher(lr)
    assert torch.equal(step.hr, sr) and not step.hr.requires_grad and float(sr.max()) > 1
    with torch.no_grad():
        distance = float((student(lr) - sr).abs().mean())
    assert float(make_method(recipe, {}).terms(step)["pixel"].detach()) == pytest.approx(distance, rel=1e-5)
    assert frozen.forwards == 1


@pytest.mark.ci
@pytest.mark.parametrize("recipe", ["logits", "scratch"])
def test_a_run_from_lr_images_alone(recipe, teacher, lr_folder, tmp_path):
    out = tmp_path / "run"
    notes: list[str] = []
    report = compress(
        teacher, recipe=recipe, lr_only=lr_folder, width=0.5, steps=2, out=out, settings=SMALL, announce=notes.append
    )
    facts = read_json(out)
    assert facts["data"]["labels"] == "teacher" and facts["data"]["used"] == 3
    assert facts["options"]["lr_only"] == str(lr_folder.resolve()) and report.teacher is not None
    assert facts["data"]["validation"] == ["astronaut", "chelsea"]
    assert any("only label" in line for line in notes)
    assert any("solved for in" in line for line in notes) == (recipe == "logits")
    with pytest.raises(SrkdError, match=r"finished.*student\.safetensors"):
        resume(out)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--lr-only", "{lr}", "--data", "{lr}"], "--lr-only takes neither --data nor --lr-images"),
        (["--lr-images", "{lr}"], "no --data is given"),
    ],
)
def test_mistakes_are_one_line(arguments, message, teacher, lr_folder, tmp_path, capfd):
    options = [word.format(lr=lr_folder) for word in arguments]
    assert run(["compress", "--teacher", str(teacher), "--out", str(tmp_path / "r"), *options]) == 2
    assert message in capfd.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "r").exists()


def test_a_folder_of_lr_images_or_of_folders_of_them(lr_folder, tmp_path):
    assert [image.stem for image in find_lr_images(tmp_path)] == ["0", "1", "2"]
    assert find_lr_images(lr_folder)[0] == LrImage("0", lr_folder / "0.png")
    (tmp_path / "set" / "HR").mkdir(parents=True)
    for folder, message in [
        (tmp_path / "set", "give it with --data"),
        (tmp_path / "set" / "HR", "no images"),
        (lr_folder / "0.png", "is a file"),
    ]:
        with pytest.raises(SrkdError, match=message):
            find_lr_images(folder)
