"""What several tests of checkpoints share."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from tests.support import official
from tests.support.networks import save_state


@pytest.fixture
def plain(tmp_path: Path) -> tuple[official.State, Network]:
    """Return a small BasicSR EDSR, and the network it is when saved in the plainest way."""
    state = official.basicsr_edsr(2, 8, 2)
    return state, load_checkpoint(save_state(state, tmp_path)).network
