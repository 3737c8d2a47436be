"""OpenVINO's .xml and .bin, converted from our ONNX by the library's own reader: any size, weights in float32."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

from compressor.base.errors import one_line
from compressor.runtimes.openvino_runtime import openvino_core
from export.convert import to_onnx
from export.formats.conversion import Conversion


def convert(job: Conversion) -> Mapping[str, object]:
    """Convert via ONNX, which names nodes by module; `convert_model` prints and reports, `read_model` does not."""
    import openvino

    with tempfile.TemporaryDirectory(prefix="srkd-") as folder:
        onnx = Path(folder) / f"{job.path.stem}.onnx"
        to_onnx.convert(dataclasses.replace(job, path=onnx, inputs=()))
        with one_line(f"OpenVINO cannot convert {job.network.spec.arch}"):
            model = openvino_core().read_model(onnx)
            model.set_friendly_name(job.path.stem)
            for key, value in sorted(job.metadata.items()):
                model.set_rt_info(value, [key])
            openvino.save_model(model, job.path, compress_to_fp16=False)
    return {
        "openvino": openvino.__version__.split("-")[0],
        "operations": len(model.get_ops()),
        "weights": job.path.with_suffix(".bin").name,
    }
