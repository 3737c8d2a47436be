"""The Hugging Face hub: `hf://OWNER/NAME` in place of a model's path, and a folder as a repository there.

Addresses are those of huggingface_hub's file system (hf_file_system.py): hf://OWNER/NAME[@REVISION][/FILE]. Nothing is
fetched or sent unless a user names such an address.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from compressor.base.cache_folder import default_folder
from compressor.base.errors import MissingExtra, SrkdError, UsageError, one_line

SCHEME = "hf://"
NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
ADDRESS = re.compile(rf"hf://({NAME})/({NAME})(?:@([\w.-]+))?(?:/(.+))?")
FILES = ("model.safetensors", "config.json", "README.md")
"""The files of a repository of srkd's; others, such as large checkpoints of other programs, are fetched by name."""
EXTRA = "hub"


def is_address(value: object) -> bool:
    return isinstance(value, str) and value.startswith(SCHEME)


def import_hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "huggingface_hub", EXTRA) from error
    return huggingface_hub


def pull(address: str) -> Path:
    """Return the folder, or the one file, of an address, fetched into srkd's cache unless it is there unchanged.

    Without a network the files of an earlier pull are used (huggingface_hub's snapshot_download, `local_dir`).
    """
    match = ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise UsageError(f"{address!r}: a model of the hub is hf://OWNER/NAME, with @REVISION and /FILE if needed")
    owner, name, revision, file = match.groups()
    folder = default_folder() / "hub" / owner / (name if revision is None else f"{name}@{revision}")
    hub = import_hub()
    with one_line(f"{address} cannot be fetched", first=True):
        hub.snapshot_download(
            f"{owner}/{name}", revision=revision, local_dir=folder, allow_patterns=[file] if file else list(FILES)
        )
    path = folder if file is None else folder / file
    if not (path / FILES[0] if file is None else path).is_file():
        raise SrkdError(
            f"{address}: the repository has no {file or FILES[0]}: name a file of it, as in {SCHEME}{owner}/{name}/FILE"
        )
    return path


def repository_of(path: Path) -> str | None:
    """Return OWNER/NAME of a file or folder that `pull` keeps in the cache; None for any other."""
    path, kept = path.resolve(), (default_folder() / "hub").resolve()
    if not path.is_relative_to(kept):
        return None
    owner, name = path.relative_to(kept).parts[:2]
    return f"{owner}/{name.partition('@')[0]}"


def read_repository(value: object) -> str:
    name = str(value)
    if re.fullmatch(f"{NAME}/{NAME}", name) is None or ".." in name or "--" in name:
        raise UsageError(f"{name!r} is not a repository of the hub: give OWNER/NAME")
    return name


def push(folder: Path, repository: str) -> str:
    """Make the repository if there is none, send the files of a folder to it, and return its address for a browser.

    The user's token is that of `hf auth login`, or $HF_TOKEN.
    """
    api = import_hub().HfApi()
    with one_line(f"{folder} cannot be pushed to {repository}", first=True):
        address = str(api.create_repo(repository, exist_ok=True))
        api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=list(FILES), commit_message="srkd export"
        )
    return address
