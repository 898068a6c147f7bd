"""A plain ViT that runs a range of blocks at a time; exits happen between ranges, not in here.

Plain means as in SegViT and DToP: no class token, no final norm. With nothing merged it equals
timm's ViT. Heads live in `stepseg.heads`, the walk over stages in `stepseg.model`.

Letters: B images, H x W pixels, Y x X cells of the patch grid, P patch side in pixels, T0 tokens
after merging, D channels.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stepseg.packed import PackedTokens, TokenLayout
from stepseg.vit.block import Block
from stepseg.vit.patch_embed import PatchEmbed, Resize, shrink_image
from stepseg.vit.pos_embed import pool_pos_embed, resize_pos_embed


class StagedViT(nn.Module):
    """Vision Transformer on packed tokens.

    Args:
        dim: channels.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden channels of the MLP per channel.
        patch_size: patch side in pixels.
        pos_grid: side of the learned position grid.
        drop_path: stochastic depth of the last block, growing linearly from 0.
        checkpoint_blocks: recompute blocks in the backward pass to save memory.
        mean: of RGB in [0, 1]; the network normalises its own input.
        std: likewise.

    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        patch_size: int = 16,
        pos_grid: int = 14,
        drop_path: float = 0.0,
        checkpoint_blocks: bool = False,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.dim, self.depth, self.num_heads = dim, depth, num_heads
        self.mlp_ratio, self.patch_size = mlp_ratio, patch_size
        self.checkpoint_blocks = checkpoint_blocks
        self.patch_embed = PatchEmbed(dim=dim, patch_size=patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, pos_grid**2, dim))
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio, drop_path=rate)
            for rate in rates
        )
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(_init_linear)

    def embed(self, images_B3HW: Tensor, layout: TokenLayout, resize: Resize) -> PackedTokens:
        """Turn windows of pixels into tokens, Eq. (1): resize to one patch, embed, add position.

        Args:
            images_B3HW: RGB in [0, 1], sides multiples of the patch.
            layout: the windows, from merging.
            resize: how superpatches shrink to a patch.

        """
        images = (images_B3HW - self.mean) / self.std
        pos_1YXD = resize_pos_embed(self.pos_embed, layout.grid)
        pixels = {1: self.patch_embed.patches(images)}
        positions = {1: pos_1YXD}
        if not layout.is_full_grid:
            for window in layout.windows:
                step = window * self.patch_size
                height, width = (side // step for side in images.shape[2:])
                if height == 0 or width == 0:  # no such window fits, hence none was merged
                    continue
                fitting = images[:, :, : height * step, : width * step]
                shrunk = shrink_image(fitting, window, resize)
                pixels[window] = self.patch_embed.patches(shrunk)
                positions[window] = pool_pos_embed(pos_1YXD, window)
        values_T0D = self.patch_embed(layout.gather_windows(pixels))
        return PackedTokens.from_layout(values_T0D + layout.gather_windows(positions), layout)

    def run_blocks(self, tokens: PackedTokens, start: int, stop: int) -> PackedTokens:
        """Run the blocks ``start + 1`` to ``stop``, counted from 1 as in the paper."""
        for block in self.blocks[start:stop]:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                values_TD = checkpoint(
                    _values_of, block, tokens, tokens.values_TD, use_reentrant=False
                )
                tokens = tokens.with_values(values_TD)
            else:
                tokens = block(tokens)
        return tokens


def _values_of(block: Block, tokens: PackedTokens, values_TD: Tensor) -> Tensor:
    """Run a block with tensors as arguments, which is what checkpointing can track."""
    return block(tokens.with_values(values_TD)).values_TD


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
