"""The whole demo as a table of files, and the same table as a folder for any web host."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from compressor.base.errors import SrkdError, Unwritable
from demo.files import ENCODINGS, Asset, asset, read_app
from demo.isolation import FOR_GOOD, HEADERS
from demo.models import Model, listed
from demo.samples import Sample

APP = Path(__file__).parent / "app" / "dist"
"""Where the built app lies in a wheel, and where the build puts it in a checkout."""

CATALOGUE = "api/models.json"
SCHEMA = "srkd.demo-models/1"


def built_app(folder: Path | None) -> dict[str, Asset]:
    """The files of the app: srkd's own, or those of another built folder."""
    if folder is None and not (APP / "index.html").is_file():
        raise SrkdError(
            "this installation of srkd carries no built demo app: in a checkout, `make demo` builds it "
            "(`python scripts/build_demo.py` alone), and a wheel made from there carries it"
        )
    return read_app(folder or APP)


def site(app: Mapping[str, Asset], models: Sequence[Model], samples: Sequence[Sample]) -> dict[str, Asset]:
    """Address → file: the app, models, samples, and the list of both that the app reads first."""
    catalogue = {
        "schema": SCHEMA,
        "models": [listed(model) for model in models],
        "samples": [_told(sample) for sample in samples],
    }
    told = json.dumps(catalogue, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    offered = {model.address: model.content for model in models}
    offered |= {sample.address: sample.content for sample in samples}
    assets = {address: asset(address, content) for address, content in offered.items()}
    return {**app, **assets, CATALOGUE: asset(CATALOGUE, told)}


def _told(sample: Sample) -> dict[str, object]:
    return {
        "name": sample.name,
        "title": sample.title,
        "credit": sample.credit,
        "url": sample.address,
        "bytes": len(sample.content),
        "width": sample.width,
        "height": sample.height,
    }


def write_site(files: Mapping[str, Asset], folder: Path) -> int:
    """Write the table as a folder, whole or not at all, over an earlier one only; the bytes written."""
    folder = folder.absolute()
    require_ours(folder)
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    old = beside.with_name(f"{beside.name}.old")
    try:
        _write(files, beside)
        if folder.exists():
            os.replace(folder, old)
        os.replace(beside, folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise Unwritable(folder, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return sum(len(file.content) for file in files.values())


def require_ours(folder: Path) -> None:
    """Refuse a name under which something else than an earlier demo lies."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise SrkdError(f"--build {folder}: there is something else of that name")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CATALOGUE).is_file():
        raise SrkdError(f"--build {folder}: the folder holds other files; name a new or empty one")


def _write(files: Mapping[str, Asset], folder: Path) -> None:
    for address, file in files.items():
        path = folder / address
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        for suffix, name in ENCODINGS.items():
            if name in file.encoded:
                path.with_name(path.name + suffix).write_bytes(file.encoded[name])
    (folder / "_headers").write_text(_headers_file(files), encoding="utf-8")
    # GitHub Pages passes over names that begin with _ unless this file is there.
    (folder / ".nojekyll").touch()


def _headers_file(files: Mapping[str, Asset]) -> str:
    """The headers in the notation of Netlify and Cloudflare Pages; elsewhere the service worker adds what it can."""
    lines = ["/*", *(f"  {name}: {value}" for name, value in HEADERS.items())]
    for address in sorted(address for address, file in files.items() if file.immutable):
        lines += [f"/{address}", f"  Cache-Control: {FOR_GOOD}"]
    return "\n".join(lines) + "\n"
