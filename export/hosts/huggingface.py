"""The Hugging Face hub: a folder that is a repository there, and that srkd opens as a model.

Read in huggingface_hub: hub_mixin.py (PyTorchModelHubMixin writes config.json, model.safetensors and README.md),
repocard_data.py (the keys of the card's head) and utils/_validators.py (names of repositories). The hub counts pulls
of config.json.
"""

from __future__ import annotations

import json
from time import monotonic

from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path
from compressor.inference.open import open_model
from compressor.models.checkpoints.header import HUB_FOLDER_WEIGHTS
from compressor.models.checkpoints.licence import KEY as LICENCE
from compressor.models.checkpoints.save import METADATA_KEYS, metadata_of, save_network
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime
from export.formats.proof_inputs import proof_inputs
from export.formats.table import FP32
from export.hosts.writing import HostFiles, HostJob, HostRules
from export.proof.verify import verify
from export.writing.card import CardFacts, card_text
from export.writing.exporting import FileReport, require_free

CONFIG = "config.json"


class HuggingFace(HostRules):
    """The weights, from which the network is built again, the spec for other readers, and the card."""

    def write(self, job: HostJob) -> HostFiles:
        config, weights = job.folder / CONFIG, _write_weights(job)
        with atomic_path(config) as temporary:
            temporary.write_text(json.dumps(_config(job), indent=2) + "\n", encoding="utf-8")
        source = job.source
        facts = job.facts or CardFacts(source.model, source.header, source.sha256, source.licence)
        return HostFiles((weights,), (config,), card=card_text(job.network, facts))


def _write_weights(job: HostJob) -> FileReport:
    """Write model.safetensors with the facts of the checkpoint's header, opened and compared before it is kept."""
    started, network, source = monotonic(), job.network, job.source
    own = metadata_of(network.spec, network.quantisation)
    metadata = {key: text for key, text in source.header.items() if key in METADATA_KEYS - set(own)}
    if source.licence is not None:
        metadata[LICENCE] = source.licence
    path = job.folder / HUB_FOLDER_WEIGHTS
    require_free(path, job.source.reserved)
    with atomic_path(path) as temporary:
        save_network(network, temporary, metadata=metadata)
        opened = open_model(temporary, OpenOptions(trusted=True))
        inputs = proof_inputs(network.descriptor)
        proof = verify(opened, TorchRuntime(network, label="the network"), inputs, FP32, job.context)
        if proof.reason is not None:
            raise SrkdError(f"{path.name}: {proof.reason}")
    return FileReport(
        format="checkpoint of srkd",
        path=path,
        bytes=path.stat().st_size,
        precision="fp32",
        parity=proof.parity,
        verdict="passed",
        seconds=monotonic() - started,
        reason=None,
    )


def _config(job: HostJob) -> dict[str, object]:
    """Return what is needed to build the network again. srkd itself reads the header of the weights."""
    network = job.network
    quantisation = network.quantisation
    return {
        "library_name": "srkd",
        "arch": network.spec.arch,
        "scale": network.spec.scale,
        "channels": network.descriptor.channels,
        "range": "0..1",
        "spec": network.spec.to_dict(),
        **({} if quantisation is None else {"quantisation": json.loads(quantisation.to_json())}),
    }
