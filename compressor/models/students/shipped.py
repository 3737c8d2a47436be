"""The students that come with srkd as folders of models: their ends and the blend of their own strength."""

from __future__ import annotations

from pathlib import Path

from compressor.assets.shipped import FACTS, STUDENTS, shipped_student
from compressor.base.cache_folder import default_folder
from compressor.base.errors import report_unwritable
from compressor.base.files import file_sha256
from compressor.base.metadata import srkd_keys
from compressor.models.checkpoints.header import FAITHFUL, RUN_FOLDER_WEIGHTS, TEXTURED
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.students.blend import load_blend, write_blend


def unpack_student(name: str) -> Path:
    """Return the folder of a student in srkd's cache, which is as a run leaves it; it is written unless it is there."""
    shipped = shipped_student(name)
    contents = "-".join(file_sha256(STUDENTS / name / file)[:8] for file in (FAITHFUL, TEXTURED, FACTS))
    folder = default_folder() / "students" / contents / name
    weights = folder / RUN_FOLDER_WEIGHTS
    if not weights.is_file():
        with report_unwritable(f"{folder} (another cache: SRKD_CACHE=DIR)"):
            folder.mkdir(parents=True, exist_ok=True)
        for end in (FAITHFUL, TEXTURED):
            loaded = load_checkpoint(STUDENTS / name / end)
            save_network(loaded.network, folder / end, metadata=srkd_keys(loaded.header))
        write_blend(load_blend((folder / FAITHFUL, folder / TEXTURED), shipped.strength), weights, shipped.header)
    return folder
