"""Where the numbers of a run can be watched beside metrics.jsonl: TensorBoard's event files, Weights & Biases."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c

from compressor.base.choices import TRACKERS, TrackerName
from compressor.base.errors import MissingExtra, SrkdError, UsageError, nearest, one_line, reason_of
from compressor.base.files import append, atomic_path, read_text

WANDB_FILE = "wandb.json"
"""In a run folder: the run's id and address at Weights & Biases; by the id a resumed run goes on with its curves."""
MOST_WANDB_BYTES = 10_000
SHARED_FACTS = ("recipe", "preset", "seed", "device", "pace", "processes", "student")
"""Keys of run.json that are sent to Weights & Biases; the others hold paths of this machine."""


class TrackerLost(SrkdError):
    """A tracker cannot go on; the run can."""


class Tracker(Protocol):
    """Shows the numbers of one run."""

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Begin or continue, with the content of run.json; called again when that changes."""

    def scalars(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Show the numbers of one step."""

    def end(self, *, finished: bool) -> None:
        """Called once, when the run is finished or stops."""


def open_tracker(name: TrackerName, folder: Path) -> Tracker:
    """Return the tracker of a run folder; nothing is written before it begins."""
    makers: Mapping[TrackerName, Callable[[Path], Tracker]] = {"tensorboard": Board, "wandb": WeightsAndBiases}
    return makers[name](folder)


class Board:
    """Scalars for TensorBoard in one event file, each written at once; a resumed run begins another file beside it.

    tensorboardX's own writer has a thread and a queue of ten: when its disk is full the thread dies of a traceback, and
    the run waits for ever on the queue. Here a failed write is an error at the line that wrote.
    """

    def __init__(self, folder: Path) -> None:
        # The process's number keeps a run that is resumed within the same second from appending to a cut record.
        self.path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._begun = False

    def begin(self, facts: Mapping[str, Any]) -> None:
        pass

    def scalars(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        if not self._begun:
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
            self._begun = True
        values = [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in numbers.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def end(self, *, finished: bool) -> None:
        pass

    def _write(self, event: Event) -> None:
        """Append a TFRecord: length, its checksum, the event, its checksum."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        sums = [struct.pack("<I", masked_crc32c(piece)) for piece in (length, content)]
        append(self.path, length + sums[0] + content + sums[1])


class WeightsAndBiases:
    """Sends the numbers, and what of run.json is no path, to wandb; project, entity and mode are its own settings.

    Neither code, git state nor the terminal is sent. An error at the start is the user's to mend; later the run goes
    on without wandb.
    """

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
            # A resumed run repeats steps, which wandb's own count of steps does not allow.
            self._run.define_metric("*", step_metric="step")
            # An offline run has no address yet, and wandb warns where it is asked for one.
            url = None if self._run.offline else self._run.url
        with atomic_path(self._folder / WANDB_FILE) as temporary:
            temporary.write_text(json.dumps({"id": identity, "url": url}) + "\n", encoding="utf-8")

    def scalars(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        if self._run is None:
            return
        try:
            self._run.log({"step": step, **{f"{kind}/{name}": value for name, value in numbers.items()}})
        except Exception as error:
            # Whatever happens to a service, the training is worth more.
            self._run = None
            raise TrackerLost(f"Weights & Biases takes no more numbers: {reason_of(error)}") from error

    def end(self, *, finished: bool) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            with one_line("Weights & Biases did not take the end of the run"):
                run.finish(exit_code=0 if finished else 1)


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that there is not, or whose package is not installed, before anything else is done."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"--track {name}: {nearest(name, TRACKERS)}")
    if "wandb" in names:
        import_wandb()


def import_wandb() -> Any:
    """Return the package wandb, or say how to install it."""
    try:
        import wandb
    except ImportError as error:
        raise MissingExtra("Weights & Biases", "wandb") from error
    return wandb


def read_wandb_facts(folder: Path) -> dict[str, Any]:
    """Return the content of wandb.json; empty where there is none, or a damaged one."""
    path = folder / WANDB_FILE
    try:
        facts = json.loads(read_text(path, MOST_WANDB_BYTES)) if path.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
