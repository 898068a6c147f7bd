"""Which tokens of an image are alike: bipartite matching and windows, for all images at once.

No loop over images or tokens, and nothing waits for the device. The rows of an image alternate into
sources and targets (ToMe, arXiv 2210.09461, Sec. 3); its rows are laid out with padding, so that
one batched product compares them all. No image decides about another.

Letters: B images, T packed tokens, F channels that are compared, Y x X cells.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.ops.segment import position_in_image, rank_in_group
from stepseg.packed import PackedTokens, Segments


@dataclass(frozen=True, slots=True)
class Proposals:
    """To every source the target that is most like it."""

    target_T: Tensor
    """int64; the row of the best target; a row that may not merge names itself."""
    cosine_T: Tensor
    """Of the two; ``-inf`` where the row is no source or has no target."""

    def accept(self, chosen_T: Tensor) -> Tensor:
        """`PackedTokens.merge`'s argument if the chosen sources merge into their targets."""
        rows = torch.arange(len(chosen_T), device=chosen_T.device)
        return torch.where(chosen_T & self.cosine_T.isfinite(), self.target_T, rows)


@torch.no_grad()
def propose(features_TF: Tensor, tokens: PackedTokens) -> Proposals:
    """Find for every second token of an image its most similar one among the others."""
    segments, image_T = tokens.segments, tokens.image_ids_T
    position_T = position_in_image(segments, image_T)
    side_T, place_T = position_T % 2, position_T // 2  # side 0: sources
    half = max(1, -(-segments.max_length // 2))
    # A decision: in single precision at least, whatever the features are.
    features = features_TF.to(torch.promote_types(features_TF.dtype, torch.float32))
    features = F.normalize(features, dim=1)
    padded = features.new_zeros(segments.num_images, 2, half, features.shape[1])
    padded = padded.index_put((image_T, side_T, place_T), features)
    with torch.autocast(features.device.type, enabled=False):
        cosine_Bst = padded[:, 0] @ padded[:, 1].transpose(1, 2)
    targets_B = segments.cu_seqlens.diff() // 2
    absent_Bt = torch.arange(half, device=image_T.device) >= targets_B[:, None]
    cosine_Bst = cosine_Bst.masked_fill(absent_Bt[:, None], float("-inf"))
    best_Bs, place_Bs = cosine_Bst.max(2)
    cosine_T = best_Bs[image_T, place_T].masked_fill(side_T == 1, float("-inf"))
    first_T = segments.cu_seqlens.long()[image_T]
    return Proposals(first_T + 2 * place_Bs[image_T, place_T] + 1, cosine_T)


def matching_macs(tokens: int, channels: int) -> int:
    """Multiply-accumulates of `propose` for one image."""
    return max(1, -(-tokens // 2)) ** 2 * channels


@torch.no_grad()
def strongest(score_T: Tensor, tokens: PackedTokens, counts: tuple[int, ...]) -> Tensor:
    """Boolean ``[T]``: the rows of each image with the highest scores, so many of each."""
    rank_T = rank_in_group(score_T, tokens.image_ids_T, tokens.segments.num_images)
    counts_B = Segments.from_lengths(counts, score_T.device).cu_seqlens.diff()
    return rank_T < counts_B[tokens.image_ids_T]


@torch.no_grad()
def above_mean(cosine_T: Tensor, tokens: PackedTokens, deviations: float) -> Tensor:
    """Boolean ``[T]``: proposals as good as their image's mean and so many deviations more."""
    image_T, images = tokens.image_ids_T, tokens.segments.num_images
    is_source_T = cosine_T.isfinite()
    # In double precision the order of a sum does not decide.
    value_T = cosine_T.double().where(is_source_T, 0)
    zeros_B = value_T.new_zeros(images)
    count_B = zeros_B.index_add(0, image_T, is_source_T.double()).clamp(min=1)
    mean_B = zeros_B.index_add(0, image_T, value_T) / count_B
    square_T = ((value_T - mean_B[image_T]) ** 2).where(is_source_T, 0)
    deviation_B = (zeros_B.index_add(0, image_T, square_T) / count_B).sqrt()
    return is_source_T & (value_T >= (mean_B + deviations * deviation_B)[image_T])


@torch.no_grad()
def alike_windows(values_TD: Tensor, grid: tuple[int, int], tau: float) -> Tensor:
    """`PackedTokens.merge`'s argument if windows of 2 x 2 alike cells become one token each.

    Args:
        values_TD: of all cells of all images, in raster order.
        grid: rows and columns; windows that do not fit wholly into it do not exist.
        tau: what the mean of a window's six cosines has to reach.

    """
    rows, columns = grid[0] // 2 * 2, grid[1] // 2 * 2
    cells = torch.arange(len(values_TD), device=values_TD.device)
    windows = cells.view(-1, *grid)[:, :rows, :columns]
    windows = windows.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).reshape(-1, 4)
    values = values_TD.to(torch.promote_types(values_TD.dtype, torch.float32))
    unit_w4D = F.normalize(values, dim=1)[windows]
    # The squared length of the sum is 4 and twice the six cosines.
    mean_w = (unit_w4D.sum(1).square().sum(1) - 4) / 12
    first = windows[:, :1].expand(-1, 4)
    into_w4 = torch.where((mean_w >= tau)[:, None], first, windows)
    return cells.scatter(0, windows.flatten(), into_w4.flatten())
