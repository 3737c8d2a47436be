"""`srkd export --for HOST`: a folder for each host, with a README of three lines and notes.

Where a host shows the README as the model card, these lines are the card's last section.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path, read_text, require_writable_folder
from compressor.base.machine import count_threads, machine_facts
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.runtimes.table import OpenOptions
from export.formats.conversion import CannotConvert, Size
from export.hosts.job import HostFiles, HostJob
from export.hosts.table import HOSTS
from export.timing.stopwatch import image_for
from export.timing.turns import take_turns
from export.writing.card import MARK as CARD_MARK
from export.writing.card import CardFacts
from export.writing.exporting import HostFolder, Source

README = "README.md"
MARK = "Written by srkd export"
TIMED_SIZE, TIMED_SECONDS = (320, 180), 1.0


def export_for_hosts(
    network: Network,
    source: Source,
    hosts: Sequence[str],
    out_dir: Path,
    context: Context = QUIET,
    facts: CardFacts | None = None,
    size: Size | None = None,
) -> tuple[HostFolder, ...]:
    """Write `<out_dir>/<host>` for each host; one that cannot run the network does not stop the others.

    `facts` are for a host whose README is a model card; None: those of the checkpoint's header. `size` is that of the
    images, in place of a host's own, for hosts whose files take one size.
    """
    network = network.deployed()
    folders = []
    rows = [HOSTS.find(name) for name in dict.fromkeys(hosts)]
    for host in rows:
        require_writable_folder(out_dir / host.name, "--out")
        if size is not None and host.size is None:
            raise UsageError(
                f"--static is for hosts whose files take one size, and {host.name} takes any: leave it out"
            )
    for host in rows:
        folder = out_dir / host.name
        try:
            job = HostJob(
                host.name, host.title, network, source, folder, context, facts, host.size and (size or host.size)
            )
            written = host.load().write(job)
            expected = _expected(written)
            readme = _write_readme(folder, host.title, written, expected)
            also = written.also if readme is None else (*written.also, readme)
            folders.append(HostFolder(host.name, folder, written.files, also, expected, written.notes))
        except CannotConvert as error:
            folders.append(HostFolder(host.name, None, reason=str(error), verdict="unavailable"))
        except SrkdError as error:
            folders.append(HostFolder(host.name, None, reason=str(error), verdict="failed"))
    return tuple(folders)


def _expected(written: HostFiles) -> str | None:
    """Return the time of an image here, with what it was measured on, or what the host says of it."""
    if written.timed is None:
        return written.expect
    runtime = open_model(written.timed, OpenOptions(trusted=True))
    size = runtime.descriptor.fixed_size or TIMED_SIZE
    image = image_for(runtime, *size)
    (times,) = take_turns([lambda: runtime.run(image)], seconds_each=TIMED_SECONDS)
    where = f"{runtime.name} on {machine_facts()['cpu']}, {count_threads(torch.get_num_threads())}"
    return f"{times.percentile(50):.1f} ms for an image of {size[0]}x{size[1]} in srkd, {runtime.precision}, {where}"


def _write_readme(folder: Path, title: str, written: HostFiles, expected: str | None) -> Path | None:
    """Write the README; None if one that srkd did not write is there."""
    path, mark = folder / README, CARD_MARK if written.card else MARK
    if path.exists() and mark not in read_text(path, 10**6):
        return None
    lines = [
        f"{written.card}\n## Use\n" if written.card else f"# {title}\n",
        f"- Put {written.place}.",
        f"- Call: `{written.call}`",
        f"- Expect {expected}." if expected else "- Expect: no file of this kind runs on the machine that wrote it.",
        "",
        *(f"{note[0].upper()}{note[1:]}." for note in written.notes),
        *([] if written.card else [f"{MARK}."]),
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
