"""Which φ a contrastive method compares images in: resolved once, before training, and said in the first line.

In this order: the file of `--phi-weights`, torch.hub's cache, a download into it, else the teacher's own first blocks.
A download that does not start within 5 s, that breaks off, or whose checksum is wrong counts as unavailable. With
`phi=vgg19` (what a paper's preset insists on) there is no `else`.
"""

from __future__ import annotations

import hashlib
import http.client
import queue
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal, TypeAlias

import torch

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path, file_sha256
from compressor.models.networks.base import Network
from recipes.terms.perceptual import VGG19, Phi, TeacherPhi, load_vgg19

FILE = "vgg19-dcbb9e9d.pth"
URL = f"https://download.pytorch.org/models/{FILE}"
SHA256 = "dcbb9e9d"
"""What torchvision's file name promises of the file's SHA-256."""
START_WITHIN_S = 5.0
STALLS_AFTER_S = 30.0
CHUNK_BYTES = 2**20

OWN = "the teacher's own first blocks"
OR_ELSE = f", else {OWN}"

Choice: TypeAlias = Literal["auto", "vgg19", "teacher"]


@dataclass(frozen=True)
class Resolved:
    """The outcome, for the first line, run.json and the report: `how` says it in words."""

    kind: Literal["vgg19", "teacher"]
    how: str
    path: Path | None = None
    sha256: str = ""

    def owned_by(self, owner: str) -> Resolved:
        """The same, where the blocks are not those of the teacher that was given."""
        return replace(self, how=self.how.replace(OWN, f"{owner}'s own first blocks"))

    def build(self, teacher: Network | None) -> Phi:
        """φ on the CPU, shapes alone where no file was fetched; `teacher` serves where this is the teacher's own."""
        if self.kind == "vgg19" and self.path is None:
            with torch.device("meta"):
                return VGG19()
        if self.kind == "vgg19" and self.path is not None:
            return load_vgg19(self.path, sha256=self.sha256)
        if teacher is None:
            raise SrkdError(f"phi is {self.how}, and no teacher is there: add --teacher FILE or --phi-weights FILE")
        return TeacherPhi(teacher)


@dataclass(frozen=True)
class _Answer:
    """A download that has started: the first bytes, the rest, and how many there are (0: not told)."""

    first: bytes
    rest: IO[bytes]
    total: int


def resolve_phi(
    choice: Choice = "auto", weights: Path | None = None, *, download: bool = True, progress: Progress = no_progress
) -> Resolved:
    """One process of a run calls this and tells the others. Without `download` nothing is fetched, nor needed: what
    would be is said, for whoever only counts."""
    if weights is not None:
        if choice == "teacher":
            raise UsageError("phi=teacher uses no file: leave out --phi-weights or phi=teacher")
        return Resolved("vgg19", f"VGG-19 from {weights}", weights, file_sha256(weights))
    if choice == "teacher":
        return Resolved("teacher", f"{OWN} (phi=teacher)")
    cached = hub_cache()
    why = ""
    if not _genuine(cached):
        if not download:
            return Resolved("vgg19", f"VGG-19, if {URL} can be fetched{OR_ELSE if choice == 'auto' else ''}")
        try:
            fetch(URL, cached, SHA256, progress=progress)
        except SrkdError as error:
            why = str(error)
    if not why:
        return Resolved("vgg19", f"VGG-19 from {cached}", cached, SHA256)
    if choice == "vgg19":
        raise SrkdError(
            f"VGG-19 is needed and not at hand ({why}): download {URL} elsewhere and give --phi-weights FILE, or put "
            f"it at {cached}"
        )
    return Resolved("teacher", f"{OWN}, as VGG-19 is not at hand ({why})")


def hub_cache() -> Path:
    """Where torch.hub keeps the file ($TORCH_HOME)."""
    import torch.hub

    return Path(torch.hub.get_dir()) / "checkpoints" / FILE


def fetch(url: str, path: Path, sha256: str, *, progress: Progress = no_progress) -> None:
    """Fetch `url` to `path`; the file appears whole and with the checksum it should have, or not at all."""
    answer = _started(lambda: connect(url), START_WITHIN_S)
    digest, done, chunk = hashlib.sha256(), 0, answer.first
    with answer.rest, atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
            while chunk:
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress("VGG-19", done, max(answer.total, done))
                chunk = _more(answer.rest, done)
        if answer.total and done != answer.total:
            raise SrkdError(f"its download broke off after {done:,} of {answer.total:,} bytes")
        if not digest.hexdigest().startswith(sha256):
            raise SrkdError(f"its download's SHA-256 begins with {digest.hexdigest()[:8]}, not with {sha256}")


def _more(rest: IO[bytes], done: int) -> bytes:
    """Told here, before it could be taken for an error of the disk."""
    try:
        return rest.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise SrkdError(f"its download broke off after {done:,} bytes: {error}") from error


def connect(url: str) -> _Answer:
    """The answer of a server, once its first bytes are here."""
    response = urllib.request.urlopen(url, timeout=STALLS_AFTER_S)  # noqa: S310 - the caller's URL is a constant
    total = response.headers.get("Content-Length") or "0"
    return _Answer(response.read1(CHUNK_BYTES), response, int(total) if total.isdigit() else 0)


def _started(begin: Callable[[], _Answer], seconds: float) -> _Answer:
    """What `begin` gives, if it does within some seconds. On a thread: no time limit of a socket covers the look-up of
    a name."""
    answers: queue.SimpleQueue[_Answer | Exception] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            answers.put(begin())
        except (OSError, http.client.HTTPException) as error:
            answers.put(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise SrkdError(f"its download did not start within {seconds:g} s") from None
    if isinstance(answer, Exception):
        raise SrkdError(f"its download did not start: {answer}") from answer
    return answer


def _genuine(path: Path) -> bool:
    return path.is_file() and file_sha256(path).startswith(SHA256)
