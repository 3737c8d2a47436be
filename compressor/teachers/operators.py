"""Operators of torch (aten) that image networks use: the only ones that an untrusted program may call.

They compute on tensors and numbers, or build values. None reads or writes a file, prints, starts a thread or calls
another library; none changes a tensor's memory (set_, resize_, as_strided).
"""

from __future__ import annotations

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
EXPORTED = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _assert_tensor_metadata _cdist_forward
_fft_c2c _fft_c2r _fft_r2c _local_scalar_dense _log_softmax _native_batch_norm_legit
_native_batch_norm_legit_no_training _prelu_kernel _safe_softmax _scaled_dot_product_flash_attention_for_cpu
_softmax _to_copy _unsafe_index _unsafe_view _weight_norm acos acosh asin asinh atan2 atanh bitwise_and
bitwise_not bitwise_or bitwise_xor cosh detach_ diagonal isfinite isinf isnan item lift_fresh_copy
max_pool3d_with_indices native_batch_norm native_dropout native_group_norm reflection_pad3d replication_pad3d
scatter_reduce select_scatter sinh slice_scatter sym_constrain_range sym_constrain_range_for_size sym_is_contiguous
sym_numel sym_size sym_storage_offset sym_stride tan
"""
COMPUTING = frozenset((*ATEN.split(), *IN_PLACE_TOO.split(), *(f"{name}_" for name in IN_PLACE_TOO.split())))
"""Operator names without overloads: "add", "add_", "conv2d"."""
COMPUTING_EXPORTED = COMPUTING | frozenset(EXPORTED.split())
"""The same with the operators that torch.export substitutes."""
