"""Trackers of a run's numbers, in addition to metrics.jsonl: TensorBoard's event files, Weights & Biases."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c

from compressor.base.choices import TrackerName
from compressor.base.errors import MissingExtra, SrkdError, one_line, reason_of
from compressor.base.files import append, read_text, write_text

WANDB_FILE = "wandb.json"
"""File of a run folder with the run's id and address at Weights & Biases; a resumed run continues its curves by it."""
MOST_WANDB_BYTES = 10_000
SHARED_FACTS = ("recipe", "preset", "seed", "device", "execution_mode", "processes", "student")
"""Keys of run.json that are sent to Weights & Biases; other keys hold paths of this machine."""


class TrackerLost(SrkdError):
    """A tracker failed, but the run can continue."""


class Tracker:
    """A tracker of one run's numbers and pictures."""

    is_local = True
    """Whether nothing leaves this machine."""

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Begin or continue, with the content of run.json; called again when that changes."""

    def scalars(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Record the numbers of one step."""

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """Show PNG pictures by name."""

    def end(self, *, finished: bool) -> None:
        """Finish the tracking; called once, when the run is finished or stops."""


class Board(Tracker):
    """TensorBoard: one event file, in which each number is written at once; a resumed run starts another beside it.

    tensorboardX's own writer has a thread and a queue of ten: when its disk is full the thread dies with a traceback,
    and the run waits for ever on the queue. Here a failed write is an error at the line that wrote.
    """

    def __init__(self, folder: Path) -> None:
        # The process id prevents a run resumed within the same second from appending to a cut record.
        self.path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._begun = False

    def scalars(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        self._add(step, [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in numbers.items()])

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        values = []
        for name, png in pictures.items():
            width, height = Image.open(io.BytesIO(png)).size
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            values.append(Summary.Value(tag=name, image=image))
        self._add(step, values)

    def _add(self, step: int, values: Sequence[Any]) -> None:
        if not self._begun:
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
            self._begun = True
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        """Append a TFRecord: the length, its checksum, the event, its checksum."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        sums = [struct.pack("<I", masked_crc32c(piece)) for piece in (length, content)]
        append(self.path, length + sums[0] + content + sums[1])


class WeightsAndBiases(Tracker):
    """Weights & Biases: numbers and the non-path facts of run.json, neither code, git state nor the terminal.

    Project, entity and mode are wandb's own settings. After an error in mid-run the run continues without wandb.
    """

    is_local = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run: Any = None

    def begin(self, facts: Mapping[str, Any]) -> None:
        if self._run is not None:
            return
        wandb = import_wandb()
        identity = str(read_wandb_facts(self._folder).get("id") or uuid.uuid4().hex)
        with one_line("--track wandb: it cannot begin; `wandb login` logs in, WANDB_MODE=offline needs no network"):
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "srkd"),
                name=self._folder.resolve().name,
                id=identity,
                resume="allow",
                reinit="create_new",  # the runs of a plan follow one another in one process
                dir=str(self._folder),
                config={key: facts[key] for key in SHARED_FACTS if key in facts},
                settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
            )
            # A resumed run repeats steps, which wandb's own step counter does not allow.
            self._run.define_metric("*", step_metric="step")
            # An offline run has no address yet, and wandb warns when it is read.
            url = None if self._run.offline else self._run.url
        write_text(self._folder / WANDB_FILE, json.dumps({"id": identity, "url": url}) + "\n")

    def scalars(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        self._log({"step": step, **{f"{kind}/{name}": value for name, value in numbers.items()}})

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        if self._run is not None:
            images = {name: import_wandb().Image(Image.open(io.BytesIO(png))) for name, png in pictures.items()}
            self._log({"step": step, **images})

    def _log(self, row: Mapping[str, Any]) -> None:
        if self._run is None:
            return
        try:
            self._run.log(row)
        except Exception as error:
            # A failure of a service must not end the training.
            self._run = None
            raise TrackerLost(f"Weights & Biases takes no more numbers: {reason_of(error)}") from error

    def end(self, *, finished: bool) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            with one_line("Weights & Biases did not take the end of the run"):
                run.finish(exit_code=0 if finished else 1)


TRACKER_TYPES: Mapping[TrackerName, Callable[[Path], Tracker]] = {"tensorboard": Board, "wandb": WeightsAndBiases}
"""The trackers of a run folder by name; nothing is written before one begins."""


def as_png(image_u8: torch.Tensor) -> bytes:
    """An image in bytes, (1,3,H,W), as PNG."""
    stream = io.BytesIO()
    Image.fromarray(image_u8[0].permute(1, 2, 0).contiguous().numpy()).save(stream, format="PNG")
    return stream.getvalue()


def import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise MissingExtra("Weights & Biases", "wandb") from error
    return wandb


def read_wandb_facts(folder: Path) -> dict[str, Any]:
    """Return the content of wandb.json; empty if it is missing or damaged."""
    path = folder / WANDB_FILE
    try:
        facts = json.loads(read_text(path, MOST_WANDB_BYTES)) if path.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
