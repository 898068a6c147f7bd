"""Attention of one image, one head at a time, in float64."""

import math

import torch
from torch import Tensor


def attend(q_TNK: Tensor, k_SNK: Tensor, v_SNK: Tensor) -> Tensor:
    """Softmax attention of all queries to all keys; no keys give zeros."""
    heads = []
    for n in range(q_TNK.shape[1]):
        q_TK, k_SK, v_SK = (x[:, n].double() for x in (q_TNK, k_SNK, v_SNK))
        scores_TS = q_TK @ k_SK.T / math.sqrt(q_TK.shape[1])
        weights_TS = scores_TS.exp() / scores_TS.exp().sum(1, keepdim=True)
        heads.append(weights_TS @ v_SK)
    return torch.stack(heads, 1)


def attend_packed(
    q_TNK: Tensor,
    k_SNK: Tensor,
    v_SNK: Tensor,
    q_lengths: list[int],
    k_lengths: list[int],
) -> Tensor:
    """`attend` for each image of a packed batch."""
    q_start = k_start = 0
    images = []
    for q_length, k_length in zip(q_lengths, k_lengths, strict=True):
        q_rows = slice(q_start, q_start + q_length)
        k_rows = slice(k_start, k_start + k_length)
        images.append(attend(q_TNK[q_rows], k_SNK[k_rows], v_SNK[k_rows]))
        q_start, k_start = q_rows.stop, k_rows.stop
    return torch.cat(images)
