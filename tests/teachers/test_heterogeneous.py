"""A DUKD student of another architecture learns from a teacher that only gives outputs, in any file format."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

import srkd
from compressor.models.networks.registry import build
from compressor.models.students.students import parse_student
from compressor.teachers.spandrel_teacher import import_spandrel, is_spandrel_installed
from compressor.teachers.teacher import load_teacher
from srkd import compress
from tests.support.foreign_models import save_onnx, twin
from tests.support.method_runs import Waves

# No pixel loss: these teachers have random weights, and the student learns only from them.
SETTINGS = ("schedule.batch=4", "schedule.lr_patch=8", "schedule.rate=1e-2", "pixel_weight=0", "augment=false")


def rrdb(folder: Path) -> Path:
    """Return a small ESRGAN+, which spandrel knows and srkd does not."""
    if not is_spandrel_installed():
        pytest.skip("spandrel is not installed: pip install --no-deps spandrel einops")
    import_spandrel()
    network = importlib.import_module("spandrel.architectures.ESRGAN.__arch.RRDB").RRDBNet
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = network(num_filters=8, num_blocks=1, scale=2, plus=True).state_dict()
    torch.save(state, folder / "teacher.pth")
    return folder / "teacher.pth"


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kind", "make", "student"),
    [
        ("ONNX", lambda folder: save_onnx(twin(), folder / "teacher.onnx"), "carn_m:width=8,groups=2,scale=2"),
        ("spandrel", rrdb, "compact:width=8,depth=2,scale=2"),
    ],
)
def test_the_students_images_come_nearer_to_the_teachers(
    kind: str, make, student: str, photos: Path, tmp_path: Path
) -> None:
    run, file = tmp_path / "run", make(tmp_path)
    compress(file, recipe="dukd", student=student, data=photos, steps=30, out=run, settings=SETTINGS)
    teacher, lr = load_teacher(file), Waves(2, range(8)).at(99).lr
    assert (teacher.backend, teacher.network) == (kind, None)
    with torch.no_grad():
        target = teacher(lr)
        before = (build(parse_student(student), seed=10)(lr) - target).abs().mean()
        after = (srkd.load(run)(lr) - target).abs().mean()
    assert float(after) < 0.7 * float(before)
