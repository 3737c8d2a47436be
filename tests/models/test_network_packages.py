"""A network is one file and one registration, in srkd and in another package."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from compressor.base.entry_points import EntryPointTable
from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks import registry
from compressor.models.networks.registry import NETWORKS, architecture, architectures
from compressor.models.students.students import parse_student
from recipes.config.published import published_options
from tests.support.commands import ROOT, python
from tests.support.packages import SOURCES, install, names_in

install_network = partial(install, module="plainsr", group="srkd.networks")
EXAMPLE = Path(__file__).resolve().parents[1] / "example_networks" / "plainsr.py"
WORK = """
import json, sys
from pathlib import Path
import torch
import srkd
from compressor.models.checkpoints.convert import convert_file
from compressor.models.networks.registry import architecture, build
from compressor.models.students.students import parse_student
from recipes.config.options import make_method

folder, photos = Path(sys.argv[1]), sys.argv[2]
teacher = build(parse_student("plainsr:width=12,depth=4,scale=2"), seed=0)
srkd.save(teacher, folder / "teacher.safetensors")
loaded = srkd.load(folder / "teacher.safetensors")
student = srkd.build_student(loaded, width=0.5, depth=0.5)
report = srkd.compress(
    folder / "teacher.safetensors", recipe="fakd", data=photos, width=0.5, steps=2, out=folder / "run",
    settings=("schedule.batch=2", "schedule.lr_patch=8"),
)
exported = srkd.export(folder / "run", formats=["onnx"], out=folder / "exported")
written = convert_file(folder / "teacher.safetensors", "plain-trainer")
again = srkd.load(written.path)
fakd, meta = make_method("fakd", {}), torch.device("meta")
with meta:
    shallow = build(parse_student("plainsr:width=12,depth=3,scale=2"))
    edsr = build(parse_student("edsr:width=4,depth=4,scale=2"))
print(json.dumps({
    "taps": [fakd.tap_pairs(network, edsr) for network in (loaded, shallow)],
    "same": loaded.fingerprint() == teacher.fingerprint() == again.fingerprint(),
    "student": student.spec.to_dict(),
    "params": srkd.cost(teacher).params,
    "counted": sum(parameter.numel() for parameter in teacher.parameters()),
    "steps": report.steps,
    "inspected": srkd.inspect(folder / "run").architecture,
    "dialect": srkd.inspect(written.path).dialect,
    "verdicts": [file.verdict for file in exported.files],
}))
"""


@pytest.mark.ci
def test_a_network_of_another_package_does_all_that_srkds_own_do(tmp_path: Path, photos: Path) -> None:
    site = install_network(
        tmp_path / "site", program=EXAMPLE.read_text(), entry_points="plainsr = plainsr:ARCHITECTURE"
    )
    touched = {path.name: path.read_text() for path in site.rglob("*") if path.is_file() and path.name != "METADATA"}
    assert set(touched) == {"plainsr.py", "entry_points.txt"}, "one file, and one registration"
    assert touched["entry_points.txt"].splitlines() == ["[srkd.networks]", "plainsr = plainsr:ARCHITECTURE"]
    assert not any("plainsr" in path.read_text(encoding="utf-8") for path in SOURCES)
    done = python("-c", WORK, tmp_path, photos, PYTHONPATH=os.pathsep.join([str(site), str(ROOT)]))
    assert done.code == 0, done.err
    facts = json.loads(done.out.splitlines()[-1])
    assert facts["same"] and facts["params"] == facts["counted"]
    published, by_thirds = facts["taps"]
    assert [tap for _, tap in published] == ["head", "body[1]", "pre_up"]
    assert [tap for _, tap in by_thirds] == ["body[0]", "body[1]", "pre_up"]
    assert facts["student"] == {"arch": "plainsr", "scale": 2, "width": 6, "depth": 2}
    assert (facts["steps"], facts["inspected"], facts["dialect"]) == (2, "plainsr", "plain-trainer")
    assert facts["verdicts"] == ["passed"]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """A function that installs a package, for a table of networks that has not searched for packages yet."""
    table = EntryPointTable(NETWORKS.kind, [*NETWORKS.values()], NETWORKS.group, NETWORKS.read)
    monkeypatch.setattr(registry, "NETWORKS", table)
    registry.architecture.cache_clear()
    yield lambda program, entry_points: monkeypatch.syspath_prepend(
        install_network(tmp_path / "site", program=program, entry_points=entry_points)
    )
    registry.architecture.cache_clear()
    sys.modules.pop("plainsr", None)


def test_a_broken_package_harms_nobody_and_is_named_when_asked_for(beside: Callable[[str, str], None]) -> None:
    names = ("plainsr", "edsr", "Other")
    beside("import nowhere", "\n".join(f"{name} = plainsr:ARCHITECTURE" for name in names))
    assert tuple(registry.NETWORKS) == (*NETWORKS, "plainsr")
    assert [family.name for family in architectures()] == list(NETWORKS)
    with pytest.raises(SrkdError, match=r"plainsr of lab .*\(ModuleNotFound"):
        architecture("plainsr")
    with pytest.raises(UsageError, match=r"'other'.*'Other' of lab"):
        architecture("other")
    assert architecture("edsr").spec.__module__ == "compressor.models.networks.edsr"


def test_an_entry_point_must_lead_to_an_architecture_of_its_name(beside: Callable[[str, str], None]) -> None:
    beside(EXAMPLE.read_text(), "simple = plainsr:ARCHITECTURE")
    with pytest.raises(SrkdError, match="not an Architecture called 'simple'"):
        architecture("simple")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('where={"depth": 4}', 'where={"blocks": 4}', "plainsr hold where blocks has a value: no such size"),
        ('"fakd.taps": (', '"fakd.tapes": (', "what plainsr publishes for fakd: tapes: unknown key"),
    ],
)
def test_wrong_published_settings_are_one_line_that_names_the_network(
    old: str, new: str, message: str, beside: Callable[[str, str], None]
) -> None:
    source = EXAMPLE.read_text()
    assert source.count(old) == 1
    beside(source.replace(old, new), "plainsr = plainsr:ARCHITECTURE")
    with pytest.raises(SrkdError, match=message):
        published_options("fakd", parse_student("plainsr:width=4,depth=4,scale=2"))


MAY_NAME = {
    "recipes/methods/dukd.py": "the settings of DUKD's released option files, by student",
    "recipes/methods/fakd.py": "the blocks that FAKD's code reads of the published RCAN",
    "export/formats/templates.py": "a filter for plain text",
}


@pytest.mark.ci
def test_a_network_inside_touches_its_file_and_the_registry() -> None:
    """With its test, its row in the table of networks and possibly golden outputs, this is at most five files."""
    registered = architecture.__module__.replace(".", "/") + ".py"
    for path in SOURCES:
        texts, imports = names_in(path)
        place = path.relative_to(ROOT).as_posix()
        if place == registered or place in MAY_NAME:
            continue
        for name, entry in NETWORKS.items():
            module = entry.where.partition(":")[0]
            if place.startswith("compressor/models/networks/"):
                continue  # CARN-M is based on CARN, and files in EDSR's dialects may use names of RCAN's code base
            assert name not in texts, f"{place} names the network {name}: let its file say what is needed"
            assert module not in imports, f"{place} imports the network {name}: let its file say what is needed"
