"""Waiting OpenMP threads soon sleep, unless the user has decided otherwise."""

from __future__ import annotations

import pytest

from tests.support.commands import python

pytestmark = pytest.mark.ci

SHOW = "import os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import srkd; ", "1000 False"),
        ("import compressor.base.errors; ", "1000 False"),
        ("import os; os.environ['OMP_WAIT_POLICY'] = 'ACTIVE'; import srkd; ", "None False"),
        ("import os; os.environ['GOMP_SPINCOUNT'] = '7'; import srkd; ", "7 False"),
        # OpenMP has already read the variable: setting it now would only mislead child processes and reports.
        ("import torch; import srkd; ", "None True"),
    ],
)
def test_the_count_is_set_before_torch_is_loaded(before: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    outcome = python("-c", before + SHOW)
    assert outcome.out.strip() == after, outcome.err


def test_openmp_reads_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "VERBOSE")
    outcome = python("-c", "import srkd, torch; torch.ones(4).sum()")
    if "GOMP_SPINCOUNT" not in outcome.err:
        pytest.skip("this torch has another OpenMP than GNU's")
    assert "GOMP_SPINCOUNT = '1000'" in outcome.err
