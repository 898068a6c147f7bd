"""Many reductions of the same images at once, each computation done once.

Reductions that decide alike have everything in common up to the first decision in which they
differ. `segment_all` therefore walks a tree: the policy speaks once per image; reductions whose
merging gives the same superpatches share embedding and blocks; where one of them has an exit that
another has not, or another rule keeps other tokens, the walk branches. What counts are the
decisions on these very images, not the thresholds behind them. Every result is that of
`StepSegmenter.forward`, number for number: the same operations on the same tensors.

The host waits for the device once per layout and once per branch, as in a plain forward, and once
per set of decisions that are compared.

Letters: B images, H x W pixels, Y x X cells, T active tokens, C classes.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from stepseg.board import Board
from stepseg.dcts.merge import build_layout
from stepseg.heads.exit import ExitRule, RandomExit, UniformExit, matched_control
from stepseg.model import StepSegmenter
from stepseg.packed import PackedTokens, TokenLayout
from stepseg.reduction import Reduction
from stepseg.segmentation import Segmentation

Key = TypeVar("Key")


@torch.no_grad()
def segment_all(
    model: StepSegmenter,
    reductions: Sequence[Reduction],
    images_B3HW: Tensor,
    labels_BHW: Tensor | None = None,
) -> list[Segmentation]:
    """Segment a batch under every reduction.

    A control rule (`RandomExit`, `UniformExit`) releases as many tokens of every image at every
    exit as its base rule does in a run of its own.

    Args:
        model: in evaluation mode.
        reductions: checked by `StepSegmenter.check`.
        images_B3HW: RGB in [0, 1], any size.
        labels_BHW: training ids, read by an oracle policy only.

    Returns:
        One result per reduction; the same object where all decisions came out alike.

    """
    assert not model.training
    model.check_images(images_B3HW)
    wanted = dict.fromkeys(reductions)
    bases = dict.fromkeys(_base(r) for r in wanted if _is_control(r))
    logits: Mapping[int, Tensor] = {}
    if any(reduction.merge for reduction in wanted):
        logits = model.policy_logits(images_B3HW, labels_BHW)
    results: dict[Reduction, Segmentation] = {}
    for layout, group in _layouts(model, list(wanted | bases), images_B3HW, logits):
        tokens = model.embed(images_B3HW, layout, group[0].merge)
        board = Board.empty(layout, own_presence=model.class_source == "own")
        shown = _Shown(model, tuple(images_B3HW.shape[2:]), logits if group[0].merge else {})
        _Walk(shown, results).go(tokens, board, 0, group)
    return [results[reduction] for reduction in reductions]


@dataclass(frozen=True, slots=True)
class _Shown:
    """What all points of a walk have in common."""

    model: StepSegmenter
    image_size: tuple[int, ...]
    logits: Mapping[int, Tensor]


@dataclass(frozen=True, slots=True)
class _Walk:
    """From the embedded tokens of one layout to the results of all its reductions."""

    shown: _Shown
    results: dict[Reduction, Segmentation]

    def go(
        self, tokens: PackedTokens, board: Board, start: int, group: Sequence[Reduction]
    ) -> None:
        """Continue after block `start` with reductions that decided alike so far."""
        model = self.shown.model
        for block, here in sorted(_by_next_head(group, start, model.backbone.depth).items()):
            tokens = model.backbone.run_blocks(tokens, start, block)
            start = block
            mask_logits_TC, class_logits_BC2 = model.head(block)(tokens)
            written = board.write(block, tokens, mask_logits_TC, class_logits_BC2)
            if block == model.backbone.depth:
                height, width = self.shown.image_size
                result = written.result((height, width), model.patch_size, self.shown.logits)
                self.results.update(dict.fromkeys(here, result))
                continue
            p_TC = written.probabilities(tokens, mask_logits_TC)
            # Controls last: they take over the counts of their base, which branches off here.
            for part in (False, True):
                self._exit(tokens, written, p_TC, [r for r in here if _is_control(r) is part])

    def _exit(
        self, tokens: PackedTokens, board: Board, p_TC: Tensor, group: Sequence[Reduction]
    ) -> None:
        """Apply the exit rules of a group after the head that has just spoken."""
        exit_index, block = len(board.heads) - 1, board.heads[-1].block
        members: dict[ExitRule, list[Reduction]] = {}
        for reduction in group:
            members.setdefault(self._rule(reduction), []).append(reduction)
        keeps = {rule: rule.keep(p_TC, tokens, exit_index) for rule in members}
        for alike in _alike(keeps):
            keep_T = keeps[alike[0]]
            released = board.release(tokens, keep_T, exit_index)
            together = [reduction for rule in alike for reduction in members[rule]]
            self.go(tokens.select(keep_T), released, block, together)

    def _rule(self, reduction: Reduction) -> ExitRule:
        rule = reduction.exit
        assert rule is not None
        if isinstance(rule, RandomExit | UniformExit):
            return matched_control(rule, self.results[_base(reduction)].tokens_per_stage)
        return rule


def _layouts(
    model: StepSegmenter,
    reductions: Sequence[Reduction],
    images_B3HW: Tensor,
    logits: Mapping[int, Tensor],
) -> list[tuple[TokenLayout, list[Reduction]]]:
    """Reductions by the superpatches that they make of these images."""
    found = []
    by_merge: dict[Hashable, list[Reduction]] = {}
    for reduction in reductions:
        by_merge.setdefault(reduction.merge, []).append(reduction)
    dense = by_merge.pop(None, [])
    if dense:
        found.append((model.merge(images_B3HW, logits, None), dense))
    rules = {r.merge: None for r in reductions if r.merge}
    for kind in {(rule.windows, rule.resize): None for rule in rules}:
        maps = {
            rule: model.windows(images_B3HW, logits, rule)
            for rule in rules
            if (rule.windows, rule.resize) == kind
        }
        for alike in _alike(maps):
            layout = build_layout(maps[alike[0]], alike[0].windows)
            found.append((layout, [r for rule in alike for r in by_merge[rule]]))
    return found


def _by_next_head(group: Sequence[Reduction], start: int, depth: int) -> dict[int, list[Reduction]]:
    """Reductions by the block after which their next head stands."""
    upcoming: dict[int, list[Reduction]] = {}
    for reduction in group:
        block = next((block for block in reduction.exit_blocks if block > start), depth)
        upcoming.setdefault(block, []).append(reduction)
    return upcoming


def _alike(decisions: Mapping[Key, Tensor]) -> list[list[Key]]:
    """Keys of equal tensors together, in the order of their first; all have one shape."""
    if len(decisions) < 2:
        return [[key] for key in decisions]
    rows = torch.stack(list(decisions.values())).to(torch.int16).cpu().numpy()  # host sync
    groups: dict[bytes, list[Key]] = {}
    for key, row in zip(decisions, rows, strict=True):
        groups.setdefault(row.tobytes(), []).append(key)
    return list(groups.values())


def _is_control(reduction: Reduction) -> bool:
    return isinstance(reduction.exit, RandomExit | UniformExit)


def _base(reduction: Reduction) -> Reduction:
    """The confident run that a control is matched to."""
    assert isinstance(reduction.exit, RandomExit | UniformExit)
    return replace(reduction, exit=reduction.exit.base)
