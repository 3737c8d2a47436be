"""Decoded images on disk: reused while the files are unchanged, shared by processes, bounded, checked."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.base import cache_folder
from compressor.base.cache_folder import CacheFolder, default_folder, format_exact_bytes, parse_bytes
from compressor.base.errors import SrkdError, UsageError
from compressor.base.machine import available_memory
from compressor.data import decode
from compressor.data.decode import decode_all
from compressor.images.sets import ImagePair
from srkd import compress
from tests.support.commands import python
from tests.support.data_cache_cases import batches, entries, noise, read, write_photos
from tests.support.run_files import read_json


@pytest.fixture
def photos(tmp_path: Path) -> list[ImagePair]:
    return write_photos(tmp_path / "photos")


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


def test_batches_are_the_same_from_memory_a_new_entry_and_a_reused_one(photos, cache):
    notes: list[str] = []
    stores = [read(photos, None), read(photos, cache, notes), read(photos, cache, notes)]
    assert "decoded in" in notes[0] and "as decoded before" in notes[1]
    for step in range(3):
        results = [batches(decoded).at(step) for decoded in stores]
        for other in results[1:]:
            assert torch.equal(other.lr, results[0].lr) and torch.equal(other.hr, results[0].hr)
    assert len({decoded.select(range(3), lr_patch=6).digest() for decoded in stores}) == 1


@pytest.mark.parametrize("change", ["added", "removed", "pixels alone", "scale", "border"])
def test_whatever_changes_the_pixels_makes_a_new_entry(change, photos, cache, tmp_path):
    path = photos[1].hr
    Image.fromarray(noise(44, 48, 1)).save(path, compress_level=0)
    first, before = read(photos, cache), path.stat()
    scale, border = 4, "mirror"
    if change == "added":
        photos = [*photos, *write_photos(tmp_path / "more", 1, seed=9)]
    elif change == "removed":
        photos = photos[:-1]
    elif change == "scale":
        scale = 2
    elif change == "border":
        border = "clamp"
    else:
        # Other pixels in the same number of bytes, and the time set back, as some copying tools do.
        Image.fromarray(noise(44, 48, 99)).save(path, compress_level=0)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    second = decode_all(photos, scale=scale, border=border, cache=cache, small_bytes=0)
    assert len(entries(cache)) == 2 and first.images != second.images


@pytest.mark.parametrize("damage", ["cut", "longer", "no index", "index", "row", "place", "no plane"])
def test_a_damaged_entry_is_told_and_made_anew(damage, photos, cache):
    sound = batches(read(photos, cache)).at(0)
    (entry,) = entries(cache)
    index = entry / "index.json"
    if damage == "cut":
        os.truncate(entry / "hr.u8", 1000)
    elif damage == "longer":
        with open(entry / "lr.u8", "ab") as file:
            file.write(b"x")
    elif damage == "no index":
        index.unlink()
    elif damage == "index":
        index.write_bytes(index.read_bytes()[:-20])
    elif damage == "no plane":
        (entry / "lr.u8").unlink()
    else:
        rows = json.loads(index.read_text())
        if damage == "row":
            rows[1][1] = []
        else:
            rows[1][1]["hr"]["start"] = 10**9
        index.write_text(json.dumps(rows))
    notes: list[str] = []
    assert torch.equal(batches(read(photos, cache, notes)).at(0).hr, sound.hr)
    assert len(notes) == 2 and "making it again" in notes[0] and str(entry) in notes[0]
    notes.clear()
    read(photos, cache, notes)
    assert len(notes) == 1 and "as decoded before" in notes[0]


def test_of_two_that_come_at_once_one_decodes_and_the_other_waits(photos, cache, monkeypatch):
    started, notes = threading.Event(), list[str]()
    real = decode.decode_in_order
    times = []

    def slow(*arguments, **options):
        times.append(1)
        started.set()
        while not notes:  # until the other one says that it waits
            time.sleep(0.01)
        return real(*arguments, **options)

    monkeypatch.setattr(decode, "decode_in_order", slow)
    first = threading.Thread(target=read, args=(photos, cache))
    first.start()
    started.wait()
    assert len(read(photos, cache, notes).images) == 3
    first.join()
    assert len(times) == 1 and "waiting" in notes[0]


def test_what_a_killed_process_left_is_swept_away(photos, cache):
    cache.path.mkdir()
    left = cache.path / "images-0123.making-xyz"
    left.mkdir()
    (left / "hr.u8").write_bytes(b"half")
    (cache.path / "images-0123.lock").write_bytes(b"")
    read(photos, cache)
    assert not left.exists()


def test_mapped_pixels_that_are_written_to_do_not_reach_the_file(photos, cache):
    decoded = read(photos, cache)
    before = decoded.lr.clone()
    decoded.lr.zero_()
    assert torch.equal(read(photos, cache).lr, before)


MEASURE = """
import os, resource, sys
from pathlib import Path
from compressor.data.decode import decode_all
from compressor.base.cache_folder import CacheFolder
from compressor.base.context import Context
from compressor.images.sets import find_sets
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
pairs = find_sets(Path(sys.argv[1]), scale=4)[0].pairs
cache = CacheFolder(Path(sys.argv[2]))
decode_all(pairs[:6], scale=4, cache=cache, small_bytes=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decoded = decode_all(pairs, scale=4, cache=cache, small_bytes=0)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(decoded.bytes // 1000, after - before)
"""


@pytest.mark.ci
def test_reading_holds_a_few_images_in_memory_not_all(tmp_path, cache):
    folder = tmp_path / "large"
    folder.mkdir()
    for index in range(14):
        ramp = np.broadcast_to(np.arange(1600, dtype=np.uint8)[:, None], (1200, 1600, 3))
        Image.fromarray(np.roll(ramp, index, 1)).save(folder / f"{index}.bmp")
    done = python("-c", MEASURE, folder, cache.path, OMP_NUM_THREADS="1")
    assert done.code == 0, done.err
    stored, grown = map(int, done.out.split())
    assert stored > 80_000
    assert grown / (1024 if sys.platform == "darwin" else 1) < stored / 2


def test_a_worker_that_fails_costs_its_image_and_names_it(photos, monkeypatch):
    real = decode.read_rgb_u8

    def fails_on_one(path: Path) -> torch.Tensor:
        if path.name == "1.png":
            raise RuntimeError("a fault of a library")
        return real(path)

    monkeypatch.setattr(decode, "read_rgb_u8", fails_on_one)
    store = read(photos, None).select(range(3), lr_patch=6)
    assert store.names == ("0", "2") and store.skipped[0].path == photos[1].hr
    assert "1.png cannot be read: RuntimeError: a fault of a library" in store.skipped[0].reason


@pytest.mark.ci
def test_a_run_says_where_its_images_are_and_sees_the_same_ones(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.full((3300, 3300, 3), 40, np.uint8)).save(folder / "large.bmp")
    words = {"data": folder, "student": "edsr:width=4,depth=1,scale=4", "recipe": "scratch", "steps": 1}
    words |= {"settings": ("schedule.batch=1",)}

    def trained(name: str, **options: object) -> tuple[bytes, str]:
        notes: list[str] = []
        report = compress(out=tmp_path / name, announce=notes.append, **words, **options)
        return report.student_path.read_bytes(), "\n".join(notes)

    first, notes = trained("first")
    assert "1 image decoded in" in notes and f"kept in {default_folder()}" in notes
    apart, notes = trained("apart", cache_size="0")
    assert "decoded" not in notes and apart == first
    assert read_json(tmp_path / "apart")["options"]["cache_size"] == 0


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


def test_what_else_lies_in_the_folder_stays(cache):
    folders = [cache.path / name for name in ("hub", "my-photos", "images-0")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"bytes")
    assert CacheFolder(cache.path, 1).free_space(0) and [folder.is_dir() for folder in folders] == [True, True, False]


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
    assert available_memory(tmp_path) > 10**8
    for most, used, cached, expected in (
        ("1000000", "400000", 0, 600_000),
        ("1000000", "400000", 100_000, 700_000),
        ("300000", "400000", 0, 0),
    ):
        (tmp_path / "memory.max").write_text(most + "\n")
        (tmp_path / "memory.current").write_text(used + "\n")
        (tmp_path / "memory.stat").write_text(f"anon {used}\ninactive_file {cached}\n")
        assert available_memory(tmp_path) == expected
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) > 10**8


def test_sizes_are_read_as_people_write_them():
    sizes = {"500MB": 5e8, "8GB": 8e9, "1.5 tb": 1.5e12, "20g": 2e10, "0": 0, "1000": 1000, 77: 77}
    assert {text: parse_bytes(text) for text in sizes} == sizes
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
