"""`--calm`: the term of films, by itself where the images are of a film, and by its weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import srkd
from compressor.base.errors import SrkdError
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from recipes.catalogue import FOR_FILMS
from srkd.options.compress import CompressOptions
from srkd.runs.recipe import load_recipe
from tests.support.films import make_film, picture, require_av
from tests.support.run_files import read_metrics

SMALL = ("schedule.batch=2", "schedule.lr_patch=12", "schedule.validate_every=100", "schedule.compile=off")


def methods_of(**options: object) -> tuple[dict[str, dict[str, object]], list[str]]:
    """The methods of the recipe that the options give, with their options, and the lines about it."""
    lines = list[str]()
    preset = load_recipe(CompressOptions.of(**{"recipe": "logits", **options}), lines.append)
    return {rule.name: rule.options for rule in preset.methods}, lines


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"data": "holiday.mp4"}, "holiday.mp4 is a film"),
        ({"lr_only": "films/holiday.MKV"}, "holiday.MKV is a film"),
        ({"degrade": "h264"}, "--degrade h264 makes frames of a film"),
    ],
)
def test_a_film_adds_it_and_says_so(data: dict[str, str], reason: str) -> None:
    methods, lines = methods_of(**data)
    assert methods == {"logits": {}, FOR_FILMS: {}}
    (line,) = lines
    assert line.startswith(f"calm: {reason}, so the student also learns") and "--calm 0" in line
    assert methods_of(**data, calm=0.0) == ({"logits": {}}, [])
    assert methods_of(**data, calm=0.25) == ({"logits": {}, FOR_FILMS: {"weight": 0.25}}, [])


def test_nothing_else_does() -> None:
    other_recipes = [{"degrade": "video", "recipe": name} for name in ("logits-paper", "scratch", "inherit")]
    for options in ({"data": "photos"}, {"degrade": "jpeg"}, *other_recipes):
        methods, lines = methods_of(**options)
        assert FOR_FILMS not in methods and lines == [], options


def test_it_is_left_out_where_it_does_not_fit_and_refused_where_it_was_asked_for() -> None:
    film = {"degrade": "video", "recipe": "dukd"}
    assert FOR_FILMS in methods_of(**film)[0]
    two_updates = ("variant=code",)
    methods, lines = methods_of(**film, settings=two_updates)
    assert FOR_FILMS not in methods
    assert lines == [
        "calm is left out: dukd and calm do not go together: dukd makes 2 updates a step, and calm would count in each"
    ]
    with pytest.raises(SrkdError, match="dukd makes 2 updates a step, and calm would count in each"):
        methods_of(**film, settings=two_updates, calm=1.0)


def test_its_options_are_set_as_those_of_other_methods(tmp_path: Path) -> None:
    methods, _ = methods_of(degrade="video", settings=("calm.noise=2",))
    assert methods[FOR_FILMS] == {"noise": 2}
    assert methods_of(degrade="video", settings=("noise=2",))[0][FOR_FILMS] == {"noise": 2}
    weighed = ("weights.calm=0.3", "blend.calm=2")
    preset = load_recipe(CompressOptions.of(recipe="logits", degrade="video", settings=weighed))
    assert preset.weights == {"calm": 0.3} and preset.blend == {"calm": 2}
    for setting in ("calm.noise=2", *weighed):
        with pytest.raises(SrkdError, match="calm"):
            methods_of(settings=(setting,))
    with pytest.raises(SrkdError, match=r"calm\.noice") as error:
        methods_of(degrade="video", settings=("calm.noice=2", "weights.calm=1"))
    assert "weights" not in str(error.value)
    file = tmp_path / "own.yaml"
    file.write_text(
        "title: own\nsource: own\nmethods:\n- name: logits\n- name: calm\n  options: {weight: 0.5, moves: false}\n"
    )
    own = {"weight": 0.5, "moves": False}
    assert methods_of(recipe=str(file))[0][FOR_FILMS] == own
    assert methods_of(recipe=str(file), degrade="video")[0][FOR_FILMS] == own
    assert methods_of(recipe=str(file), calm=0.0)[0][FOR_FILMS] == {**own, "weight": 0.0}


@pytest.mark.ci
def test_a_run_on_a_film(tmp_path: Path) -> None:
    """The term is in the curve, and the run goes on as it began; without it there is none."""
    require_av()
    film = make_film(tmp_path / "film.mp4", [picture(number) for number in range(12)], codec="h264", crf="10")
    teacher = tmp_path / "teacher.safetensors"
    srkd.save(build(EDSRSpec(scale=2, width=8, depth=2), seed=1), teacher)

    def run(name: str, **options: object) -> Path:
        settings = (*SMALL, "student.init=inherit")
        srkd.compress(teacher, data=film, width=0.5, steps=4, settings=settings, out=tmp_path / name, **options)  # type: ignore[arg-type]
        return tmp_path / name

    def terms(folder: Path) -> set[str]:
        return {key for row in read_metrics(folder) for key in row if key.startswith("raw/")}

    calm, plain = run("calm"), run("plain", calm=0)
    assert terms(calm) - terms(plain) == {"raw/calm"}
    again = run("again")
    weights = [srkd.load(folder / "student.safetensors").state_dict() for folder in (calm, again, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
