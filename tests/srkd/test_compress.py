"""`srkd compress` as a user runs it: run folders, repeatability, one-line mistakes."""

from __future__ import annotations

import json
import os

import pytest

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import spec_from_dict
from srkd import compress
from srkd.api.export import _images_of_scores
from srkd.cli.main import run
from srkd.options.compress import CompressOptions
from srkd.options.option import declarations, from_json
from srkd.runs.decide import decide
from tests.support.foreign_models import save_onnx, twin
from tests.support.run_files import assert_whole, read_json, save_run_file
from tests.support.small_runs import SET_SMALL, SMALL, save_photos


@pytest.mark.ci
@pytest.mark.parametrize("recipe", ["scratch", "inherit", "logits"])
def test_every_recipe_leaves_a_whole_run_folder(recipe, teacher, photos, tmp_path):
    untouched = teacher.read_bytes()
    report = compress(teacher, recipe=recipe, data=photos, width=0.5, steps=4, out=tmp_path / "run", settings=SMALL)
    assert_whole(report.run, steps=4)
    facts = read_json(report.run)
    assert facts["recipe"] == recipe and facts["data"]["used"] == 3 and facts["schema"] == "srkd.compress/3"
    assert facts["result"]["student"]["psnr_y"] == pytest.approx(report.student.psnr_y)
    student = load_checkpoint(report.student_path)
    assert student.network.spec == EDSRSpec(scale=2, width=4, depth=4)
    assert student.header["srkd.recipe"] == recipe
    assert report.steps == 4 and report.student.cost.params < report.teacher.cost.params
    assert teacher.read_bytes() == untouched


@pytest.mark.ci
def test_the_same_seed_writes_the_same_bytes_and_another_does_not(teacher, photos, tmp_path):
    def student(name: str, seed: int) -> bytes:
        words = {"data": photos, "init": "inherit", "steps": 3, "settings": SMALL}
        return compress(teacher, seed=seed, out=tmp_path / name, **words).student_path.read_bytes()

    assert student("a", 1) == student("b", 1) != student("c", 2)


def test_depth_width_and_spec_shape_the_student(teacher, photos):
    def spec(**shape: object) -> EDSRSpec:
        options = CompressOptions.of(teacher=teacher, data=photos, settings=SMALL, **shape)
        return spec_from_dict(decide(options, Context()).student.model_dump())

    assert spec(depth=0.5, width=1.0).depth == 2
    assert spec(depth=0.25, width=0.25) == EDSRSpec(scale=2, width=2, depth=1)
    assert spec(student="edsr:width=3,depth=1,scale=2") == EDSRSpec(scale=2, width=3, depth=1)


def test_scratch_without_a_teacher_takes_the_students_spec(photos, tmp_path):
    words = {"student": "carn_m:width=8,scale=3,groups=4", "data": photos, "settings": SMALL}
    report = compress(recipe="scratch", steps=2, out=tmp_path / "r", **words)
    assert report.teacher is None
    assert load_checkpoint(report.student_path).network.spec.arch == "carn_m"


@pytest.mark.parametrize(
    "arguments, code, part",
    [
        (["--recipe", "logit"], 2, "'logits'"),
        (["--width", "1.5"], 2, "--width: '1.5'"),
        (["--set", "schedule.batches=3"], 2, "schedule.batches"),
        (["--data", "nowhere"], 1, "nowhere does not exist"),
        (["--val", "nowhere"], 1, "nowhere does not exist"),
        (["--lr-images", "nowhere", "--data", "nowhere"], 2, "--lr-images names the LR images of one --data, and 2"),
        (
            ["--init-from", "a.pt", "--init-from", "b.pt"],
            2,
            "--init-from is given 2 times, a.pt and b.pt: give it once",
        ),
        (["--baselines", "scratch", "--baselines", "fast"], 2, "'fast' is not one of them"),
        (["--student", "edsr:widht=3"], 2, "width"),
    ],
)
def test_mistakes_are_one_line_with_the_right_code(arguments, code, part, teacher, photos, tmp_path, capfd):
    words = ["compress", "--teacher", str(teacher), "--data", str(photos), "--out", f"{tmp_path}/r/s", *arguments]
    assert run(words) == code
    *notes, message = capfd.readouterr().err.strip().splitlines()
    assert part in message and "Traceback" not in message
    assert not [line for line in notes if line.startswith("teacher check")]
    assert not (tmp_path / "r").exists()


