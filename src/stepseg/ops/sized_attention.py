"""Attention in which a key counts as often as it stands for tokens (ToMe, Sec. 3).

That is log(size) on the logits of the key. Kernels of variable length take no bias; one more
channel carries it: 1 in queries, the bias in keys. Head sizes of kernels are multiples of 8, hence
eight channels.

Letters: T packed rows, N heads, K channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.ops.attention import varlen_attention
from stepseg.packed import Segments

EXTRA_CHANNELS = 8


def sized_attention(
    q_TNK: Tensor, k_TNK: Tensor, v_TNK: Tensor, segments: Segments, size_T: Tensor
) -> Tensor:
    """Softmax attention within each image of ``q k / sqrt(K) + log(size)``, ``[T, N, K]``."""
    channels = q_TNK.shape[2]
    wide = channels + EXTRA_CHANNELS
    bias_TN1 = (size_T.log() * wide**0.5).to(k_TNK.dtype)[:, None, None]
    bias_TN1 = bias_TN1.expand(-1, k_TNK.shape[1], 1)
    rest = (0, EXTRA_CHANNELS - 1)
    q = torch.cat([q_TNK * (wide / channels) ** 0.5, torch.ones_like(bias_TN1)], 2)
    k = torch.cat([k_TNK, bias_TN1], 2)
    v = F.pad(v_TNK, (0, EXTRA_CHANNELS))  # kernels want one size for all three
    return varlen_attention(F.pad(q, rest), F.pad(k, rest), v, segments, segments)[..., :channels]
