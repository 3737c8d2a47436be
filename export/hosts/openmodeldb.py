"""OpenModelDB: the files that people download, and the model's entry in its database.

Read in OpenModelDB/open-model-database at src/lib/schema.ts and src/lib/model-props.ts: a model's id is the name of its
JSON, `4x-NAME` of letters, digits and hyphens; resources are pth and onnx, with size, hash and urls.
"""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

from compressor.base.files import atomic_path, file_sha256
from compressor.models.checkpoints.licence import hub_licence
from export.formats.conversion import CannotConvert
from export.hosts.job import HostFiles, HostJob
from export.hosts.spandrel_programs import home_dialect, write_home_file
from export.writing.exporting import FileReport


def write(job: HostJob) -> HostFiles:
    """Write `4x-NAME.onnx`, `4x-NAME.pth` if spandrel reads the network, and the entry `4x-NAME.json`."""
    name = f"{job.scale}x-{re.sub('[^a-zA-Z0-9]+', '-', job.model).strip('-')}"
    files = list(job.export(["onnx"], name))
    notes = ["author, tags, urls and images of the entry are yours to fill in"]
    if home_dialect(job.network.spec) is not None:
        try:
            file, remarks = write_home_file(job, job.folder / f"{name}.pth")
            files.insert(0, file)
            notes += remarks
        except CannotConvert as error:
            notes.append(f"without a .pth: {error}")
    entry = job.folder / f"{name}.json"
    with atomic_path(entry) as temporary:
        text = json.dumps(_entry(job, [file.path for file in files if file.path is not None]), indent=4)
        temporary.write_text(text + "\n", encoding="utf-8")
    return HostFiles(
        tuple(files),
        place=f"{entry.name} into data/models of a fork of OpenModelDB, the other files where people can download them",
        call="a pull request with the entry",
        also=(entry,),
        timed=_onnx(files),
        notes=tuple(notes),
    )


def _onnx(files: list[FileReport]) -> Path | None:
    return next((file.path for file in files if file.format == "onnx"), None)


def _entry(job: HostJob, paths: list[Path]) -> dict[str, Any]:
    spec, licence = job.network.spec, hub_licence(job.source.licence)
    sizes = [
        f"{spec.to_dict()[key]}{unit}" for key, unit in (("width", "nf"), ("depth", "nb")) if key in spec.to_dict()
    ]
    recipe = job.source.header.get("srkd.recipe")
    trained = f", distilled by srkd with its recipe {recipe}" if recipe else ""
    home = home_dialect(spec)
    known = licence.get("license") not in (None, "other", "unknown")
    return {
        "name": job.model,
        "author": [],
        "license": str(licence["license"]).upper() if known else None,
        "tags": [],
        "description": f"{spec.arch} at x{spec.scale}{trained}.",
        "date": date.today().isoformat(),
        "architecture": spec.arch if home is None else home.community_name,
        "size": sizes or None,
        "scale": spec.scale,
        "inputChannels": job.network.descriptor.channels,
        "outputChannels": job.network.descriptor.channels,
        "resources": [
            {
                "platform": "onnx" if path.suffix == ".onnx" else "pytorch",
                "type": path.suffix[1:],
                "size": path.stat().st_size,
                "sha256": file_sha256(path),
                "urls": [],
            }
            for path in paths
        ],
        "images": [],
    }
