"""The selection of φ, the frozen network whose features contrastive methods compare: one per run, before training.

VGG-19 from the file of `--phi-weights`, from torch.hub's cache, or downloaded into it, in this order; else the
teacher's own first blocks. With `phi=vgg19` (required by a paper's preset) there is no fallback.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.request import urlopen

from pydantic import Field
from torch import nn

from compressor.assets import embedded_teacher
from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError, one_line
from compressor.base.files import atomic_path, file_sha256
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.published import hub_file
from compressor.models.networks.base import Network
from compressor.training.method import Method
from recipes.terms.perceptual import VGG19, Phi, TeacherPhi, load_vgg19, plan_teacher_phi

FILE = "vgg19-dcbb9e9d.pth"
URL = f"https://download.pytorch.org/models/{FILE}"
SHA256 = "dcbb9e9d"
"""The first digits of the file's SHA-256, which torchvision puts in its name."""
STALLS_AFTER_S = 10.0
BLOCK_BYTES = 10**6

TEACHER_BLOCKS = "the teacher's own first blocks"

PhiChoice: TypeAlias = Literal["auto", "vgg19", "teacher"]


@dataclass(frozen=True)
class UsesPerceptualNet(Method):
    """A method with φ as `step.helpers[self.name]["phi"]`: frozen, built at each start, not saved."""

    phi: Annotated[
        PhiChoice, Field(description="VGG-19 or the teacher's first blocks; auto: VGG-19 where it is available")
    ] = "auto"
    phi_source: PhiSource | None = None
    """The φ of the run, set by `bind_phi`."""
    name: str = ""

    @property
    def uses_teacher_blocks(self) -> bool:
        return self.phi == "teacher" if self.phi_source is None else self.phi_source.kind == "teacher"

    def helpers(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return φ as a helper; `teacher` is the loaded teacher, even if a copy of it is trained."""
        if self.phi_source is None and self.phi != "teacher":
            raise SrkdError(f"phi={self.phi} of {self.name} has not been resolved: pass the method through `bind_phi`")
        source = self.phi_source or resolve_phi("teacher")
        return nn.ModuleDict({"phi": source.build(teacher)})

    def phi_levels(self, teacher: Network | None) -> int:
        if not self.uses_teacher_blocks:
            return VGG19.levels
        return len(plan_teacher_phi((teacher or _embedded_network()).spec).macs)


@cache
def _embedded_network() -> Network:
    """Return the embedded teacher; φ is a copy of it."""
    return load_checkpoint(embedded_teacher()).network


def find_phi(methods: Sequence[Method], weights: Path | None, *, progress: Progress = no_progress) -> PhiSource | None:
    """Return the φ of these methods, or None if none uses it; `weights` is the file of `--phi-weights`."""
    users = [method for method in methods if isinstance(method, UsesPerceptualNet)]
    if not users:
        if weights is not None:
            names = ", ".join(method.name for method in methods)
            raise UsageError(f"--phi-weights {weights}: {names} does not use VGG-19; leave it out")
        return None
    choices: dict[PhiChoice, str] = {method.phi: method.name for method in users if method.phi != "auto"}
    if len(choices) > 1:
        text = " and ".join(f"{phi} in {name}" for phi, name in choices.items())
        raise UsageError(f"phi is {text}: a run has one, --set phi=vgg19 or --set phi=teacher")
    choice: PhiChoice = next(iter(choices)) if choices else "auto"
    return resolve_phi(choice, weights, progress=progress)


def lacks_vgg19(methods: Sequence[Method]) -> bool:
    """Return whether methods accept only VGG-19, and its file is not in the cache."""
    is_needed = any(isinstance(method, UsesPerceptualNet) and method.phi == "vgg19" for method in methods)
    return is_needed and not hub_file(FILE).is_file()


def bind_phi(methods: Sequence[Method], source: PhiSource | None) -> tuple[Method, ...]:
    return tuple(
        dataclasses.replace(method, phi_source=source) if isinstance(method, UsesPerceptualNet) else method
        for method in methods
    )


@dataclass(frozen=True)
class PhiSource:
    """The φ of a run, for its first line, run.json and the report; `how` describes it in words."""

    kind: Literal["vgg19", "teacher"]
    how: str
    path: Path | None = None
    sha256: str = ""

    def with_owner(self, owner: str) -> PhiSource:
        """Return the same φ, described as the first blocks of `owner` instead of the teacher."""
        return dataclasses.replace(self, how=self.how.replace(TEACHER_BLOCKS, f"{owner}'s own first blocks"))

    def build(self, teacher: Network | None) -> Phi:
        """Return φ on the CPU; φ = teacher copies the blocks of `teacher`, or of the embedded one if it is None."""
        if self.path is not None:
            return load_vgg19(self.path, sha256=self.sha256)
        return TeacherPhi(teacher or _embedded_network())


def resolve_phi(
    choice: PhiChoice = "auto", weights: Path | None = None, *, progress: Progress = no_progress
) -> PhiSource:
    """Return the selected φ; one process of a run calls this and shares the result."""
    if weights is not None:
        if choice == "teacher":
            raise UsageError("phi=teacher uses no file: leave out --phi-weights, or add --set phi=vgg19")
        return PhiSource("vgg19", f"VGG-19 from {weights}", weights, file_sha256(weights))
    if choice == "teacher":
        return PhiSource("teacher", f"{TEACHER_BLOCKS} (phi=teacher)")
    cached = hub_file(FILE)
    reason = ""
    if not (cached.is_file() and file_sha256(cached).startswith(SHA256)):
        try:
            fetch(URL, cached, SHA256, progress)
        except SrkdError as error:
            reason = str(error)
    if not reason:
        return PhiSource("vgg19", f"VGG-19 from {cached}", cached, SHA256)
    if choice == "vgg19":
        raise SrkdError(
            f"VGG-19 is needed and not available ({reason}): download {URL} elsewhere and give --phi-weights FILE, or "
            f"put it at {cached}"
        )
    return PhiSource("teacher", f"{TEACHER_BLOCKS}, as VGG-19 is not available ({reason})")


def fetch(url: str, path: Path, sha256: str, progress: Progress) -> None:
    """Fetch `url` to `path`, with the expected checksum; a server that is silent is given up."""
    with (
        one_line("its download failed", first=True),
        urlopen(url, timeout=STALLS_AFTER_S) as stream,  # noqa: S310 - the address is a constant
        atomic_path(path) as temporary,
        open(temporary, "wb") as file,
    ):
        digest, total = hashlib.sha256(), int(stream.headers.get("Content-Length", 0))
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            file.write(block)
            progress("VGG-19, MB", file.tell() // BLOCK_BYTES, total // BLOCK_BYTES)
        if not digest.hexdigest().startswith(sha256):
            raise ValueError(f"{file.tell():,} of {total:,} bytes, of another SHA-256 than {sha256}…")
