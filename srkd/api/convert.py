"""`srkd convert`: a network as a checkpoint of another code base."""

from __future__ import annotations

from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.models.checkpoints.convert import Converted, convert_file, convert_network
from compressor.models.networks.base import ImageModel
from srkd.options.function import public
from srkd.options.models import refuse_file_options
from srkd.options.verbs import ConvertOptions


def run_convert(options: ConvertOptions, context: Context) -> Converted:
    """Write a network as a checkpoint of another code base: `to` is basicsr, edsr-pytorch, rcan, srkd and others.

    Facts that the file cannot hold are in `needs` of the result. For an open network `out`, the file, is required.

        >>> srkd.convert("edsr.pt", to="basicsr", out="basicsr.pth")
    """
    if not isinstance(options.model, ImageModel):
        return convert_file(
            options.model, options.to, options.out, scale=options.scale, arch_options=options.arch_options
        )
    refuse_file_options(options.scale, options.arch_options)
    if options.out is None:
        raise UsageError("an open network has no folder to write to: give out, the file to write")
    return convert_network(options.model.require_network("weights"), options.to, Path(options.out))


convert = public(ConvertOptions, ConvertOptions, run_convert, "convert")