def test_several_folders_are_one_set(teacher, tmp_path):
    """As the folder that holds them; one that is named again counts once."""
    first, second = save_photos(tmp_path / "data" / "a"), save_photos(tmp_path / "data" / "b", 2)
    words = [f"--data={folder}" for folder in (first, second, first)]
    words += ["--steps", "1", "--out", str(tmp_path / "several"), *SET_SMALL]
    assert run(["compress", "--teacher", str(teacher), *words]) == 0
    compress(teacher, data=first.parent, steps=1, out=tmp_path / "one", settings=SMALL)
    several, one = (read_json(tmp_path / name) for name in ("several", "one"))
    assert several["options"]["data"] == [str(first), str(second)]
    assert several["data"] == one["data"] and several["data"]["used"] == 6
    assert len({(tmp_path / name / "student.safetensors").read_bytes() for name in ("several", "one")}) == 1


def test_without_teacher_and_data_the_embedded_ones_are_announced():
    """test_packaging.py trains with them."""
    lines: list[str] = []
    decide(CompressOptions.of(recipe="scratch", width=0.25, settings=SMALL), Context(note=lines.append))
    assert "embedded teacher" in lines[0] and "embedded photos" in " ".join(lines)


@pytest.mark.ci
def test_run_json_has_every_option(teacher, photos, tmp_path):
    fields = [declaration.name for declaration in declarations(CompressOptions)]
    report = compress(teacher, data=photos, steps=1, out=tmp_path / "run", settings=SMALL)
    request = read_json(report.run)["options"]
    assert set(request) == set(fields) - {"out"} and request["arch_options"] is None
    assert from_json(CompressOptions, request, "", out=report.run) == CompressOptions.of(
        teacher=teacher, recipe="logits", data=photos, steps=1, out=report.run, settings=SMALL
    )


def test_out_is_needed(teacher):
    with pytest.raises(UsageError, match="'--out': the run folder"):
        compress(teacher)


@pytest.mark.parametrize("request_", [{}, {"teacher": None, "recipe": "logits", "hue": 3}])
def test_a_run_of_another_version_is_not_continued(request_, tmp_path, capfd):
    out = tmp_path / "run"
    save_run_file(out, options=request_)
    assert run(["compress", "--resume", str(out)]) == 1
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1 and f"{out / 'run.json'}: its options" in message


def test_a_teacher_of_one_size_sees_no_windows(tmp_path, photos):
    """Nothing is measured for it, and a margin is refused before anything runs."""
    teacher = save_onnx(twin(), tmp_path / "fixed.onnx", size=(8, 8))
    words = {"teacher": teacher, "student": "compact:width=8,depth=1", "init": "random", "data": photos}
    words |= {"settings": (*SMALL, "schedule.lr_patch=8"), "goal": "teacher"}
    assert decide(CompressOptions.of(**words), Context()).label_margin is None
    with pytest.raises(UsageError, match=r"^--label-margin 4: the teacher takes images of one size only; leave"):
        decide(CompressOptions.of(label_margin=4, **words), Context())


@pytest.mark.parametrize(
    ("names", "sets", "expected"),
    [
        (("a", "b"), (), ("a", "b")),
        (("s (jpeg)/a", "s (jpeg)/b", "s/a", "s/b"), ("s", "s (jpeg)"), ("s (jpeg)/a", "s (jpeg)/b")),
        (("s/t/a", "s/b"), ("s", "s/t"), ("s/t/a",)),
    ],
)
def test_the_card_names_the_images_of_its_scores(names, sets, expected):
    assert _images_of_scores(names, sets) == expected


def test_names_that_are_no_text_do_not_end_a_verb_with_json(tmp_path, photos, capfdbinary):
    (photos / "0.png").rename(photos / os.fsdecode(b"\xff.png"))
    assert run(["evaluate", "--scale", "2", "--data", str(photos), "--json"]) == 0
    scores = json.loads(capfdbinary.readouterr().out)["models"]["bicubic"]["sets"]["photos"]
    assert set(scores["images"]) == {"?", "1", "2"}
