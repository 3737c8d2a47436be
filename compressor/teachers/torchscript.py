"""TorchScript files: the operators that their programs may use, and how they are opened.

TorchScript is a language of its own, with operators that write files (aten::save) and map them (aten::from_file), and
loading a file runs the `__setstate__` of its classes. So what torch has compiled of a file, every function of every
class, is compared with a list of operators, not the text it came from; that happens in a restricted child process.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.errors import SrkdError, one_line
from compressor.models.checkpoints.pickles import read_storages
from compressor.teachers.archives import open_bounded

# Operators that compute on tensors and numbers, build values, or branch. None reads or writes a file, prints, starts a
# thread or calls another library; none gives a tensor other memory (set_, resize_, as_strided).
IN_PLACE_TOO = """
abs add addcdiv addcmul addmm alpha_dropout baddbmm ceil celu clamp clamp_max clamp_min copy cos div divide dropout
elu eq exp feature_dropout fill floor floor_divide fmod ge gelu gt hardsigmoid hardswish hardtanh index_add
index_copy index_fill index_put le leaky_relu lerp log log10 log1p log2 logical_and logical_not logical_or
logical_xor lt masked_fill masked_scatter mish mul multiply nan_to_num ne neg pow reciprocal relu relu6 remainder
round rrelu rsqrt scatter scatter_add selu sigmoid sign silu sin sqrt square squeeze sub subtract tan tanh threshold
transpose tril triu true_divide trunc unsqueeze zero
"""
ATEN = """
Bool Float FloatImplicit Int IntImplicit ScalarImplicit __and__ __contains__ __derive_index __getitem__ __is__
__isnot__ __lshift__ __not__ __or__ __range_length __round_to_zero_floordiv __rshift__ __xor__ _convolution
_native_multi_head_attention _set_item _transformer_encoder_layer_fwd _unwrap_optional _upsample_bicubic2d_aa
_upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
adaptive_max_pool2d affine_grid_generator alias all amax amin any append arange argmax argmin argsort atan atan2
avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear bmm broadcast_tensors broadcast_to cat channel_shuffle chunk
clip clone col2im complex concat constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
conv_transpose3d convolution cosine_similarity cpu cumsum detach device dict diff dim einsum embedding empty
empty_like endswith equal erf expand expand_as expm1 extend eye fft_fft2 fft_ifft2 fft_irfft2 fft_rfft2 flatten flip
floordiv format frobenius_norm full full_like gather glu grid_sampler grid_sampler_2d group_norm hardshrink hash
hstack im2col imag index index_select insert instance_norm is_autocast_enabled is_floating_point is_grad_enabled
is_scripting item keys l1_loss layer_norm len linalg_matrix_norm linalg_norm linalg_vector_norm linear linspace list
log_softmax logsumexp masked_select matmul max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum mean
median meshgrid min minimum mm moveaxis movedim mse_loss narrow native_layer_norm new_empty new_full new_ones
new_zeros nonzero norm normal_ numel numpy_T one_hot ones ones_like outer pad permute pixel_shuffle pixel_unshuffle
pop prelu prod rand rand_like randn randn_like range ravel real reflection_pad1d reflection_pad2d repeat
repeat_interleave replication_pad1d replication_pad2d reshape reshape_as resolve_conj reverse rms_norm roll rot90
rrelu rsub scalar_tensor scaled_dot_product_attention select size slice softmax softplus softshrink sort sorted
split split_with_sizes stack startswith std std_mean str stride sum swapaxes swapdims t take_along_dim tensor
tensor_split tensordot tile to topk type_as unbind unflatten unfold unsafe_chunk unsafe_split
unsafe_split_with_sizes upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_nearest3d upsample_trilinear3d values var var_mean view view_as view_as_complex
view_as_real vstack warn where zeros zeros_like
"""
PRIM = """
CallFunction CallMethod Closure Constant ConstantChunk CreateObject DictConstruct DictIndex EnumName EnumValue
GetAttr If ListConstruct ListUnpack Loop ModuleContainerIndex NumToTensor RaiseException SetAttr TupleConstruct
TupleIndex TupleSlice TupleUnpack Uninitialized abs data device dtype index is_cuda is_nested isinstance itemsize
layout max min requires_grad type unchecked_cast unchecked_unwrap_optional
"""
OPERATORS = frozenset(
    {f"aten::{name}" for name in (*ATEN.split(), *IN_PLACE_TOO.split())}
    | {f"aten::{name}_" for name in IN_PLACE_TOO.split()}
    | {f"prim::{name}" for name in PRIM.split()}
)


def check_torchscript(content: bytes, path: Path) -> None:
    """Refuse a program with other operators than `OPERATORS`. For a restricted child: torch runs parts of the file."""
    with open_bounded(content, path) as archive:
        _check_storages(archive, path)
    unit: Any = torch._C.CompilationUnit()
    read: Any = torch._C.import_ir_module_from_buffer
    with one_line(f"{path} is not a TorchScript file that this torch {torch.__version__} can open"):
        read(unit, content, torch.device("cpu"), {}, False)
    for function in unit.get_functions():
        for node in _nodes(function.graph):
            if node.kind() not in OPERATORS:
                raise SrkdError(
                    f"{path}: its function {function.qualified_name[-80:]} uses {node.kind()[:60]!r}, which is not an "
                    "operator of image networks: refused; export the network to ONNX, or without that operator"
                )


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _check_storages(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse records shorter than their pickle says: torch would read beyond their end."""
    sizes = {member.filename: member.file_size for member in archive.infolist()}
    # A trace's examples (traced_inputs.pkl) are described and not stored, and not read either.
    for pickled in [name for name in sizes if name.endswith(("/data.pkl", "/constants.pkl")) and "/code/" not in name]:
        folder = pickled.removesuffix(".pkl")
        for ref in read_storages(BytesIO(archive.read(pickled))).values():
            expected = (ref.start + ref.size) * (ref.dtype.itemsize if ref.dtype is not None else 1)
            if sizes.get(f"{folder}/{ref.key}", 0) < expected:
                raise SrkdError(
                    f"{path}: a damaged archive: its record {folder.rpartition('/')[2]}/{ref.key[:40]} is shorter than "
                    f"the {expected:,} bytes of its tensor: download or export it again"
                )


def load_torchscript(content: bytes, path: Path) -> nn.Module:
    """Return the module in eval mode, on the CPU."""
    with one_line(f"{path} is not a TorchScript file that this torch {torch.__version__} can open"):
        module: nn.Module = torch.jit.load(BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    return module.eval()
