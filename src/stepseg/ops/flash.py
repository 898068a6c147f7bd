"""The flash kernels of attention, for images of one length and of different ones.

Two things stand between a model and these kernels, and both are avoided here. PyTorch prefers cuDNN
where it can, which builds a plan of tens of milliseconds for every new shape, and with merged
images nearly every shape is new. And public functions cost the host tens of microseconds a call, in
each of 24 blocks: at inference the operator behind them is called itself, after its arguments
were found where they are expected and its first result was compared with theirs.

Letters: T and S packed query and key rows, B images, N heads, K channels of a head.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stepseg.ops.first_use import FirstUse, far_apart
from stepseg.packed import Segments

NO_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
LEADING = (
    "query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_causal return_debug_mask"
).split()
"""Arguments of the operator since PyTorch 2.10; all others have defaults."""


def flash_ragged(
    q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor, q_segments: Segments, k_segments: Segments
) -> Tensor:
    """Attention within images of different lengths, ``[T, N, K]``."""
    return _call(ragged, public_ragged, "ragged", q_TNK, k_SNK, v_SNK, q_segments, k_segments)


def flash_uniform(
    q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor, q_segments: Segments, k_segments: Segments
) -> Tensor:
    """Attention within images of one length, ``[T, N, K]``."""
    return _call(uniform, public_uniform, "uniform", q_TNK, k_SNK, v_SNK, q_segments, k_segments)


def _call(
    fast: FirstUse,
    public: Callable[..., Tensor],
    lengths: str,
    q_TNK: Tensor,
    *others: Tensor | Segments,
) -> Tensor:
    if torch.is_grad_enabled() or not has_operator():
        return public(q_TNK, *others)
    kind = (lengths, str(q_TNK.device), q_TNK.dtype, q_TNK.shape[2])
    return fast(kind, q_TNK, *others)


def public_ragged(
    q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor, q_segments: Segments, k_segments: Segments
) -> Tensor:
    """By `torch.nn.attention.varlen`, with the seven arguments of every version since 2.10."""
    attend = varlen_attn()
    assert attend is not None, "flash is chosen only where it exists"
    offsets = (q_segments.cu_seqlens, k_segments.cu_seqlens)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return attend(q_TNK, k_SNK, v_SNK, *offsets, q_segments.max_length, k_segments.max_length)


def operator_ragged(
    q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor, q_segments: Segments, k_segments: Segments
) -> Tensor:
    """By the operator."""
    offsets = (q_segments.cu_seqlens, k_segments.cu_seqlens)
    longest = (q_segments.max_length, k_segments.max_length)
    attend = torch.ops.aten._flash_attention_forward.default
    return attend(q_TNK, k_SNK, v_SNK, *offsets, *longest, 0.0, False, False)[0]


def public_uniform(
    q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor, q_segments: Segments, k_segments: Segments
) -> Tensor:
    """By `scaled_dot_product_attention`, without cuDNN."""
    with sdpa_kernel(NO_CUDNN):
        return batched(q_TNK, k_SNK, v_SNK, q_segments, k_segments)


def operator_uniform(
    q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor, q_segments: Segments, k_segments: Segments
) -> Tensor:
    """By the operator, whose batches keep the rows of an image together."""
    batch = q_segments.num_images
    q, k, v = (x.unflatten(0, (batch, -1)) for x in (q_TNK, k_SNK, v_SNK))
    attend = torch.ops.aten._flash_attention_forward.default
    out = attend(q, k, v, None, None, q.shape[1], k.shape[1], 0.0, False, False)[0]
    return out.flatten(0, 1)


def batched(
    q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor, q_segments: Segments, k_segments: Segments
) -> Tensor:
    """All images have the same counts: the packed rows are a batch already."""
    batch = q_segments.num_images
    q, k, v = (x.unflatten(0, (batch, -1)).transpose(1, 2) for x in (q_TNK, k_SNK, v_SNK))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)


ragged = FirstUse("the flash operator", operator_ragged, public_ragged, far_apart)
uniform = FirstUse("the flash operator", operator_uniform, public_uniform, far_apart)


@cache
def varlen_attn():
    """`torch.nn.attention.varlen.varlen_attn`, or None before PyTorch 2.10."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


@cache
def has_operator() -> bool:
    """Whether the private operator has the arguments that are passed, and needs no others."""
    return takes("_flash_attention_forward", LEADING)


def takes(operator: str, leading: list[str]) -> bool:
    """Whether an operator of `aten` exists, begins with these arguments and needs no others."""
    try:
        schema = getattr(torch.ops.aten, operator).default._schema
    except (AttributeError, RuntimeError):
        return False
    names = [argument.name for argument in schema.arguments]
    others = schema.arguments[len(leading) :]
    return names[: len(leading)] == leading and all(a.has_default_value() for a in others)
