"""Opening of hostile and damaged checkpoints: `python -m tests.support.hostile_checkpoints COUNT SEED FOLDER`.

Every file is opened under a memory limit. The results are printed as one JSON object; a file that gives neither a
network that runs nor a one-line SrkdError is kept in FOLDER and listed under `wrong`.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.load import load_checkpoint
from tests.support.hostile_files import Attack, Bases, always, header_file, records_of, zipped

HEADROOM_BYTES = 512 * 2**20


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to sixteen faults: flipped bits, lost, repeated or overwritten bytes, or a missing end."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        at, length = rng.randrange(len(data)), rng.choice((1, 2, 8, 64))
        kind = rng.randrange(6)
        if kind <= 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at : at + length] = rng.randbytes(length)
        else:
            del data[at if rng.random() < 0.5 else len(data) - length :]
    return bytes(data)


def damaged_pickle(archive: bytes, rng: random.Random) -> bytes:
    """Return an archive with a damaged pickle and correct checksums."""
    records = records_of(archive)
    name = next(name for name in records if name.endswith("data.pkl"))
    return zipped({**records, name: damaged(records[name], rng)})


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """Return our own file with changed numbers and words in its header, of the right length."""
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].decode()
    for old in rng.sample(("0", "4", "F32", "edsr", "shape", "weight", "[", ":", "1.0", "blocks"), 2):
        new = rng.choice(("", "-1", "1e9", "99999999999", "null", '"', "F64", "{}", "é"))
        text = text.replace(old, new, rng.choice((1, 1, 5)))
    return header_file(text.encode(), content[8 + length :])


def by_chance(bases: Bases, seed: int) -> Iterator[Attack]:
    rng = random.Random(seed)
    number = 0
    while True:
        number += 1
        kind = number % 4
        if kind == 0:
            yield f"damage {number}: pickle", damaged_pickle(bases.zip, rng)
        elif kind == 1:
            yield f"damage {number}: header", damaged_json(bases.own, rng)
        elif kind == 2:
            # The first kilobytes of torch's older format are its pickles, where damage has the most effect.
            base = rng.choice((bases.legacy, bases.carn))
            yield f"damage {number}: legacy", damaged(base[:2500], rng) + base[2500:]
        else:
            yield f"damage {number}: file", damaged(rng.choice(bases.files), rng)


def verdict(path: Path) -> str:
    """Return `loaded`, `refused`, or a description of the failure."""
    try:
        network = load_checkpoint(path, scale=2 if path.stat().st_size % 2 else None).network
        with torch.no_grad():
            sr = network(torch.zeros(1, 3, 2, 3))
        return "loaded" if sr.shape[-1] == 3 * network.spec.scale else f"an output of shape {tuple(sr.shape)}"
    except SrkdError as error:
        message = str(error)
        one_line = message.isprintable() and len(message) < 900 and str(path) in message
        return "refused" if one_line else f"not one line that names the file: {message[:300]!r}"
    except BaseException:
        return traceback.format_exc(limit=-3)


def limit_memory() -> None:
    """Limit the address space to the present use plus a fixed part, so that a bomb ends in MemoryError."""
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM_BYTES, used + HEADROOM_BYTES))


def peak_mb(*, reset: bool = False) -> float:
    """Return the peak of resident memory in MB since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def main() -> int:
    count, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    sentinel = folder / "CODE_RAN"
    bases = Bases(folder)
    attacks = list(always(bases, sentinel))
    assert not sentinel.exists(), "making the attacks must not set them off"
    path = folder / "hostile.pth"
    for content in bases.files:
        path.write_bytes(content)
        assert verdict(path) == "loaded", "a file that was not damaged"
    limit_memory()
    start_mb = peak_mb(reset=True)
    begin, tally, wrong = time.perf_counter(), {"loaded": 0, "refused": 0}, []
    chance = by_chance(bases, seed)
    slowest = (0.0, "")
    for number in range(max(count, len(attacks))):
        name, content = attacks[number] if number < len(attacks) else next(chance)
        path.write_bytes(content)
        one = time.process_time()
        outcome = verdict(path)
        slowest = max(slowest, (round(time.process_time() - one, 2), name))
        if outcome in tally and not sentinel.exists():
            tally[outcome] += 1
        else:
            wrong.append({"name": name, "said": "code ran" if sentinel.exists() else outcome})
            (folder / f"wrong{len(wrong)}.pth").write_bytes(content)
    report = {
        **tally,
        "wrong": wrong,
        "tried": max(count, len(attacks)),
        "always": len(attacks),
        "growth_mb": round(peak_mb() - start_mb),
        "seconds": round(time.perf_counter() - begin, 1),
        "slowest": slowest,
    }
    sys.stdout.write(json.dumps(report))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
