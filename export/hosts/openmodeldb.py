"""OpenModelDB: the files that people download, and the model's entry in its database.

Read in OpenModelDB/open-model-database at src/lib/schema.ts and src/lib/model-props.ts: a model's id is the name of its
JSON, `4x-NAME` of letters, digits and hyphens; resources are pth and onnx, with size, hash and urls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from compressor.base.errors import one_line
from compressor.base.files import file_sha256, read_text, write_text
from compressor.models.checkpoints.licence import hub_licence
from export.formats.conversion import CannotConvert
from export.hosts.spandrel_programs import home_dialect, write_home_file
from export.hosts.writing import HostJob, write_row
from export.writing.card import MOST_BYTES
from export.writing.exporting import HostFolder

SPDX = {"apache-2.0": "Apache-2.0", "bsd-3-clause": "BSD-3-Clause", "gpl-3.0": "GPL-3.0-only", "unlicense": "Unlicense"}
"""Names in src/lib/license.ts of licences that are not all capitals there."""


def write(job: HostJob) -> HostFolder:
    """`4x-NAME.onnx`, `4x-NAME.pth` if spandrel reads the network, and the entry `4x-NAME.json`."""
    written, entry = write_row(job), job.folder / job.named("{scale}x-{slug}.json")
    files, notes = written.files, written.notes
    if home_dialect(job.network.spec) is not None:
        try:
            file, of_file = write_home_file(job, entry.with_suffix(".pth"))
            files, notes = (file, *files), (*notes, *of_file)
        except CannotConvert as error:
            notes = (*notes, f"without a .pth: {error}")
    values = _entry(job, [file.path for file in files if file.path is not None])
    if entry.is_file():
        with one_line(f"{entry} is no entry of a model: mend or remove it"):
            _keep_own(values, json.loads(read_text(entry, MOST_BYTES)))
    write_text(entry, json.dumps(values, indent=4, ensure_ascii=False) + "\n")
    return replace(written, files=files, also=(entry,), notes=notes)


def _keep_own(values: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Take over what a person filled in: author, tags, images, and the addresses of equal files."""
    values |= {key: before[key] for key in ("author", "tags", "images") if before.get(key)}
    urls = {resource["sha256"]: resource["urls"] for resource in before["resources"]}
    for resource in values["resources"]:
        resource["urls"] = urls.get(resource["sha256"], [])


def _entry(job: HostJob, paths: list[Path]) -> dict[str, Any]:
    spec, source, licence = job.network.spec, job.export.source, hub_licence(job.export.source.licence)
    sizes = [
        f"{spec.to_dict()[key]}{unit}" for key, unit in (("width", "nf"), ("depth", "nb")) if key in spec.to_dict()
    ]
    recipe = source.header.get("srkd.recipe")
    trained = f", distilled by srkd with its recipe {recipe}" if recipe else ""
    home = home_dialect(spec)
    known = licence.get("license") not in (None, "other")
    return {
        "name": source.model,
        "author": [],
        "license": SPDX.get(licence["license"], licence["license"].upper()) if known else None,
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
