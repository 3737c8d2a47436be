"""Results that several files of one export share."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import pytest
import torch

from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from export.graph import onnx_graph
from export.graph.onnx_graph import build_graph
from export.graph.recent import Recent, network_key
from export.writing.exporting import Source, export_model

SPEC = EDSRSpec(width=4, depth=1, scale=2)


def test_the_oldest_results_are_dropped_and_a_large_one_is_not_kept() -> None:
    computed: list[str] = []

    def get(key: str) -> str:
        return recent.get(key, lambda: computed.append(key) or key)  # type: ignore[func-returns-value]

    recent = Recent[str](len, most_bytes=6)
    for key in ("aaa", "bbb", "aaa", "cc", "aaa", "bbb", "too large", "too large"):
        assert get(key) == key
    # "cc" takes the place of "bbb", which was used before "aaa".
    assert computed == ["aaa", "bbb", "cc", "bbb", "too large", "too large"]


def test_a_key_holds_everything_that_a_graph_depends_on() -> None:
    network = build(SPEC, seed=0)
    assert network_key(network) == network_key(copy.deepcopy(network))
    others = [build(SPEC, seed=1), build(EDSRSpec(width=4, depth=1, scale=2, res_scale=0.5), seed=0)]
    changed = copy.deepcopy(network)
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-6
    renamed = copy.deepcopy(network)
    renamed.__class__ = type("Other", (type(network),), {})
    assert network_key(network) not in {network_key(other) for other in (*others, changed, renamed)}


@pytest.mark.ci
def test_a_graph_that_is_changed_leaves_the_next_one_whole() -> None:
    network = build(SPEC, seed=0)
    first = build_graph(network, None, 18).model
    whole = first.SerializeToString()
    del first.graph.node[:]
    assert build_graph(network, None, 18).model.SerializeToString() == whole
    assert build_graph(network, (20, 24), 18).model.SerializeToString() != whole
    assert onnx.load_model_from_string(whole).opset_import[0].version == 18


@pytest.mark.ci
@pytest.mark.usefixtures("quick_int8")
def test_one_export_traces_a_network_once_and_its_spread_streams_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces: list[object] = []

    def trace(*args: object, **options: object) -> object:
        traces.append(args)
        return original(*args, **options)  # type: ignore[arg-type]

    original = onnx_graph.trace
    monkeypatch.setattr(onnx_graph, "trace", trace)
    report = export_model(build(SPEC, seed=7), Source("small"), ["onnx", "fp16", "int8"], tmp_path)
    assert [file.format for file in report.files] == ["onnx", "fp16", "int8", "int8-trt"]
    assert len(traces) == 2
