"""The Hugging Face hub: the weights, the spec for other readers, and the card. srkd opens the folder as a model.

Read in huggingface_hub: hub_mixin.py (PyTorchModelHubMixin writes config.json, model.safetensors and README.md),
repocard_data.py (the keys of the card's head) and utils/_validators.py (names of repositories). The hub counts pulls
of config.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from compressor.base.files import write_text
from compressor.inference.open import open_model
from compressor.models.checkpoints.header import HUB_FOLDER_WEIGHTS
from compressor.models.checkpoints.licence import KEY as LICENCE
from compressor.models.checkpoints.save import METADATA_KEYS, metadata_of, save_network
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime
from export.formats.proof_inputs import proof_inputs
from export.formats.table import FP32
from export.hosts.writing import HostJob
from export.proof.verify import Proof, verify
from export.writing.exporting import HostFolder

CONFIG = "config.json"


def write(job: HostJob) -> HostFolder:
    """model.safetensors with the facts of the checkpoint's header, and what is needed to build the network again."""
    network, source, config = job.network, job.export.source, job.folder / CONFIG
    own = metadata_of(network.spec, network.quantisation)
    metadata = {key: text for key, text in source.header.items() if key in METADATA_KEYS - set(own)}
    if source.licence is not None:
        metadata[LICENCE] = source.licence

    def save(path: Path) -> Proof:
        save_network(network, path, metadata=metadata)
        opened = open_model(path, OpenOptions(trusted=True))
        inputs = proof_inputs(network.descriptor)
        return verify(opened.run, TorchRuntime(network, label="the network").run, inputs, FP32, job.context)

    weights = job.write_checkpoint(job.folder / HUB_FOLDER_WEIGHTS, "checkpoint of srkd", save)
    spec, quantisation = network.spec, network.quantisation
    described = {  # for others: srkd itself reads the header of the weights
        "library_name": "srkd",
        "arch": spec.arch,
        "scale": spec.scale,
        "channels": network.descriptor.channels,
        "range": "0..1",
        "spec": spec.to_dict(),
        **({} if quantisation is None else {"quantisation": json.loads(quantisation.to_json())}),
    }
    write_text(config, json.dumps(described, indent=2) + "\n")
    return HostFolder(job.host.name, job.folder, (weights,), (config,))
