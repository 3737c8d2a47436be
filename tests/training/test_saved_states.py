"""The states of a run on the disk: the last three, each with a checksum, written atomically."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from compressor.base import files as atomic
from compressor.base.errors import SrkdError, Unwritable
from compressor.base.files import append, atomic_path
from compressor.training.run_folder import SavedStates
from compressor.training.state import DamagedState, State, pack_state, read_state_file
from recipes.methods.scratch import Scratch
from tests.support.training import network, stage

PARTS = {"weights": torch.arange(300.0).reshape(3, 100), "done": 7, "nested": {"average": 0.1 + 0.2}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "state.pt").write_bytes(pack_state(PARTS))
    return tmp_path / "state.pt"


@pytest.fixture(scope="module")
def state() -> State:
    return State.fresh(network(0, width=2, depth=1), None, stage([Scratch()], steps=1))


def saved(states: SavedStates, state: State, *steps: int) -> None:
    for done in steps:
        state.done = done
        states.save(state)


def test_what_is_written_is_read_and_torch_reads_it_too(file: Path):
    for parts in (read_state_file(file), torch.load(file, weights_only=True)):
        assert parts["done"] == 7 and parts["nested"] == {"average": 0.1 + 0.2}
        assert torch.equal(parts["weights"], PARTS["weights"])


def test_every_change_of_a_value_and_every_cut_is_seen(file: Path):
    whole = file.read_bytes()
    seen = 0
    for position in range(0, len(whole), 13):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        try:
            parts = read_state_file(file)
            assert parts.keys() == PARTS.keys() and parts["nested"] == PARTS["nested"] and parts["done"] == 7
            assert torch.equal(parts["weights"], PARTS["weights"]), "a byte that carries no value"
        except DamagedState:
            seen += 1
        file.write_bytes(whole[:position])
        with pytest.raises(DamagedState):
            read_state_file(file)
    assert seen > 100
    file.unlink()
    with pytest.raises(DamagedState, match=r"state\.pt .*No such file"):
        read_state_file(file)


def test_the_last_three_are_kept_by_step_and_nothing_else_is_touched(state: State, tmp_path: Path):
    states = SavedStates(tmp_path)
    for name in ("best.safetensors", "state-mine.pt", "state-00000001.damaged"):
        (tmp_path / name).write_text("mine")
    saved(states, state, 5, 50, 99_999_999, 100_000_000, 100_000_001)
    assert [path.name for path in states.paths()] == ["state-99999999.pt", "state-100000000.pt", "state-100000001.pt"]
    assert states.newest() == tmp_path / "state-100000001.pt"
    assert len(list(tmp_path.iterdir())) == 6


def test_the_oldest_goes_only_when_the_newest_is_there(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    states = SavedStates(tmp_path)
    saved(states, state, 1, 2, 3)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unwritable, match=r"state-00000004\.pt: No space"):
        saved(states, state, 4)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damaged_states_are_put_aside_so_that_good_ones_stay(state: State, tmp_path: Path):
    states, lines, loaded = SavedStates(tmp_path), [], []
    saved(states, state, 1, 2, 3)
    for step in (2, 3):
        (tmp_path / f"state-0000000{step}.pt").write_bytes(b"")

    def load(path: Path) -> None:
        read_state_file(path)
        loaded.append(path.name)

    assert states.load_newest(load, lines.append) == tmp_path / "state-00000001.pt"
    assert loaded == ["state-00000001.pt"] and len(lines) == 2 and "state-00000003.pt is damaged" in lines[0]
    assert states.paths() == [tmp_path / "state-00000001.pt"]
    assert SavedStates(tmp_path / "none").load_newest(load, lines.append) is None
    (tmp_path / "state-00000001.pt").write_bytes(b"")
    with pytest.raises(SrkdError, match=r"state-00000001\.pt is damaged"):
        states.load_newest(load, lines.append)
    assert (tmp_path / "state-00000001.pt").is_file()


def test_a_state_of_another_run_is_told_and_not_passed_over(state: State, tmp_path: Path):
    saved(SavedStates(tmp_path), state, 1, 2)
    one = stage([Scratch()], steps=1)
    other = State.fresh(network(0, width=3, depth=1), None, one)
    with pytest.raises(SrkdError, match=r"state-00000002\.pt does not fit"):
        SavedStates(tmp_path).load_newest(other.load, lambda line: None)
    assert len(SavedStates(tmp_path).paths()) == 2


def test_a_save_cut_short_leaves_the_state_before_it_and_is_swept_away(state: State, tmp_path: Path):
    states = SavedStates(tmp_path)
    saved(states, state, 1)
    with atomic_path(tmp_path / "state-00000002.pt") as half:
        half.write_bytes(b"half of a st")
        # as left by a kill: neither renamed nor removed
        os.link(half, tmp_path / ".state-00000002.killed.pt")
        half.write_bytes(b"whole")
    (tmp_path / "state-00000002.pt").unlink()
    assert states.newest() == tmp_path / "state-00000001.pt"
    states.remove_unfinished()
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000001.pt"]


def test_a_file_and_its_name_are_on_the_disk_before_a_save_is_done(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A power cut must not undo a save: content is synced before the rename, the folder after it."""
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "fsync", synced)
    monkeypatch.setattr(atomic.os, "replace", renamed)
    state.save(tmp_path / "state.pt")
    assert order == ["file", "rename", "folder"]


def test_what_cannot_be_appended_names_the_file(tmp_path: Path):
    with pytest.raises(Unwritable, match=r"nowhere/log\.txt: No such file"):
        append(tmp_path / "nowhere" / "log.txt", b"line")
    if os.path.exists("/dev/full"):
        with pytest.raises(Unwritable, match="/dev/full: No space left"):
            append(Path("/dev/full"), b"line")
