"""Merging, coarse to fine: scores of windows in, the layout of superpatches out.

STEP, Sec. 3.2.1: starting with the largest windows, a window whose score exceeds the threshold of
its size becomes one superpatch, unless a larger one covers it already. CTS (a fixed number of
2 x 2 windows per image) is the same walk with a rank in place of the threshold, the oracle the same
walk over scores made from labels (`stepseg.dcts.policy`).

Which pixels a superpatch embeds is the business of `stepseg.vit.patch_embed`.

Letters: B images, Y x X cells of the patch grid, T0 tokens after merging.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.ops.noise import hash_numbers, seeded
from stepseg.packed import Segments, TokenLayout


@dataclass(frozen=True, slots=True)
class MergeRule:
    """Which windows become superpatches."""

    windows: tuple[int, ...] = (2, 4, 8, 16)
    """Window sides in patches, ascending, each dividing the next."""
    thresholds: tuple[float, ...] | None = (0.6, 0.8, 0.9, 0.9)
    """Per window size: merge when the score is strictly greater. 1 turns a size off."""
    top_k: int | tuple[int, ...] | None = None
    """Instead, per image: merge exactly this many windows, the highest scores first. One number per
    window size; CTS has one size and hence one number."""
    top_k_cells: int | None = None
    """Cells of the patch grid that `top_k` is meant for; on other grids it grows or shrinks in
    proportion. None: the same number on every grid."""
    edge_weight: float = 0.0
    """Content-aware thresholds: how far a threshold moves with the edge density of the window
    (`stepseg.dcts.edges`), up where edges are denser than in the image's mean. Negative reverses
    that."""
    resize: Literal["bilinear", "area"] = "bilinear"
    """How superpatches shrink to a patch: `bilinear` as published, `area` without aliasing."""
    by: Literal["policy", "uniform", "random"] = "policy"
    """Who chooses: the policy's scores; nobody, every window of the largest size that fits; or a
    draw of as many of each size and image as the scores, or `top_k`, would take."""
    seed: int = 0
    """Of the draw."""
    most_tokens: int | None = None
    """Of an image after merging: where thresholds leave more, all of them move down, by as little
    as is needed. Sizes that are off stay off."""

    def __post_init__(self) -> None:
        check_windows(self.windows)
        if self.by not in ("policy", "uniform", "random"):
            raise ValueError(f"by must be 'policy', 'uniform' or 'random', got {self.by!r}")
        if self.by == "uniform" and not self.thresholds == self.top_k == self.top_k_cells is None:
            raise ValueError(
                f"by=uniform merges every window: thresholds and top_k have to be null, got "
                f"thresholds={self.thresholds} and top_k={self.top_k}"
            )
        if self.by != "uniform" and (self.thresholds is None) == (self.top_k is None):
            raise ValueError(
                f"give either merge thresholds or top_k, got thresholds={self.thresholds} and "
                f"top_k={self.top_k}"
            )
        self._check_counts()
        self._check_thresholds()
        if not -2 <= self.edge_weight <= 2 or (self.edge_weight and self.thresholds is None):
            raise ValueError(
                f"edge_weight moves thresholds by up to half its value, hence lies in [-2, 2] and "
                f"needs thresholds; got {self.edge_weight} with thresholds={self.thresholds}"
            )
        if self.most_tokens is not None and (self.thresholds is None or self.by != "policy"):
            raise ValueError(
                f"most_tokens={self.most_tokens} moves thresholds of the policy, got "
                f"thresholds={self.thresholds} and by={self.by!r}"
            )
        if self.resize not in ("bilinear", "area"):
            raise ValueError(f"resize must be 'bilinear' or 'area', got {self.resize!r}")

    def _check_counts(self) -> None:
        if self.top_k is not None:
            if len(self.counts) != len(self.windows):
                raise ValueError(
                    f"top_k ranks the windows of each size: {len(self.counts)} number(s) "
                    f"{self.top_k} for windows={self.windows}; CTS is top_k=103 with windows=(2,)"
                )
            if min(self.counts) < 0:
                raise ValueError(f"top_k counts windows and cannot be {self.top_k}")
        if self.top_k_cells is not None and (self.top_k is None or self.top_k_cells < 1):
            raise ValueError(
                f"top_k_cells is the number of cells that top_k is meant for, got "
                f"{self.top_k_cells} with top_k={self.top_k}"
            )

    def _check_thresholds(self) -> None:
        for threshold in self.thresholds or ():
            if not 0 <= threshold <= 1:
                raise ValueError(
                    f"merge thresholds are probabilities in [0, 1], got {threshold} in "
                    f"{self.thresholds}"
                )
        if self.thresholds is not None and len(self.thresholds) != len(self.windows):
            raise ValueError(
                f"{len(self.thresholds)} merge thresholds for {len(self.windows)} window sizes: "
                f"{self.thresholds} for {self.windows}"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """`top_k` per window size; empty where thresholds decide."""
        if self.top_k is None:
            return ()
        return (self.top_k,) if isinstance(self.top_k, int) else self.top_k

    @property
    def asks_policy(self) -> bool:
        """Whether scores of windows decide, or how many they would merge."""
        return self.by == "policy" or (self.by == "random" and self.thresholds is not None)

    def on_grid(self, grid: tuple[int, int]) -> "MergeRule":
        """The rule with `top_k` as it is on this grid."""
        if self.top_k_cells is None:
            return self
        factor = grid[0] * grid[1] / self.top_k_cells
        counts = tuple(round(count * factor) for count in self.counts)
        return replace(self, top_k=counts, top_k_cells=None)

    @property
    def active(self) -> tuple[int, ...]:
        """Windows that thresholds may merge, ascending."""
        assert self.thresholds is not None
        return tuple(w for w, t in zip(self.windows, self.thresholds, strict=True) if t < 1)

    def decide(
        self,
        scores_BYX: Tensor,
        free_BYX: Tensor,
        window: int,
        edges_BYX: Tensor | None = None,
        shift_B: Tensor | None = None,
    ) -> Tensor:
        """Choose among the free windows of one size by their scores.

        Args:
            scores_BYX: of all windows of this size.
            free_BYX: boolean; windows that no larger superpatch covers.
            window: the size, as a side in cells.
            edges_BYX: edge density in [0, 1], 0.5 at the image's mean; for `edge_weight`.
            shift_B: by how much at least the thresholds of each image move down; None: not at all.

        Returns:
            Boolean, like `free_BYX`: the windows that become superpatches.

        """
        if self.by == "uniform":
            return free_BYX
        index = self.windows.index(window)
        if self.thresholds is not None:
            chosen = scores_BYX > self._threshold(window, edges_BYX)
            if shift_B is not None and window in self.active:
                missing_BYX = self.missing(scores_BYX, window, edges_BYX)
                chosen = chosen | (missing_BYX <= shift_B[:, None, None])
            return chosen & free_BYX
        return highest(scores_BYX, free_BYX, self.counts[index])

    def missing(self, scores_BYX: Tensor, window: int, edges_BYX: Tensor | None = None) -> Tensor:
        """By how much the threshold of each window has to move down for it to merge."""
        return self._threshold(window, edges_BYX) - scores_BYX

    def _threshold(self, window: int, edges_BYX: Tensor | None) -> float | Tensor:
        assert self.thresholds is not None
        threshold = self.thresholds[self.windows.index(window)]
        if edges_BYX is None or threshold == 1:  # 1 stays off
            return threshold
        return (threshold + self.edge_weight * (edges_BYX - 0.5)).clamp(0, 1)


def highest(scores_BYX: Tensor, free_BYX: Tensor, counts: int | Tensor) -> Tensor:
    """Boolean, like `free_BYX`: the free windows with the highest scores, so many per image."""
    scores = scores_BYX.masked_fill(~free_BYX, float("-inf")).flatten(1)
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return (ranks < counts).view_as(free_BYX) & free_BYX


def check_windows(windows: Sequence[int]) -> None:
    """Refuse window sizes that do not nest; that is what makes coarse-to-fine free of conflicts."""
    sides = [1, *windows]
    for finer, coarser in pairwise(sides):
        if coarser <= finer or coarser % finer:
            raise ValueError(
                f"window sizes must be greater than 1, ascending, and each divide the next; got "
                f"{tuple(windows)}"
            )


def merge_windows(
    scores: Mapping[int, Tensor],
    rule: MergeRule,
    batch: int,
    grid: tuple[int, int],
    edges: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Decide the superpatches of all images at once.

    Args:
        scores: per window side s the scores ``[B, Y // s, X // s]`` in [0, 1].
        rule: thresholds or rank.
        batch: number of images.
        grid: ``(Y, X)``; windows that do not fit wholly into it do not exist.
        edges: per window side the edge densities, of the same shape; for `MergeRule.edge_weight`.

    Returns:
        int64 ``[B, Y, X]``: side of the window that covers each cell, 1 where nothing is merged.

    """
    rows, columns = grid
    device = next(iter(scores.values())).device
    rule = rule.on_grid(grid)

    shift_B: Tensor | None = None

    def decide(window: int, free_BYX: Tensor) -> Tensor:
        if scores[window].shape != free_BYX.shape:
            raise ValueError(
                f"scores of {window} x {window} windows have shape {tuple(scores[window].shape)}, "
                f"a {rows} x {columns} grid needs {tuple(free_BYX.shape)}"
            )
        return rule.decide(
            scores[window], free_BYX, window, edges[window] if edges else None, shift_B
        )

    if rule.most_tokens is not None and rows * columns > rule.most_tokens:
        if rule.most_tokens < (fewest := fewest_tokens(rule, grid)):
            raise ValueError(
                f"most_tokens={rule.most_tokens}: on {rows} x {columns} cells windows "
                f"{rule.active} leave at least {fewest}"
            )
        shift_B = least_shift(scores, rule, grid, edges)
    blank_BYX = torch.ones(batch, rows, columns, dtype=torch.int64, device=device)
    return coarse_to_fine(blank_BYX, rule.windows, decide)


