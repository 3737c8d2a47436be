"""FAKD's kernel for GPUs, tested without one: in triton's interpreter, through its compiler, and its selection."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.methods import fakd
from recipes.methods.fakd import Distances, affinity_l1, distances_by_rows, kernel_for, try_kernel, unit_columns
from tests.support.commands import python
from tests.support.tensors import gradient_of, noise

SHARED_BYTES = 48 * 1024
"""Shared memory in bytes per thread block that every NVIDIA GPU provides without a request for more."""


@pytest.fixture(scope="module")
def interpreted() -> Any:
    pytest.importorskip("triton")
    done = python("-m", "tests.support.interpreted_affinity", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert done.code == 0, done.err
    return done.json


@pytest.mark.extras
def test_the_kernel_is_the_formula_and_the_plain_form(interpreted: Any) -> None:
    assert len(interpreted["shapes"]) == 6
    for name, errors in interpreted["shapes"].items():
        assert errors.pop("without gradient") == 0, name
        assert max(errors.values()) < 1e-6, (name, errors)


@pytest.mark.extras
def test_a_student_that_is_the_teacher_has_no_distance_and_no_gradient(interpreted: Any) -> None:
    assert [errors["equal sides"] for errors in interpreted["shapes"].values()] == [0] * 6


@pytest.mark.extras
def test_the_kernel_takes_features_as_a_run_lays_them_out(interpreted: Any) -> None:
    errors = interpreted["layouts"]
    assert errors["value"] < 1e-6 and errors["gradient"] < 1e-6
    assert errors["half"] < 2**-8, "a gradient in bf16 has eight bits"


@pytest.mark.extras
def test_the_kernel_compiles_for_gpus(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    done = python("-m", "tests.support.compiled_affinity", tmp_path)
    assert done.code == 0, done.err
    for name, facts in done.json.items():
        capability = name.rpartition(", ")[2]
        assert facts["target"].startswith(f".target sm_{capability}") and facts["machine_code"] > 10_000, name
        assert facts["shared"] <= SHARED_BYTES, name
        assert facts["atomics"] == 0, f"{name}: the order of sums is not fixed"
        on_tensor_cores = name.startswith("products on tensor cores")
        assert (facts["tensor_cores"] > 0, facts["fp32"] > 0) == (on_tensor_cores, not on_tensor_cores), name


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Distances | None]]:
    """Try a kernel on a fake machine with CUDA, triton and such a GPU; its tensors are on the CPU."""

    def try_it(kernel: Any, *, capability: tuple[int, int] = (9, 0), triton: bool = True) -> Distances | None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__spec__=object()) if triton else None)
        monkeypatch.setitem(sys.modules, "recipes.terms.affinity_kernel", SimpleNamespace(distances_by_kernel=kernel))
        try_kernel.cache_clear()
        return try_kernel(torch.device("cpu"))

    yield try_it
    try_kernel.cache_clear()


def right(student: Tensor, teacher: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    return distances_by_rows(student, teacher, with_gradient, rows=5)


def wrong(student: Tensor, teacher: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Return results like TF32's: products of columns rounded to 11 bits."""
    return right((student * 1024).round() / 1024, teacher, with_gradient)


def broken(student: Tensor, teacher: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")


def test_a_kernel_that_agrees_is_taken(machine: Callable[..., Distances | None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert machine(right) is right


def test_without_triton_and_on_older_gpus_nothing_is_tried(machine: Callable[..., Distances | None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert machine(broken, triton=False) is None
        assert machine(broken, capability=(7, 5)) is None


def test_a_kernel_that_fails_or_is_wrong_is_not_taken(machine: Callable[..., Distances | None]) -> None:
    with pytest.warns(UserWarning, match=r"Failed to find C compiler\.$"):
        assert machine(broken) is None
    with pytest.warns(UserWarning, match="Tensor-likes are not close"):
        assert machine(wrong) is None


def test_the_kernel_is_for_fp32_on_a_gpu() -> None:
    assert kernel_for(unit_columns(noise(1, 2, 3, 3))) is None
    on_gpu: Any = SimpleNamespace(is_cuda=True, dtype=torch.float64, device=torch.device("cuda"))
    assert kernel_for(on_gpu) is None


def test_the_term_takes_the_kernels_value_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []

    def kernel(student: Tensor, teacher: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        requests.append(with_gradient)
        value, gradient = right(student, teacher, with_gradient)
        return 2 * value, None if gradient is None else 3 * gradient

    student, teacher = noise(2, 4, 3, 5), noise(2, 6, 3, 5, seed=1)
    value = affinity_l1(student, teacher)
    gradient = gradient_of(lambda s: affinity_l1(s, teacher), student)
    monkeypatch.setattr(fakd, "kernel_for", lambda columns: kernel)
    torch.testing.assert_close(affinity_l1(student, teacher), 2 * value)
    torch.testing.assert_close(gradient_of(lambda s: affinity_l1(s, teacher), student), 3 * gradient)
    assert requests == [False, True]
