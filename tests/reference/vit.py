"""A ViT for one image, written out in float64: layers, blocks, position grid, superpatches."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from reference.attention import attend

Weights = Mapping[str, Tensor]


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """The state of a module in float64."""
    return {key: value.detach().double() for key, value in module.state_dict().items()}


def under(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights of a part, by their names within it."""
    start = prefix + "."
    return {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(x: Tensor, weights: Weights, name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def block(x_TD: Tensor, weights: Weights, num_heads: int) -> Tensor:
    """Pre-norm attention and MLP."""
    qkv = linear(layer_norm(x_TD, weights, "norm1", 1e-6), weights, "attn.qkv")
    per_head = (len(x_TD), num_heads, x_TD.shape[1] // num_heads)
    q_TNK, k_TNK, v_TNK = (part.reshape(per_head) for part in qkv.chunk(3, dim=1))
    attended = attend(q_TNK, k_TNK, v_TNK).reshape(x_TD.shape)
    x_TD = x_TD + linear(attended, weights, "attn.proj")
    hidden = gelu(linear(layer_norm(x_TD, weights, "norm2", 1e-6), weights, "mlp.fc1"))
    return x_TD + linear(hidden, weights, "mlp.fc2")


def bicubic(image_DYX: Tensor, height: int, width: int) -> Tensor:
    """Cubic convolution with a = -0.75, pixel centres at half, borders repeated, no antialias."""
    rows = _cubic_matrix(image_DYX.shape[1], height)
    columns = _cubic_matrix(image_DYX.shape[2], width)
    return rows @ image_DYX.double() @ columns.T


def _cubic_matrix(size: int, new_size: int) -> Tensor:
    matrix = torch.zeros(new_size, size, dtype=torch.float64)
    for i in range(new_size):
        centre = (i + 0.5) * size / new_size - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[i, min(max(tap, 0), size - 1)] += _cubic(abs(centre - tap))
    return matrix


def _cubic(distance: float, a: float = -0.75) -> float:
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a


def position_grid(pos_embed_1GD: Tensor, height: int, width: int) -> Tensor:
    """The learned square grid at the size of the image's grid, ``[Y, X, D]``."""
    side = math.isqrt(pos_embed_1GD.shape[1])
    square_DGG = pos_embed_1GD[0].double().reshape(side, side, -1).permute(2, 0, 1)
    return bicubic(square_DGG, height, width).permute(1, 2, 0)


def superpatch(
    image_3HW: Tensor, y: int, x: int, window: int, resize: str, side: int = 16
) -> Tensor:
    """The pixels of a window of patches, resized by themselves to one patch."""
    extent = window * side
    crop = image_3HW[:, y * side : y * side + extent, x * side : x * side + extent]
    if window == 1:
        return crop
    if resize == "area":
        return crop.reshape(3, side, window, side, window).mean(dim=(2, 4))
    return F.interpolate(crop[None], size=(side, side), mode="bilinear", align_corners=False)[0]


def embed(
    image_3HW: Tensor,
    windows: list[tuple[int, int, int]],
    weights: Weights,
    resize: str,
    mean: Tensor,
    std: Tensor,
) -> Tensor:
    """Tokens of windows given as (y, x, side), for one image whose sides are multiples of 16."""
    image = (image_3HW.double() - mean.double()) / std.double()
    positions = position_grid(weights["pos_embed"], image.shape[1] // 16, image.shape[2] // 16)
    kernel = weights["patch_embed.proj.weight"]
    tokens = []
    for y, x, side in windows:
        pixels = superpatch(image, y, x, side, resize)
        value = (kernel * pixels).sum(dim=(1, 2, 3)) + weights["patch_embed.proj.bias"]
        tokens.append(value + positions[y : y + side, x : x + side].mean(dim=(0, 1)))
    return torch.stack(tokens)
