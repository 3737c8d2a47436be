"""`srkd networks`: every network and named size, with the cost that the student has, timed if asked for."""

from __future__ import annotations

import csv
import io
import json

import pytest

import srkd
from compressor.base.errors import UsageError
from compressor.models.networks.registry import NETWORKS, architecture
from compressor.models.students.students import parse_student
from srkd.cli.main import run


@pytest.mark.ci
def test_every_network_is_listed_with_the_cost_of_its_student() -> None:
    listed = srkd.networks(scale=2, lr_size="64x36")
    assert {row.network for row in listed.networks} == set(NETWORKS)
    assert {row.name for row in listed.networks} >= {f"plain-{size}" for size in architecture("plain").sizes}
    for row in listed.networks:
        spec = parse_student(row.student)
        assert spec == parse_student(row.name, scale=2)
        assert srkd.cost(spec, (64, 36)).macs == row.macs and srkd.cost(spec).params == row.params
    assert listed.place is None and {row.ms for row in listed.networks} == {None}


def test_a_network_of_other_scales_alone_is_left_out() -> None:
    names = {row.network for row in srkd.networks(scale=1).networks}
    assert {"plain", "compact"} <= names and not names & {"edsr", "rcan"}


def test_they_are_timed_where_the_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["networks", "plain-xs", "compact-xs", "--time", "--seconds", "0.1", "--lr-size", "24x16"]
    assert run([*line, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["schema"] == "srkd.networks/1" and listed["place"].startswith("24x16, torch fp32, cpu")
    assert [row["name"] for row in listed["networks"]] == ["compact-xs", "plain-xs"]
    assert all(row["ms"] > 0 for row in listed["networks"])
    assert run(line) == 0
    assert "timed untrained, in turns: 24x16, torch fp32, cpu" in capsys.readouterr().out
    assert run(["networks", "span", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["network"] for row in rows} == {"span"} and all(int(row["params"]) > 0 for row in rows)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="'plian-s' is no network or size at x4; did you mean 'plain-s'"):
        srkd.networks("plian-s")
