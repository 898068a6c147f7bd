"""The pre-norm transformer block of foundation ViTs, on packed tokens.

Parameter names equal those of timm's plain ViT (``norm1``, ``attn.qkv``, ``attn.proj``,
``ls1.gamma``, ``norm2``, ``mlp.fc1``, ``mlp.fc2``); what other families call otherwise is renamed
when weights are loaded (`stepseg.vit.weights`). Rotary positions are part of how rows attend
(`within_images`), not of the block.

Letters: T packed rows, D channels, N heads, K channels of a head, H hidden channels of an MLP.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.ops.attention import Attend, varlen_attention
from stepseg.ops.drop_path import DropPath
from stepseg.packed import PackedTokens, Segments
from stepseg.vit.architecture import Architecture
from stepseg.vit.rotary import Rotation


def within_images(segments: Segments, rotation: Rotation | None = None) -> Attend:
    """Attention of the rows of every image among themselves, queries and keys turned before."""
    return turned(lambda q, k, v: varlen_attention(q, k, v, segments, segments), rotation)


def turned(attend: Attend, rotation: Rotation | None) -> Attend:
    """The same attention on queries and keys that are turned before."""
    if rotation is None:
        return attend
    return lambda q_TNK, k_TNK, v_TNK: attend(rotation.turn(q_TNK), rotation.turn(k_TNK), v_TNK)


Drop = Callable[[Tensor], Tensor]
"""Stochastic depth of a branch ``[T, D]``."""


class Attention(nn.Module):
    """Multi-head self-attention within each image."""

    def __init__(self, *, dim: int, num_heads: int, qkv_bias: str = "all") -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias == "all")
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias == "qv" else None
        self.proj = nn.Linear(dim, dim)

    def project(self, x_TD: Tensor) -> Tensor:
        """Queries, keys and values of all heads one after the other, ``[..., 3 * D]``."""
        if self.q_bias is None or self.v_bias is None:
            return self.qkv(x_TD)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return F.linear(x_TD, self.qkv.weight, bias)

    def forward(self, x_TD: Tensor, attend: Attend) -> Tensor:
        """Project, attend within images, project: ``[..., D] -> [..., D]``."""
        qkv = self.project(x_TD).unflatten(-1, (3, self.num_heads, -1))
        return self.proj(attend(*qkv.unbind(-3)).flatten(-2))


ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


class Mlp(nn.Module):
    """Two linear layers, every token by itself; of a gated one the first makes gate and values."""

    def __init__(self, *, dim: int, hidden_dim: int, activation: str = "gelu") -> None:
        super().__init__()
        self.gated = activation == "swiglu"
        self.activation = activation
        self.fc1 = nn.Linear(dim, hidden_dim * (2 if self.gated else 1))
        self.norm: nn.Module = nn.Identity()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x_TD: Tensor) -> Tensor:
        """``[..., D] -> [..., D]``."""
        x_TH = self.fc1(x_TD)
        if self.gated:
            gate_TH, x_TH = x_TH.chunk(2, dim=-1)
            x_TH = F.silu(gate_TH) * x_TH
        else:
            x_TH = ACTIVATE[self.activation](x_TH)
        return self.fc2(self.norm(x_TH))


class LayerScale(nn.Module):
    """A learned factor for every channel of a branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, x_TD: Tensor) -> Tensor:
        """``[..., D] -> [..., D]``."""
        return x_TD * self.gamma


class Block(nn.Module):
    """Attention and MLP, each with pre-norm, a residual and stochastic depth per image."""

    def __init__(self, numbers: Architecture, *, drop_path: float = 0.0) -> None:
        super().__init__()
        dim, hidden_dim = numbers.dim, numbers.hidden_dim
        self.norm1 = nn.LayerNorm(dim, eps=numbers.eps)
        self.attn = Attention(dim=dim, num_heads=numbers.num_heads, qkv_bias=numbers.qkv_bias)
        self.ls1 = LayerScale(dim) if numbers.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=numbers.eps)
        self.mlp = Mlp(dim=dim, hidden_dim=hidden_dim, activation=numbers.activation)
        if numbers.mlp_norm:
            self.mlp.norm = nn.LayerNorm(hidden_dim, eps=numbers.eps)
        self.ls2 = LayerScale(dim) if numbers.layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: PackedTokens, rotation: Rotation | None = None) -> PackedTokens:
        """The same rows with new values; `rotation` is of these rows."""
        attend, drop = within_images(tokens.segments, rotation), self.dropping(tokens)
        return tokens.with_values(self.residuals(tokens.values_TD, attend, drop))

    def residuals(self, x_TD: Tensor, attend: Attend, drop: Drop = lambda x: x) -> Tensor:
        """The arithmetic of the block, free of the layout: both branches added to their input.

        Args:
            x_TD: values of the rows; an export has ``[B, T, D]`` and attends likewise.
            attend: attention within images.
            drop: stochastic depth of a branch ``[T, D]``.

        Returns:
            ``[T, D]``.

        """
        return self.add_mlp(self.add_attention(x_TD, attend, drop), drop)

    def add_attention(self, x_TD: Tensor, attend: Attend, drop: Drop) -> Tensor:
        """The first half of `residuals`."""
        return x_TD + drop(self.ls1(self.attn(self.norm1(x_TD), attend)))

    def add_mlp(self, x_TD: Tensor, drop: Drop) -> Tensor:
        """The second half of `residuals`."""
        return x_TD + drop(self.ls2(self.mlp(self.norm2(x_TD))))

    def dropping(self, tokens: PackedTokens) -> Drop:
        """Stochastic depth of a branch of these rows."""
        return lambda branch_TD: self.drop_path(
            branch_TD, tokens.image_ids_T, tokens.segments.num_images
        )
