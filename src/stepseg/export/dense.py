"""Blocks and heads on a dense ``[B, T, D]`` batch, with the weights of the packed modules.

Only inference: no dropout, no stochastic depth.

Letters: B images, T tokens of each, D channels, d channels of a head, N attention heads, K channels
of one, C classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.heads.atm import presence_probability
from stepseg.heads.linear import ExitHead, LinearHead
from stepseg.heads.module import AtmLayer
from stepseg.vit.block import Block
from stepseg.vit.rotary import Rotation


def take_rows(x_BTD: Tensor, index_BS: Tensor) -> Tensor:
    """Rows of every image by number: ``[B, T, D]`` and int64 ``[B, S]`` give ``[B, S, D]``."""
    batch, tokens, _ = x_BTD.shape
    # One gather of whole rows; gathering along the axis would index every single number.
    offset_B1 = (index_BS.new_ones(batch, 1).cumsum(0) - 1) * tokens
    return x_BTD.flatten(0, 1)[(index_BS + offset_B1).flatten()].unflatten(0, index_BS.shape)


def run_block(block: nn.Module, x_BTD: Tensor, rotation: Rotation | None = None) -> Tensor:
    """A block of the ViT; `rotation` has cosines and sines ``[B, 1, T, K / 2]``."""
    assert isinstance(block, Block)

    def attend(*qkv_BTNK: Tensor) -> Tensor:
        q_BNTK, k_BNTK, v_BNTK = (x_BTNK.transpose(1, 2) for x_BTNK in qkv_BTNK)
        if rotation is not None:
            q_BNTK, k_BNTK = rotation.turn(q_BNTK), rotation.turn(k_BNTK)
        return F.scaled_dot_product_attention(q_BNTK, k_BNTK, v_BNTK).transpose(1, 2)

    return block.residuals(x_BTD, attend)


def run_head(head: ExitHead, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Mask logits ``[B, T, C]`` and P(class present) ``[B, C]``."""
    if isinstance(head, LinearHead):
        logits_BTC = head.mask_logits(x_BTD)
        return logits_BTC, torch.ones_like(logits_BTC[:, 0])
    x_BTd = head.input_norm(head.input_proj(x_BTD))
    keys_and_values = head.cross_kv(x_BTd).chunk(2 * len(head.layers), dim=2)
    query_BCd = head.first_query(1).expand(x_BTD.shape[0], -1, -1)
    q_BCd, k_BTd = query_BCd, x_BTd
    for index, layer in enumerate(head.layers):
        assert isinstance(layer, AtmLayer)
        if index > 0:
            query_BCd = _attend_queries(layer, query_BCd)
        k_BTd, v_BTd = keys_and_values[2 * index : 2 * index + 2]
        query_BCd, q_BCd = _attend_tokens(layer, query_BCd, k_BTd, v_BTd)
    scale = head.num_heads * math.sqrt(head.head_dim // head.num_heads)
    mask_logits_BTC = k_BTd @ (q_BCd / scale).transpose(1, 2)
    return mask_logits_BTC, presence_probability(head.presence(query_BCd))


def _attend_queries(layer: AtmLayer, query_BCd: Tensor) -> Tensor:
    qkv = layer.self_qkv(query_BCd).unflatten(2, (3, layer.num_heads, -1))
    attended = layer.self_proj(_attend(*qkv.permute(2, 0, 3, 1, 4).unbind(0)))
    return layer.norm1(query_BCd + attended)


def _attend_tokens(
    layer: AtmLayer, query_BCd: Tensor, k_BTd: Tensor, v_BTd: Tensor
) -> tuple[Tensor, Tensor]:
    """The queries, and what was compared with the keys."""
    q_BCd = layer.cross_q(query_BCd)
    q_BNCK, k_BNTK, v_BNTK = (
        x.unflatten(2, (layer.num_heads, -1)).transpose(1, 2) for x in (q_BCd, k_BTd, v_BTd)
    )
    query_BCd = layer.norm2(query_BCd + layer.cross_proj(_attend(q_BNCK, k_BNTK, v_BNTK)))
    hidden = F.relu(layer.fc1(query_BCd))
    return layer.norm3(query_BCd + layer.fc2(hidden)), q_BCd


def _attend(q_BNTK: Tensor, k_BNSK: Tensor, v_BNSK: Tensor) -> Tensor:
    """Attention of all heads, ``[B, T, N * K]``."""
    return F.scaled_dot_product_attention(q_BNTK, k_BNSK, v_BNSK).transpose(1, 2).flatten(2)
