"""The attention-to-mask head for one image, written out head by head in float64."""

import math

import torch
from torch import Tensor

from reference.attention import attend
from reference.vit import Weights, layer_norm, linear, under

EPS = 1e-5
"""PyTorch's default of LayerNorm; only the encoder uses timm's 1e-6."""


def atm_head(
    x_TD: Tensor, weights: Weights, num_heads: int, num_layers: int
) -> tuple[Tensor, Tensor]:
    """Mask logits ``[T, C]`` and class logits ``[C, 2]``."""
    return atm_cascade([x_TD], weights, num_heads, num_layers)


def atm_cascade(
    depths: list[Tensor], weights: Weights, num_heads: int, num_layers: int
) -> tuple[Tensor, Tensor]:
    """The same of a cascade over the encoder's values at several depths, the last block first."""
    query_Cd = weights["query_Cd"]
    sum_TC = torch.zeros(0)
    for index, x_TD in enumerate(depths):
        own = weights if index == 0 else under(weights, f"further.{index - 1}")
        scores_TC, query_Cd = atm_module(x_TD, query_Cd, own, num_heads, num_layers)
        sum_TC = scores_TC if index == 0 else sum_TC + scores_TC
    return sum_TC, linear(query_Cd, weights, "presence")


def atm_module(
    x_TD: Tensor, query_Cd: Tensor, weights: Weights, num_heads: int, num_layers: int
) -> tuple[Tensor, Tensor]:
    """Scores ``[T, C]`` of the last layer, and what has become of the queries."""
    x_Td = layer_norm(linear(x_TD.double(), weights, "input_proj"), weights, "input_norm", EPS)
    scores_TC = torch.zeros(0)
    for index in range(num_layers):
        layer = under(weights, f"layers.{index}")
        query_Cd = self_attention(query_Cd, layer, num_heads)
        kv = linear(x_Td, weights, "cross_kv").chunk(num_layers, dim=1)[index]
        query_Cd, scores_TC = cross_attention(query_Cd, kv, layer, num_heads)
        hidden = linear(query_Cd, layer, "fc1").clamp(min=0)
        query_Cd = layer_norm(query_Cd + linear(hidden, layer, "fc2"), layer, "norm3", EPS)
    return scores_TC, query_Cd


def self_attention(query_Cd: Tensor, layer: Weights, num_heads: int) -> Tensor:
    """Queries to queries, post-norm."""
    q, k, v = linear(query_Cd, layer, "self_qkv").chunk(3, dim=1)
    out = attend(*(split_heads(x, num_heads) for x in (q, k, v))).flatten(1)
    return layer_norm(query_Cd + linear(out, layer, "self_proj"), layer, "norm1", EPS)


def cross_attention(
    query_Cd: Tensor, kv_T2d: Tensor, layer: Weights, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Queries to tokens, post-norm; also the scores before the softmax, averaged over heads."""
    q_CNK = split_heads(linear(query_Cd, layer, "cross_q"), num_heads)
    k_Td, v_Td = kv_T2d.chunk(2, dim=1)
    k_TNK, v_TNK = split_heads(k_Td, num_heads), split_heads(v_Td, num_heads)
    scores = [k_TNK[:, n] @ q_CNK[:, n].T / math.sqrt(q_CNK.shape[2]) for n in range(num_heads)]
    out = attend(q_CNK, k_TNK, v_TNK).flatten(1)
    query_Cd = layer_norm(query_Cd + linear(out, layer, "cross_proj"), layer, "norm2", EPS)
    return query_Cd, torch.stack(scores).mean(0)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    return x.reshape(len(x), num_heads, x.shape[1] // num_heads)


def linear_head(x_TD: Tensor, weights: Weights) -> Tensor:
    """Log odds of a softmax over the classes of every token, ``[T, C]``."""
    z_TC = linear(layer_norm(x_TD.double(), weights, "norm", EPS), weights, "classify")
    p_TC = z_TC.exp() / z_TC.exp().sum(1, keepdim=True)
    return (p_TC / (1 - p_TC)).log()


def presence(class_logits_C2: Tensor) -> Tensor:
    """P(present) per class; index 0 says present."""
    present, absent = class_logits_C2.exp().unbind(1)
    return present / (present + absent)
