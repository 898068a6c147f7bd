"""Variable-length attention: every image attends within itself, whatever its number of tokens.

`varlen_attention` is the only place that knows kernels. Which backend runs is decided from device,
dtype and shape by `choose_backend`, a pure function:

| device and dtype            | shapes           | backend                                        |
|-----------------------------|------------------|------------------------------------------------|
| any                         | all images alike | ``dense``: one batch, by flash where it is     |
|                             |                  | chosen for ragged ones, else by SDPA           |
| CUDA, sm_80+, fp16 or bf16  | ragged           | ``flash``: `stepseg.ops.flash`                 |
| CUDA, fp32 and other half   | ragged           | ``efficient``: memory-efficient kernel         |
| CPU and others              | ragged           | ``loop``: SDPA per image (fastest on CPU)      |
| any, nothing else available | ragged           | ``masked``: SDPA with a block-diagonal mask    |

``STEPSEG_ATTENTION=flash|efficient|loop|masked`` overrides the choice for ragged batches.

Letters: T and S packed query and key rows, N heads, K channels of a head.
"""

import os
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.ops.flash import batched, flash_ragged, flash_uniform, takes, varlen_attn
from stepseg.packed import Segments

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values ``[rows, N, K]`` to attended values; knows which rows form an image."""

BACKENDS = ("dense", "flash", "efficient", "loop", "masked")
_HALF = (torch.float16, torch.bfloat16)


def varlen_attention(
    q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor, q_segments: Segments, k_segments: Segments
) -> Tensor:
    """Softmax attention within each image, scale ``1 / sqrt(K)``.

    An image without keys gives zeros, an image without queries gives no rows; both stay connected
    to their inputs, so that parameters receive zero gradients rather than none.

    Returns:
        ``[T, N, K]`` in the dtype of the values.

    """
    if q_TNK.is_cuda and torch.is_autocast_enabled("cuda"):
        # Custom kernels do not take part in autocast: cast where SDPA would.
        dtype = torch.get_autocast_dtype("cuda")
        q_TNK, k_SNK, v_SNK = q_TNK.to(dtype), k_SNK.to(dtype), v_SNK.to(dtype)
    if q_segments.total == 0 or k_segments.total == 0:
        return _no_attention(q_TNK, k_SNK, v_SNK)
    backend = _backend_for(q_TNK, q_segments, k_segments)
    return _IMPLEMENTATIONS[backend](q_TNK, k_SNK, v_SNK, q_segments, k_segments)


def choose_backend(
    *,
    device_type: str,
    dtype: torch.dtype,
    capability: tuple[int, int] | None,
    head_dim: int,
    has_flash: bool,
    has_efficient: bool,
) -> str:
    """Name the backend for a ragged batch; the table of the module docstring as code."""
    if device_type != "cuda":
        return "loop"
    modern = capability is not None and capability >= (8, 0)
    if modern and dtype in _HALF and head_dim % 8 == 0 and head_dim <= 256 and has_flash:
        return "flash"
    supported = dtype in (torch.float32, torch.float16) or (modern and dtype == torch.bfloat16)
    return "efficient" if supported and has_efficient else "masked"


def ragged_backend(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Name the backend that a ragged batch gets here, the override included."""
    override = os.environ.get("STEPSEG_ATTENTION")
    if override:
        if override not in BACKENDS or override == "dense":
            choices = "|".join(name for name in BACKENDS if name != "dense")
            raise ValueError(f"STEPSEG_ATTENTION={override!r} is not one of {choices}")
        return override
    return _chosen(device, dtype, head_dim)


@cache
def _chosen(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """`choose_backend` for what is here; asked once, because blocks have no time for it."""
    on_cuda = device.type == "cuda"
    return choose_backend(
        device_type=device.type,
        dtype=dtype,
        capability=torch.cuda.get_device_capability(device) if on_cuda else None,
        head_dim=head_dim,
        has_flash=varlen_attn() is not None,
        has_efficient=_has_efficient(),
    )


def _backend_for(q_TNK: Tensor, q_segments: Segments, k_segments: Segments) -> str:
    if q_segments.is_uniform and k_segments.is_uniform:
        return "dense"
    return ragged_backend(q_TNK.device, q_TNK.dtype, q_TNK.shape[-1])


def _no_attention(q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor) -> Tensor:
    """Zeros that still depend on all inputs (a sum over no rows is a legal zero)."""
    nothing = (k_SNK.sum() + v_SNK.sum()) * 0
    return (q_TNK * 0 + nothing).to(v_SNK.dtype)


def _dense(q: Tensor, k: Tensor, v: Tensor, q_segments: Segments, k_segments: Segments) -> Tensor:
    """One batch; on CUDA never by cuDNN, to which most token counts would be new shapes."""
    if q.is_cuda and _chosen(q.device, q.dtype, q.shape[2]) == "flash":
        return flash_uniform(q, k, v, q_segments, k_segments)
    return batched(q, k, v, q_segments, k_segments)


def _loop(q: Tensor, k: Tensor, v: Tensor, q_segments: Segments, k_segments: Segments) -> Tensor:
    """One SDPA per image: on a CPU faster than any mask, padding or nested tensor."""
    pieces = []
    for q_b, k_b, v_b in zip(
        q.split(q_segments.lengths),
        k.split(k_segments.lengths),
        v.split(k_segments.lengths),
        strict=True,
    ):
        if len(q_b) == 0 or len(k_b) == 0:
            pieces.append(_no_attention(q_b, k_b, v_b))
        else:
            q_b, k_b, v_b = (x.transpose(0, 1)[None] for x in (q_b, k_b, v_b))
            piece = F.scaled_dot_product_attention(q_b, k_b, v_b)
            pieces.append(piece[0].transpose(0, 1))
    return torch.cat(pieces)


def _efficient(
    q: Tensor, k: Tensor, v: Tensor, q_segments: Segments, k_segments: Segments
) -> Tensor:
    """The memory-efficient kernel behind SDPA, with offsets; it has a derivative and takes fp32."""
    attend = torch.ops.aten._efficient_attention_forward
    out = attend(
        q[None],
        k[None],
        v[None],
        None,
        q_segments.cu_seqlens,
        k_segments.cu_seqlens,
        q_segments.max_length,
        k_segments.max_length,
        0.0,  # dropout
        0,  # no causal mask
        torch.is_grad_enabled(),  # the backward pass needs the log-sum-exp
    )[0]
    return out[0]


def _masked(q: Tensor, k: Tensor, v: Tensor, q_segments: Segments, k_segments: Segments) -> Tensor:
    """Public operators only, quadratic in all tokens of the batch: the last resort."""
    same_image = q_segments.image_ids()[:, None] == k_segments.image_ids()[None, :]
    has_keys = same_image.any(1)
    # A row without keys would be a softmax over nothing; let it see all and zero it afterwards.
    mask = same_image | ~has_keys[:, None]
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)
    return torch.where(has_keys[:, None, None], out, 0)


_IMPLEMENTATIONS = {
    "dense": _dense,
    "flash": flash_ragged,
    "efficient": _efficient,
    "loop": _loop,
    "masked": _masked,
}


@cache
def _has_efficient() -> bool:
    """Whether the private operator still has the positional arguments that `_efficient` passes."""
    expected = (
        "query key value bias cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k dropout_p "
        "custom_mask_type compute_log_sumexp"
    ).split()
    return takes("_efficient_attention_forward", expected)