def least_shift(
    scores: Mapping[int, Tensor],
    rule: MergeRule,
    grid: tuple[int, int],
    edges: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """The least shift of all thresholds that leaves an image `MergeRule.most_tokens`.

    A window is covered, by itself or by a larger one around it, from the least shift on that one of
    them needs; each that is covered saves as many tokens as it has parts of the next smaller size,
    but one. So the tokens that are left are a sum of steps over sorted shifts, in which the answer
    is looked up: for all images at once, and waiting for nothing.

    Args:
        scores: as of `merge_windows`, and so all arguments.
        rule: with a number that it can meet (`fewest_tokens`).
        grid: ``(Y, X)``.
        edges: per window side.

    Returns:
        ``[B]``; may be negative, where the thresholds merge more by themselves.

    """
    assert rule.most_tokens is not None
    shifts, saved = [], []
    above_BYX: Tensor | None = None
    coarser = 0
    for finer, side in reversed(list(pairwise((1, *rule.active)))):
        own_BYX = rule.missing(scores[side], side, edges[side] if edges else None)
        if above_BYX is not None:
            ratio = coarser // side
            around = above_BYX.repeat_interleave(ratio, 1).repeat_interleave(ratio, 2)
            bottom, right = (
                a - b for a, b in zip(own_BYX.shape[1:], around.shape[1:], strict=True)
            )
            around = F.pad(around, (0, right, 0, bottom), value=float("inf"))
            own_BYX = torch.minimum(own_BYX, around)
        above_BYX, coarser = own_BYX, side
        shifts.append(own_BYX.flatten(1))
        saved.append(torch.full_like(shifts[-1], (side // finer) ** 2 - 1, dtype=torch.int64))
    shifts_BN, order_BN = torch.cat(shifts, 1).sort(dim=1)
    saved_BN = torch.cat(saved, 1).gather(1, order_BN).cumsum(1)
    enough = grid[0] * grid[1] - rule.most_tokens
    place_B1 = (saved_BN < enough).sum(1, keepdim=True)
    return shifts_BN.gather(1, place_B1).squeeze(1)


def fewest_tokens(rule: MergeRule, grid: tuple[int, int]) -> int:
    """Tokens of an image with all windows merged that thresholds may merge."""
    tokens = grid[0] * grid[1]
    for finer, side in pairwise((1, *rule.active)):
        tokens -= (grid[0] // side) * (grid[1] // side) * ((side // finer) ** 2 - 1)
    return tokens


def shuffle_windows(window_BYX: Tensor, windows: Sequence[int], seed: int = 0) -> Tensor:
    """As many windows of each size in every image, drawn at random.

    The draw is a hash of (seed, size, place): the same image gives the same result, alone or in a
    batch.

    Args:
        window_BYX: from `merge_windows`.
        windows: the sides that may occur in it, besides 1.
        seed: of the draw.

    """

    def decide(window: int, free_BYX: Tensor) -> Tensor:
        cells_B = (window_BYX == window).flatten(1).sum(1)
        places = torch.arange(free_BYX[0].numel(), device=free_BYX.device)
        noise = hash_numbers(places + seeded(seed, window)).view(free_BYX.shape[1:])
        # As many are free as were: larger windows cover as many smaller ones wherever they lie.
        return highest(noise.double().expand_as(free_BYX), free_BYX, cells_B[:, None] // window**2)

    return coarse_to_fine(torch.ones_like(window_BYX), windows, decide)


def coarse_to_fine(
    window_BYX: Tensor, windows: Sequence[int], decide: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """The walk over window sizes, the largest first.

    Args:
        window_BYX: int64, all 1.
        windows: sides, ascending.
        decide: which of the free windows of a side merge, boolean ``[B, Y // s, X // s]`` both.

    """
    rows, columns = window_BYX.shape[1:]
    for window in reversed(windows):
        y, x = rows // window, columns // window
        if y == 0 or x == 0:
            continue
        # Windows nest, so that one cell tells whether a larger superpatch covers the window.
        free = window_BYX[:, : y * window : window, : x * window : window] == 1
        cells = decide(window, free).repeat_interleave(window, 1).repeat_interleave(window, 2)
        cells = F.pad(cells, (0, columns - x * window, 0, rows - y * window))
        window_BYX = window_BYX.masked_fill(cells, window)
    return window_BYX


def build_layout(window_BYX: Tensor, windows: tuple[int, ...]) -> TokenLayout:
    """Turn the window map into token indices: raster order of the windows' top-left cells.

    Args:
        window_BYX: from `merge_windows`.
        windows: the sides that may occur in it, besides 1.

    """
    counts = anchors(window_BYX).flatten(1).sum(1, dtype=torch.int32)
    lengths = tuple(counts.tolist())  # host sync: the only one of merging
    segments = Segments(F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0)), lengths)
    return layout_of(window_BYX, windows, segments)


def anchors(window_BYX: Tensor) -> Tensor:
    """Boolean ``[B, Y, X]``: the top-left cells of windows, one for each token."""
    rows, columns = window_BYX.shape[1:]
    y = torch.arange(rows, device=window_BYX.device)[:, None]
    x = torch.arange(columns, device=window_BYX.device)
    return (y % window_BYX == 0) & (x % window_BYX == 0)


def layout_of(window_BYX: Tensor, windows: tuple[int, ...], segments: Segments) -> TokenLayout:
    """`build_layout` for tokens that are counted already; waits for nothing.

    Args:
        window_BYX: from `merge_windows`.
        windows: the sides that may occur in it, besides 1.
        segments: of the tokens. Where they have more rows, these show the first cell.

    """
    batch, rows, columns = window_BYX.shape
    device = window_BYX.device
    y = torch.arange(rows, device=device)[:, None]
    x = torch.arange(columns, device=device)
    flat = anchors(window_BYX).flatten()
    anchor_T0 = torch.nonzero_static(flat, size=segments.total, fill_value=0).squeeze(1)
    token_of_anchor = flat.cumsum(0) - 1
    image_start = torch.arange(batch, device=device)[:, None, None] * (rows * columns)
    anchor_of_cell = image_start + (y - y % window_BYX) * columns + (x - x % window_BYX)
    return TokenLayout(token_of_anchor[anchor_of_cell], window_BYX, anchor_T0, segments, windows)


def moved(threshold: float, logits: float) -> float:
    """A threshold, of windows or of exits, moved on the scale on which networks answer."""
    p = min(max(threshold, 1e-6), 1 - 1e-6)
    return 1 / (1 + math.exp(-logits) * (1 - p) / p)
