"""Scalars for TensorBoard, each written at once.

tensorboardX's own writer has a thread and a queue of ten: when its disk is full the thread dies of a traceback, and the
run waits for ever on the queue. Here a failed write is an error at the line that wrote.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c

from compressor.atomic import append


class Board:
    """One event file, begun with its first figures; a resumed run begins another beside it."""

    def __init__(self, folder: Path) -> None:
        # The process's number keeps a run that is resumed within the same second from appending to a cut record.
        self.path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._begun = False

    def scalars(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        if not self._begun:
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
            self._begun = True
        values = [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in numbers.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        """TFRecord: length, its checksum, the event, its checksum."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        sums = [struct.pack("<I", masked_crc32c(piece)) for piece in (length, content)]
        append(self.path, length + sums[0] + content + sums[1])
