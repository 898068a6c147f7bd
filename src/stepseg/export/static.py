"""A segmenter with static shapes, for `torch.export` and ONNX: the same weights, another layout.

The model proper packs the tokens of a batch because every image has its own number of them. Where
a rule fixes the numbers beforehand (top-k merging as in CTS, a budget at the exits, or neither),
all images have equally many, and ``[B, T, D]`` with gathers does the same work without a shape
that depends on data. Thresholds and confidences cannot be exported; `check_static` says what can.

Equal to the packed model up to rounding, ties included: ranks go to the earlier window or token.

Letters: B images, H x W pixels, Y x X cells of the patch grid, T tokens now, T0 tokens after
merging, D channels, d channels of a head, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.dcts.merge import MergeRule, merge_windows
from stepseg.dcts.policy import OraclePolicy
from stepseg.export.dense import run_block, run_head, take_rows
from stepseg.heads.atm import AtmHead
from stepseg.heads.exit import BudgetExit
from stepseg.heads.linear import ExitHead
from stepseg.heads.temperature import tempered
from stepseg.model import Reduction, StepSegmenter
from stepseg.ops.padding import pad_to_multiple
from stepseg.vit.patch_embed import shrink_image
from stepseg.vit.rotary import Rotation


def _static_decoder(model: StepSegmenter) -> AtmHead:
    decoder = model.decoder
    if decoder.among_all:
        raise ValueError(
            "an EoMT decoder and SegViT's own are not exported yet: run such a checkpoint by "
            "stepseg-predict or stepseg.Segmenter, or export the original"
        )
    if decoder.earlier_blocks:
        raise ValueError(
            f"a decoder that reads blocks {list(decoder.earlier_blocks)} besides the last "
            f"(heads.cascade) cannot be exported: train one with heads.cascade=null"
        )
    assert isinstance(decoder, AtmHead)
    return decoder


def check_static(reduction: Reduction) -> None:
    """Refuse a reduction whose token numbers depend on the image.

    Raises:
        ValueError: says which rule, and what to choose instead.

    """
    remedies = []
    if reduction.inside is not None:
        remedies.append(f"{reduction.inside.name} acts inside the blocks, which is not exported")
    if reduction.cell is not None:
        remedies.append("resize images before the exported model (reduction.input.cell=null)")
    if reduction.merge is not None and reduction.merge.by != "policy":
        remedies.append(
            "windows are exported as the policy chooses them (reduction.merge.by=policy)"
        )
    elif reduction.merge is not None and reduction.merge.top_k is None:
        remedies.append(
            "merging by thresholds gives every image its own number of tokens: merge a fixed "
            "number of windows (reduction.merge.windows=[2] reduction.merge.top_k=103)"
        )
    if reduction.exit is not None and not isinstance(reduction.exit, BudgetExit):
        remedies.append(
            "exits by confidence release another number of tokens in every image: keep a fixed "
            "number (reduction.exit.rule=budget reduction.exit.tokens=[256])"
        )
    if remedies:
        raise ValueError(
            f"this model cannot be exported with static shapes. {'; '.join(remedies)}; or export "
            f"the dense model (reduction=none)"
        )


def merged_counts(rule: MergeRule, grid: tuple[int, int]) -> dict[int, int]:
    """How many windows of each side a top-k rule merges in every image of this grid."""
    rule = rule.on_grid(grid)
    merged: dict[int, int] = {}
    for window, count in reversed(list(zip(rule.windows, rule.counts, strict=True))):
        fitting = (grid[0] // window) * (grid[1] // window)
        covered = sum(n * (side // window) ** 2 for side, n in merged.items())
        merged[window] = min(count, fitting - covered)
    return dict(sorted(merged.items()))


class StaticSegmenter(nn.Module):
    """Images of one size in, class ids out.

    Args:
        model: prepared for inference; its weights are shared, not copied.
        reduction: what is merged and who leaves, by fixed numbers.
        image_size: (height, width) of all images, any multiple or not of the patch.
        scores: also return p of every class in every pixel.

    Raises:
        ValueError: a reduction that these parts or static shapes cannot carry out.

    """

    position_ND: Tensor | None
    angles_N2A: Tensor | None
    """Cosines and sines of rotary positions, rows as of `position_ND`."""

    def __init__(
        self,
        model: StepSegmenter,
        reduction: Reduction,
        image_size: tuple[int, int],
        *,
        scores: bool = False,
    ) -> None:
        super().__init__()
        model.check(reduction)
        self.backbone, self.decoder = model.backbone, _static_decoder(model)
        check_static(reduction)
        self.exit_heads = nn.ModuleDict(
            {str(block): model.exit_heads[str(block)] for block in reduction.exit_blocks}
        )
        self.reduction, self.image_size, self.with_scores = reduction, image_size, scores
        self.own_presence = model.class_source == "own"
        side = model.patch_size
        self.grid = (-(-image_size[0] // side), -(-image_size[1] // side))
        self.merged = merged_counts(reduction.merge, self.grid) if reduction.merge else {}
        self.merged = {window: count for window, count in self.merged.items() if count}
        self.policy = model.policy if self.merged else None
        if isinstance(self.policy, OraclePolicy):
            raise ValueError("the oracle policy merges by labels, which an exported model has not")
        cells = self.grid[0] * self.grid[1]
        self.num_tokens = cells - sum((w * w - 1) * n for w, n in self.merged.items())
        self.register_buffer("position_ND", self._positions())
        self.register_buffer("angles_N2A", self._angles())

    @property
    def tokens_per_stage(self) -> list[int]:
        """Tokens of every image in the blocks before each head, as far as tokens are left."""
        tokens = [self.num_tokens]
        for index in range(len(self.reduction.exit_blocks)):
            tokens.append(min(tokens[-1], self._budget(index)))
        return tokens

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """Segment a batch.

        Args:
            images: RGB in [0, 1], ``[B, 3, H, W]`` of `image_size`.

        Returns:
            The class of every pixel, int64 ``[B, H, W]``; with `scores` also p of every class,
            float32 ``[B, C, H, W]``.

        """
        x_BTD, row_BT, cell_to_token_BN = self._embed(images)
        p_BTC = self._stages(*self._with_prefix(x_BTD, row_BT))
        if cell_to_token_BN is not None:
            p_BTC = take_rows(p_BTC, cell_to_token_BN)
        p_BCYX = p_BTC.transpose(1, 2).unflatten(2, self.grid)
        size = [cells * self.backbone.patch_size for cells in self.grid]
        p_BCHW = F.interpolate(p_BCYX, size=size, mode="bilinear", align_corners=False)
        p_BCHW = p_BCHW[:, :, : self.image_size[0], : self.image_size[1]]
        labels_BHW = p_BCHW.argmax(1)
        return (labels_BHW, p_BCHW) if self.with_scores else labels_BHW

    def _embed(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Tokens in raster order, their rows among all levels, and the token that covers each cell.

        None for both: every cell is a token.
        """
        vit = self.backbone
        padded = (pad_to_multiple(images_B3HW, vit.patch_size, 0.5) - vit.mean) / vit.std
        pixels_BNP = [vit.patch_embed.patches(padded).flatten(1, 2)]
        row_BT = cell_to_token_BN = None
        if self.policy is not None:
            assert self.reduction.merge is not None
            for window in self.merged:
                fitting = padded[:, :, : self._pixels(0, window), : self._pixels(1, window)]
                shrunk = shrink_image(fitting, window, self.reduction.merge.resize)
                pixels_BNP.append(vit.patch_embed.patches(shrunk).flatten(1, 2))
            row_BT, cell_to_token_BN = self._layout(images_B3HW)
        pixels = torch.cat(pixels_BNP, 1)
        x_BTD = vit.patch_embed(pixels if row_BT is None else take_rows(pixels, row_BT))
        if self.position_ND is not None:
            x_BTD = x_BTD + (self.position_ND if row_BT is None else self.position_ND[row_BT])
        return x_BTD, row_BT, cell_to_token_BN

    def _with_prefix(self, x_BTD: Tensor, row_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The rows of every image with class token and registers first, and their angles."""
        vit, batch = self.backbone, x_BTD.shape[0]
        angles_BT2A = None
        if self.angles_N2A is not None:
            angles = self.angles_N2A[None] if row_BT is None else self.angles_N2A[row_BT]
            angles_BT2A = angles.expand(batch, -1, -1, -1)
        if vit.prefix is not None:
            x_BTD = torch.cat([vit.prefix.expand(batch, -1, -1), x_BTD], 1)
            if angles_BT2A is not None:  # they do not turn
                still = torch.tensor([1.0, 0.0], device=x_BTD.device)[:, None]
                still = still.expand(batch, vit.numbers.prefix, 2, angles_BT2A.shape[3])
                angles_BT2A = torch.cat([still, angles_BT2A], 1)
        return vit.norm_pre(x_BTD), angles_BT2A

    def _layout(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Where in the concatenated levels each token stands, and the token of each cell."""
        assert self.policy is not None and self.reduction.merge is not None
        rows, columns = self.grid
        scores = {window: logit.sigmoid() for window, logit in self.policy(images_B3HW).items()}
        window_BYX = merge_windows(scores, self.reduction.merge, images_B3HW.shape[0], self.grid)
        device = window_BYX.device
        y = torch.arange(rows, device=device)[:, None]
        x = torch.arange(columns, device=device)[None]
        is_anchor_BN = ((y % window_BYX == 0) & (x % window_BYX == 0)).flatten(1)
        token_of_anchor_BN = is_anchor_BN.long().cumsum(1) - 1
        anchor_of_cell = (y - y % window_BYX) * columns + (x - x % window_BYX)
        cell_to_token_BN = token_of_anchor_BN.gather(1, anchor_of_cell.flatten(1))
        row_BN = (y * columns + x).expand_as(window_BYX)
        start = rows * columns
        for window in self.merged:
            row_of_window = start + (y // window) * (columns // window) + x // window
            row_BN = torch.where(window_BYX == window, row_of_window, row_BN)
            start += (rows // window) * (columns // window)
        anchor_BT = first_true(is_anchor_BN, self.num_tokens)
        return row_BN.flatten(1).gather(1, anchor_BT), cell_to_token_BN

    def _stages(self, x_BTD: Tensor, angles_BT2A: Tensor | None) -> Tensor:
        """Blocks, heads and exits; p of every token after merging, ``[B, T0, C]``."""
        prefix = self.backbone.numbers.prefix
        mask_BTC = presence_BTC = token_BT = presence_BC = None
        start = 0
        stages: list[tuple[int, ExitHead]] = [
            (int(block), head)  # type: ignore[misc]
            for block, head in self.exit_heads.items()
        ]
        for index, (block, head) in enumerate([*stages, (self.backbone.depth, self.decoder)]):
            rotation = self._rotation(angles_BT2A)
            for layer in self.backbone.blocks[start:block]:
                x_BTD = run_block(layer, x_BTD, rotation)
            start = block
            seen_BTD = self.backbone.norm(x_BTD[:, prefix:])
            logits_BTC, presence_BC = run_head(head, seen_BTD)
            mask_BTC = _overwrite(mask_BTC, token_BT, logits_BTC)
            here_BTC = presence_BC[:, None].expand_as(logits_BTC)
            if self.own_presence:
                presence_BTC = _overwrite(presence_BTC, token_BT, here_BTC)
            if head is self.decoder or self._budget(index) >= seen_BTD.shape[1]:
                continue
            if self._budget(index) == 0:
                break  # nobody is left to ask a later head
            p_BTC = tempered(here_BTC * logits_BTC.sigmoid(), head.temperature)
            stay_BT = least_confident(p_BTC, self._budget(index))
            row_BT = torch.cat([_first(prefix, stay_BT), stay_BT + prefix], 1)
            x_BTD = take_rows(x_BTD, row_BT)
            if angles_BT2A is not None:
                angles_BT2A = take_rows(angles_BT2A.flatten(2), row_BT).unflatten(2, (2, -1))
            token_BT = stay_BT if token_BT is None else token_BT.gather(1, stay_BT)
        assert mask_BTC is not None and presence_BC is not None
        return mask_BTC.sigmoid() * (presence_BC[:, None] if presence_BTC is None else presence_BTC)

    def _budget(self, index: int) -> int:
        rule = self.reduction.exit
        assert isinstance(rule, BudgetExit)
        return rule.budget(index)

    def _pixels(self, axis: int, window: int) -> int:
        """Height or width in pixels that whole windows of this side cover."""
        return self.grid[axis] // window * window * self.backbone.patch_size

    def _positions(self) -> Tensor | None:
        """Position embeddings of all cells, then of all windows of each merged side; a constant."""
        if self.backbone.pos_embed is None:
            return None
        with torch.no_grad():
            levels = self.backbone.position_levels(self.grid, (1, *self.merged))
            return torch.cat([level.flatten(0, 2) for level in levels.values()])

    def _angles(self) -> Tensor | None:
        """Cosines and sines of the same places, ``[N, 2, K / 2]``; a constant."""
        rope = self.backbone.rope
        if rope is None:
            return None
        centres = []
        for window in (1, *self.merged):
            sides = [torch.arange(cells // window) for cells in self.grid]
            corners = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, 1)
            centres.append((corners + 0.5) * window)
        rotation = rope.rotation(
            rope.places_of(torch.cat(centres).to(rope.frequencies_F.device), self.grid)
        )
        return torch.cat([rotation.cos_T1A, rotation.sin_T1A], 1)

    def _rotation(self, angles_BT2A: Tensor | None) -> Rotation | None:
        if angles_BT2A is None or self.backbone.rope is None:
            return None
        cos, sin = angles_BT2A[:, None].unbind(3)
        return Rotation(cos, sin, self.backbone.rope.numbers.halves)


def _first(count: int, like_BS: Tensor) -> Tensor:
    """The numbers of the first rows of every image, ``[B, count]``."""
    return torch.arange(count, device=like_BS.device).expand(like_BS.shape[0], -1)


def first_true(mask_BN: Tensor, count: int) -> Tensor:
    """Indices of the `count` True values in every row, ascending, int64 ``[B, count]``."""
    return mask_BN.float().sort(dim=1, descending=True, stable=True).indices[:, :count]


def least_confident(p_BTC: Tensor, count: int) -> Tensor:
    """Indices of the `count` tokens whose best class is least certain, ascending."""
    doubt_BT = -p_BTC.amax(2)
    order_BT = doubt_BT.sort(dim=1, descending=True, stable=True).indices
    return order_BT[:, :count].sort(dim=1).values


def _overwrite(previous: Tensor | None, token_BT: Tensor | None, values_BTC: Tensor) -> Tensor:
    """Put the active tokens' values over the previous ones of all tokens."""
    if previous is None or token_BT is None:
        return values_BTC
    return previous.scatter(1, token_BT[..., None].expand_as(values_BTC), values_BTC)
