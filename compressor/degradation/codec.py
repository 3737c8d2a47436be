"""Pictures as one intra frame of a video codec, encoded and decoded in memory by PyAV."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from compressor.video.library import load_av

LARGEST_CRF = 51


def intra_frame(image_01: Tensor, crf: int) -> Tensor:
    """Return an image (3,H,W) in [0,1] as an intra frame of H.264 with 4:2:0 chroma has it."""
    av = load_av()
    height, width = image_01.shape[-2:]
    padded = torch.nn.functional.pad(image_01[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
    bytes_u8 = (padded.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().contiguous().numpy()
    file = BytesIO()
    with av.open(file, "w", format="h264") as out:
        # One thread: the bytes must not depend on the machine's cores.
        options = {"crf": str(min(crf, LARGEST_CRF)), "preset": "medium", "threads": "1"}
        stream = out.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = padded.shape[-1], padded.shape[-2], "yuv420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(bytes_u8, format="rgb24")))
        out.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r", format="h264") as source:
        decoded = next(source.decode(video=0)).to_ndarray(format="rgb24")
    samples = torch.from_numpy(np.ascontiguousarray(decoded.transpose(2, 0, 1))).float() / 255
    return samples[:, :height, :width].to(image_01.device)
