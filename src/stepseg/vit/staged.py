"""A foundation ViT that runs a range of blocks at a time; exits happen between ranges, not in here.

With nothing merged it equals timm's model of the same numbers. A plain one, as in SegViT and DToP,
has no class token and no final norm. Heads live in `stepseg.heads`, the walk over stages in
`stepseg.model`.

Letters: B images, H x W pixels, Y x X cells of the patch grid, P prefix rows, T rows, T0 tokens
after merging, D channels.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stepseg.packed import PackedTokens, TokenLayout
from stepseg.vit.architecture import Architecture
from stepseg.vit.block import Block
from stepseg.vit.patch_embed import PatchEmbed, Resize, shrink_image
from stepseg.vit.pos_embed import KeptLevels, Levels, pool_pos_embed, resize_pos_embed
from stepseg.vit.rotary import Rope, Rotation


class StagedViT(nn.Module):
    """Vision Transformer on packed tokens.

    Args:
        numbers: what it is.
        drop_path: stochastic depth of the last block, growing linearly from 0.
        checkpoint_blocks: recompute blocks in the backward pass to save memory: all of them, or so
            many first ones, through which most tokens go.
        frozen: learn nothing: always in evaluation mode, without gradients, hence without a graph.
        mean: of RGB in [0, 1]; the network normalises its own input.
        std: likewise.

    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        numbers: Architecture,
        *,
        drop_path: float = 0.0,
        checkpoint_blocks: bool | int = False,
        frozen: bool = False,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.numbers, dim = numbers, numbers.dim
        recomputed = numbers.depth if checkpoint_blocks is True else int(checkpoint_blocks)
        if not 0 <= recomputed <= numbers.depth:
            raise ValueError(
                f"backbone.checkpoint_blocks={checkpoint_blocks}: true, false, or so many first "
                f"blocks of {numbers.depth}"
            )
        self.recomputed_blocks, self.frozen = recomputed, frozen
        self.patch_embed = PatchEmbed(
            dim=dim, patch_size=numbers.patch_size, bias=numbers.patch_bias
        )
        self.prefix = nn.Parameter(torch.zeros(1, numbers.prefix, dim)) if numbers.prefix else None
        side = numbers.pos_grid
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2, dim)) if side else None
        self._kept_positions = KeptLevels()
        self.rope = Rope(numbers.rope, numbers.head_dim) if numbers.rope else None
        self.norm_pre = nn.LayerNorm(dim, eps=numbers.eps) if numbers.norm_pre else nn.Identity()
        rates = torch.linspace(0, drop_path, numbers.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(numbers, drop_path=rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=numbers.eps) if numbers.final_norm else nn.Identity()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        for learned in (self.pos_embed, self.prefix):
            if learned is not None:
                nn.init.trunc_normal_(learned, std=0.02)
        self.apply(_init_linear)
        self.requires_grad_(not frozen).train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder stays in evaluation."""
        self._kept_positions.forget()  # who trains may change weights in ways that nobody counts
        return super().train(mode and not self.frozen)

    @property
    def dim(self) -> int:
        """Channels, D."""
        return self.numbers.dim

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.numbers.depth

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.numbers.patch_size

    def embed(self, images_B3HW: Tensor, layout: TokenLayout, resize: Resize) -> PackedTokens:
        """Turn windows of pixels into tokens, Eq. (1): resize to one patch, embed, add position.

        Args:
            images_B3HW: RGB in [0, 1], sides multiples of the patch.
            layout: the windows, from merging.
            resize: how superpatches shrink to a patch.

        """
        images = (images_B3HW - self.mean) / self.std
        levels = {1: images}
        if not layout.is_full_grid:
            for window in layout.windows:
                step = window * self.patch_size
                height, width = (side // step for side in images.shape[2:])
                if height == 0 or width == 0:  # no such window fits, hence none was merged
                    continue
                fitting = images[:, :, : height * step, : width * step]
                levels[window] = shrink_image(fitting, window, resize)
        pixels = {window: self.patch_embed.patches(level) for window, level in levels.items()}
        values_T0D = self.patch_embed(layout.gather_windows(pixels))
        if self.pos_embed is not None:
            positions = self.position_levels(layout.grid, tuple(levels))
            values_T0D = values_T0D + layout.gather_windows(positions)
        prefix_PD = None if self.prefix is None else self.prefix[0]
        places_T02 = None if self.rope is None else self.rope.places(layout)
        tokens = PackedTokens.from_layout(values_T0D, layout, prefix_PD, places_T02)
        return tokens.with_values(self.norm_pre(tokens.values_TD))

    def position_levels(self, grid: tuple[int, int], windows: tuple[int, ...]) -> Levels:
        """Learned positions of windows on a patch grid, by their side in cells."""
        assert self.pos_embed is not None
        weights = self.pos_embed

        def make() -> Levels:
            cells_1YXD = resize_pos_embed(weights, grid, antialias=self.numbers.pos_antialias)
            return {window: pool_pos_embed(cells_1YXD, window) for window in windows}

        return self._kept_positions.get(weights, (grid, windows), make)

    def rotation(self, tokens: PackedTokens) -> Rotation | None:
        """What turns the queries and keys of these rows in every block; None: nothing does."""
        if self.rope is None:
            return None
        assert tokens.places_T2 is not None
        return self.rope.rotation(tokens.places_T2)

    def run_blocks(self, tokens: PackedTokens, start: int, stop: int) -> PackedTokens:
        """Run the blocks ``start + 1`` to ``stop``, counted from 1 as in the paper."""
        rotation = self.rotation(tokens)
        for index, block in enumerate(self.blocks[start:stop], start):
            if index < self.recomputed_blocks and torch.is_grad_enabled():
                values_TD = checkpoint(
                    _values_of, block, tokens, rotation, tokens.values_TD, use_reentrant=False
                )
                tokens = tokens.with_values(values_TD)
            else:
                tokens = block(tokens, rotation)
        return tokens

    def read(self, tokens: PackedTokens) -> PackedTokens:
        """What heads read: the patches, after the final norm if the encoder has one."""
        patches = tokens.patches()
        return patches.with_values(self.norm(patches.values_TD))

    def features(
        self,
        images_B3HW: Tensor,
        blocks: Sequence[int] | None = None,
        norm: bool = True,
        layout: TokenLayout | None = None,
    ) -> list[Tensor]:
        """Maps of features, for probes, depth, or whatever else is not a head of this project.

        Args:
            images_B3HW: RGB in [0, 1], sides multiples of the patch.
            blocks: after which ones, counted from 1, ascending; None: after the last.
            norm: after the final norm, where the encoder has one.
            layout: superpatches; None: every patch is a token. Cells of a superpatch are alike.

        Returns:
            ``[B, Y, X, D]`` for each of the blocks.

        Raises:
            ValueError: images that patches do not tile, or blocks that do not exist.

        """
        blocks = [self.depth] if blocks is None else list(blocks)
        if blocks != sorted({*blocks}) or not all(1 <= block <= self.depth for block in blocks):
            raise ValueError(f"blocks={blocks}: ascending numbers within 1..{self.depth}")
        batch, side = images_B3HW.shape[0], self.patch_size
        height, width = images_B3HW.shape[2:]
        if height % side or width % side or not height * width:
            raise ValueError(
                f"images of {height} x {width} px do not divide into patches of {side}"
            )
        if layout is None:
            layout = TokenLayout.full(batch, (height // side, width // side), images_B3HW.device)
        tokens, start, maps = self.embed(images_B3HW, layout, "bilinear"), 0, []
        for block in blocks:
            tokens, start = self.run_blocks(tokens, start, block), block
            seen = self.read(tokens) if norm else tokens.patches()
            maps.append(layout.unmerge(seen.values_TD))
        return maps


def _values_of(
    block: Block, tokens: PackedTokens, rotation: Rotation | None, values_TD: Tensor
) -> Tensor:
    """Run a block with tensors as arguments, which is what checkpointing can track."""
    return block(tokens.with_values(values_TD), rotation).values_TD


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
