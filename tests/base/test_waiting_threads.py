"""Threads that wait for one another sleep, unless somebody has decided otherwise."""

from __future__ import annotations

import pytest

from tests.support.commands import python

SHOW = "import os, sys; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import srkd; ", "PASSIVE False"),
        ("import compressor.base.errors; ", "PASSIVE False"),
        ("import os; os.environ['OMP_WAIT_POLICY'] = 'ACTIVE'; import srkd; ", "ACTIVE False"),
        # OpenMP has read the variable: to set it now would only mislead child processes and reports.
        ("import torch; import srkd; ", "None True"),
    ],
)
def test_the_policy_is_set_before_torch_is_loaded(before: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    outcome = python("-c", before + SHOW)
    assert outcome.out.strip() == after, outcome.err
