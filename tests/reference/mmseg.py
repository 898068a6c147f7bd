"""SegViT and DToP for one image in float64, with weights by mmsegmentation's names.

Written from the papers and the names; whole grids only, so that nothing is resized but the scores.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.attention import attend
from reference.vit import Weights, gelu, layer_norm, linear, under


def encode(image_3HW: Tensor, weights: Weights, num_heads: int, blocks: list[int]) -> list[Tensor]:
    """Features ``[T, D]`` after some blocks; `image_3HW` is normalised."""
    own = under(weights, "backbone")
    kernel, bias = (own[f"patch_embed.projection.{k}"] for k in ("weight", "bias"))
    x_TD = F.conv2d(image_3HW.double()[None], kernel, bias, stride=kernel.shape[2])[0].flatten(1).T
    x_TD = x_TD + own["pos_embed"][0, 1:]
    seen = []
    for index in range(max(blocks)):
        layer = under(own, f"layers.{index}")
        normed = layer_norm(x_TD, layer, "ln1", 1e-6)
        x_TD = x_TD + joint_attention(normed, under(layer, "attn.attn"), num_heads)
        hidden = gelu(linear(layer_norm(x_TD, layer, "ln2", 1e-6), layer, "ffn.layers.0.0"))
        x_TD = x_TD + linear(hidden, layer, "ffn.layers.1")
        seen += [x_TD] if index + 1 in blocks else []
    return seen


def module(
    x_TD: Tensor, query_Cd: Tensor, head: Weights, suffix: str, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Scores ``[C, T]`` of the last layer of a module, and its queries."""
    x_Td = layer_norm(linear(x_TD, head, f"input_proj{suffix}"), head, f"proj_norm{suffix}", 1e-5)
    scores_CT = torch.zeros(0)
    decoder, index = under(head, f"decoder{suffix}.layers"), 0
    while layer := under(decoder, str(index)):
        attended = joint_attention(query_Cd, under(layer, "self_attn"), num_heads)
        query_Cd = layer_norm(query_Cd + attended, layer, "norm1", 1e-5)
        cross = under(layer, "multihead_attn")
        q, k, v = (
            linear(x, cross, name).unflatten(1, (num_heads, -1))
            for x, name in ((query_Cd, "q"), (x_Td, "k"), (x_Td, "v"))
        )
        scores_CT = torch.einsum("cnk,tnk->ct", q, k) / q.shape[2] ** 0.5 / num_heads
        query_Cd = query_Cd + linear(attend(q, k, v).flatten(1), cross, "proj")
        query_Cd = layer_norm(query_Cd, layer, "norm2", 1e-5)
        hidden = linear(query_Cd, layer, "linear1").clamp(min=0)
        query_Cd = layer_norm(query_Cd + linear(hidden, layer, "linear2"), layer, "norm3", 1e-5)
        index += 1
    return scores_CT, query_Cd


def joint_attention(x_TD: Tensor, weights: Weights, num_heads: int) -> Tensor:
    """PyTorch's multi-head attention of rows among themselves."""
    qkv = x_TD @ weights["in_proj_weight"].T + weights["in_proj_bias"]
    q, k, v = (part.unflatten(1, (num_heads, -1)) for part in qkv.chunk(3, dim=1))
    return linear(attend(q, k, v).flatten(1), weights, "out_proj")


def segvit(
    seen: list[Tensor], weights: Weights, num_heads: int, grid: tuple[int, int], factor: int
) -> Tensor:
    """p of every class in every pixel: three modules, the deepest first."""
    head = under(weights, "decode_head")
    query_Cd, sum_CT = head["q.weight"], 0
    for index, x_TD in enumerate(reversed(seen), start=1):
        scores_CT, query_Cd = module(x_TD, query_Cd, head, f"_{index}", num_heads)
        sum_CT = sum_CT + scores_CT
    p_QC = linear(query_Cd, head, "class_embed").softmax(1)[:, :-1]
    return torch.einsum("qc,qhw->chw", p_QC, upsample(sum_CT, grid, factor).sigmoid())


def dtop(
    x_TD: Tensor, weights: Weights, num_heads: int, grid: tuple[int, int], factor: int
) -> Tensor:
    """The same of a last head that nobody left before."""
    head = under(weights, "decode_head")
    scores_CT, query_Cd = module(x_TD, head["q.weight"], head, "", num_heads)
    present_C1 = linear(query_Cd, head, "class_embed").softmax(1)[:, :1]
    return upsample(present_C1 * scores_CT.sigmoid(), grid, factor)


def upsample(values_CT: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    return F.interpolate(values_CT.unflatten(1, grid)[None], scale_factor=factor, mode="bilinear")[
        0
    ]
