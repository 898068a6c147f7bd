"""The decoder of EoMT (arXiv 2503.19108): its queries run through the last blocks of the encoder.

They are rows before the patches like class token and registers, so that blocks need to know nothing
of them. After the last block an MLP makes a mask of every query, a linear layer says its class or
that it has none, and features of the patches, on their full grid and upscaled, are compared with
the masks. Published checkpoints anneal masked attention away in training; here is none.

The scores of a token depend on its neighbours through the upscaling: such a decoder answers for
whole grids (`stepseg.ops.query_masks`) and not token by token, as ATM heads do. Tokens may leave
before the queries enter: in their cells the exit head's answer stays, and what it read of them
stands in the grid for the neighbours' sake.

Letters: B images, Q queries, Y x X cells of the patch grid, y x x of the upscaled one, C classes,
D channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.heads.linear import ExitHead, LinearHead
from stepseg.ops.query_masks import QueryMasks
from stepseg.packed import PackedTokens


@dataclass(frozen=True, slots=True)
class EomtNumbers:
    """What such a decoder is."""

    queries: int
    """Q."""
    blocks: int
    """Last blocks of the encoder that queries run through."""
    upscale: int = 2
    """How often the grid is doubled."""

    def __post_init__(self) -> None:
        if min(self.queries, self.blocks) < 1 or not 0 <= self.upscale <= 8:
            raise ValueError(
                f"an EoMT decoder has queries, blocks for them and at most 8 upscalings, got "
                f"{self.queries}, {self.blocks} and {self.upscale}"
            )


class Upscale(nn.Module):
    """Double a grid of features: a transposed convolution, GELU, a depthwise one, a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.mix = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x_BDYX: Tensor) -> Tensor:
        """``[B, D, Y, X] -> [B, D, 2 * Y, 2 * X]``."""
        mixed = self.mix(F.gelu(self.grow(x_BDYX)))
        return self.norm(mixed.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class EomtHead(nn.Module):
    """Queries for the encoder, and what becomes of them.

    Args:
        dim: channels of the encoder, D.
        depth: its blocks.
        num_classes: C.
        numbers: the rest.

    """

    earlier_blocks: tuple[int, ...] = ()
    """As of `AtmHead`: it reads the last block alone."""
    among_all = True
    """As of `AtmHead`: queries are of no class."""
    temperature: Tensor | None = None
    """As of exit heads; it is none."""

    def __init__(self, *, dim: int, depth: int, num_classes: int, numbers: EomtNumbers) -> None:
        super().__init__()
        if numbers.blocks > depth:
            raise ValueError(
                f"heads.eomt.blocks={numbers.blocks}: the encoder has {depth} blocks for queries"
            )
        self.num_classes, self.numbers = num_classes, numbers
        self.start = depth - numbers.blocks
        self.query_QD = nn.Parameter(torch.empty(numbers.queries, dim))
        self.mask_mlp = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))
        self.classifier = nn.Linear(dim, num_classes + 1)
        self.upscale = nn.ModuleList(Upscale(dim) for _ in range(numbers.upscale))
        nn.init.normal_(self.query_QD)

    def check_exits(self, heads: Mapping[int, ExitHead]) -> None:
        """Refuse exit heads beside queries, or that speak of classes in other words.

        Raises:
            ValueError: says which blocks and what kind there may be.

        """
        late = [block for block in heads if block > self.start]
        if late or not all(isinstance(head, LinearHead) for head in heads.values()):
            raise ValueError(
                f"exit heads after blocks {sorted(heads)} of an EoMT: linear ones (heads.exit="
                f"linear) up to block {self.start}, after which its queries enter"
            )

    def join(self, tokens: PackedTokens) -> PackedTokens:
        """The rows with queries before them, for the blocks after `start`."""
        return tokens.behind(self.query_QD)

    def forward(self, query_BQD: Tensor, patches_BYXD: Tensor) -> QueryMasks:
        """Compare queries and patches, both after the last block and the final norm."""
        mask_BQD = query_BQD
        for index, layer in enumerate(self.mask_mlp):
            mask_BQD = layer(mask_BQD if index == 0 else F.gelu(mask_BQD))
        x_BDyx = patches_BYXD.permute(0, 3, 1, 2)
        for upscale in self.upscale:
            x_BDyx = upscale(x_BDyx)
        with torch.autocast(x_BDyx.device.type, enabled=False):
            logits_BQN = mask_BQD.float() @ x_BDyx.flatten(2).float()
        said_BQC = cast(Tensor, self.classifier(query_BQD)).float()
        return QueryMasks(logits_BQN.unflatten(2, x_BDyx.shape[2:]), said_BQC)
