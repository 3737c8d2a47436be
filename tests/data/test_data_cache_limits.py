"""The size limit of the cache of decoded images, and the fallback if it is too small."""

from __future__ import annotations

import gc
import re
import time
from pathlib import Path

import pytest

from compressor.base import cache_folder
from compressor.base.cache_folder import CacheFolder, default_folder, format_exact_bytes, parse_bytes
from compressor.base.errors import SrkdError, UsageError
from compressor.base.machine import available_memory
from compressor.data import decode
from compressor.data.decode import decode_all
from compressor.images.sets import ImagePair
from tests.support.data_cache_cases import batches, entries, read, write_photos


@pytest.fixture
def photos(tmp_path: Path) -> list[ImagePair]:
    return write_photos(tmp_path / "photos")


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


def test_small_stores_and_a_cache_of_nothing_leave_no_trace(photos, cache):
    decode_all(photos, scale=4, cache=cache)
    read(photos, CacheFolder(cache.path, 0))
    assert not cache.path.exists() or not entries(cache)


def test_entries_used_longest_ago_make_room_and_none_in_use_does(tmp_path, cache):
    sets = [write_photos(tmp_path / f"set{k}", seed=10 * k) for k in range(4)]
    size = read(sets[0], cache).bytes
    bounded = CacheFolder(cache.path, int(3.5 * (size + 2000)))
    keys = []
    for pairs in sets[:3]:
        read(pairs, bounded)
        keys.append({entry.name for entry in entries(bounded)})
        time.sleep(0.01)
    gc.collect()
    oldest, second = keys[0], keys[1] - keys[0]
    in_use = read(sets[0], bounded)  # used last, and in use
    gc.collect()
    read(sets[3], bounded)
    left = {entry.name for entry in entries(bounded)}
    assert len(left) == 3 and oldest <= left and not second & left
    tight = CacheFolder(cache.path, int(1.2 * (size + 2000)))
    notes: list[str] = []
    read(sets[1], tight, notes)
    assert oldest <= {entry.name for entry in entries(tight)}, "an entry in use was removed"
    assert "--cache-size" in notes[0]
    del in_use


def test_an_entry_is_free_once_its_batches_are_gone(photos, cache):
    first_batches = batches(read(photos, cache))
    first_batches.at(0)
    (entry,) = entries(cache)
    tight = CacheFolder(cache.path, 1000)
    assert not tight.free_space(900) and entry.exists()
    gc.disable()
    try:
        del first_batches
        assert tight.free_space(900) and not entry.exists()
    finally:
        gc.enable()


def test_what_is_larger_than_the_cache_stays_in_memory_and_removes_nothing(tmp_path, photos, cache):
    read(photos, cache)
    before = entries(cache)
    notes: list[str] = []
    large = write_photos(tmp_path / "large", 9, seed=50)
    decoded = read(large, CacheFolder(cache.path, read(photos, cache).bytes * 2), notes)
    assert len(decoded.images) == 9 and entries(cache) == before
    assert "--cache-size" in notes[-1]


def test_a_full_disk_and_a_folder_that_cannot_be_written_fall_back_to_memory(photos, cache, tmp_path, monkeypatch):
    notes: list[str] = []
    (tmp_path / "file").write_text("no folder")
    assert len(read(photos, CacheFolder(tmp_path / "file" / "cache"), notes).images) == 3
    assert len(notes) == 1 and "nothing is kept" in notes[0]

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_folder, "flush_file", full)
    notes.clear()
    assert len(read(photos, cache, notes).images) == 3
    assert notes == [f"nothing is kept in the cache folder {cache.path}: No space left on device"]
    assert list(cache.path.iterdir()) == []


def test_without_room_anywhere_the_sizes_and_the_ways_out_are_told(photos, monkeypatch):
    monkeypatch.setattr(decode, "MEMORY_SHARE", 0.0)
    with pytest.raises(SrkdError, match=r"--cache-size.*SRKD_CACHE"):
        read(photos, None)


def test_a_container_may_have_less_memory_than_its_machine(tmp_path):
    whole = available_memory(tmp_path)
    assert whole > 10**8
    for most, used, expected in (("1000000", "400000", 600_000), ("300000", "400000", 0)):
        (tmp_path / "memory.max").write_text(most + "\n")
        (tmp_path / "memory.current").write_text(used + "\n")
        assert available_memory(tmp_path) == expected
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) > 10**8


def test_sizes_are_read_as_people_write_them():
    assert [parse_bytes(text) for text in ("500MB", "8GB", "1.5 tb", "20g", "0", "1000", 77)] == [
        500_000_000,
        8_000_000_000,
        1_500_000_000_000,
        20_000_000_000,
        0,
        1000,
        77,
    ]
    for wrong in ("", "much", "-1", "8 apples", "1.2.3"):
        with pytest.raises(UsageError, match=rf"'{re.escape(wrong)}'.*500MB"):
            parse_bytes(wrong)


def test_sizes_are_written_as_they_are_read():
    written = {0: "0", 77: "77", 1001: "1001", 3000: "3KB", 1_500_000_000: "1500MB", 20_000_000_000: "20GB"}
    assert {size: format_exact_bytes(size) for size in written} == written
    assert [parse_bytes(text) for text in written.values()] == list(written)


def test_where_the_cache_lies(monkeypatch):
    monkeypatch.setenv("SRKD_CACHE", "/somewhere")
    assert default_folder() == Path("/somewhere")
    monkeypatch.delenv("SRKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_folder() == Path("/xdg/srkd")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_folder().is_relative_to("/home/somebody") and default_folder().name == "srkd"
