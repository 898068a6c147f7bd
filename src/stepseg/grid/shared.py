"""Many reductions of the same images at once, each computation done once.

`StepSegmenter.walk` for a group of more than one: the policy speaks once per image, and reductions
whose merging gives the same superpatches share embedding and blocks, until their exits differ.
Reductions that show the image in another size, or act inside the blocks, share with their like.
Every result is that of `StepSegmenter.forward`, number for number: the same operations on the same
tensors.

The host waits for the device once per layout and once per branch, as in a plain forward, and once
per set of decisions that are compared.

Letters: B images, H x W pixels.
"""

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from stepseg.budget import within_budget
from stepseg.dcts.merge import MergeRule, build_layout
from stepseg.group import Group, alike, base_of, is_control
from stepseg.model import StepSegmenter
from stepseg.packed import TokenLayout
from stepseg.reduction import Reduction
from stepseg.segmentation import Segmentation


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
    bases = dict.fromkeys(base_of(reduction) for reduction in wanted if is_control(reduction))
    if len(wanted) == 1 and not bases:  # nothing to share: whatever carries out the model may
        return [model(images_B3HW, labels_BHW, reductions[0])] * len(reductions)
    kinds: dict[Hashable, list[Reduction]] = {}
    for reduction in wanted | bases:
        kinds.setdefault((reduction.cell, reduction.inside), []).append(reduction)
    size = (images_B3HW.shape[2], images_B3HW.shape[3])
    results: dict[Reduction, Segmentation] = {}
    for kind in kinds.values():
        shown_B3HW = model.show(images_B3HW, kind[0].cell)
        shown = (shown_B3HW.shape[2], shown_B3HW.shape[3])
        bounded = {reduction: within_budget(model, reduction, shown) for reduction in kind}
        logits: Mapping[int, Tensor] = {}
        if any(reduction.merge and reduction.merge.asks_policy for reduction in kind):
            logits = model.policy_logits(shown_B3HW, labels_BHW)
        found: dict[Reduction, Segmentation] = {}
        distinct = list(dict.fromkeys(bounded.values()))
        for layout, members in _layouts(model, distinct, shown_B3HW, logits):
            merge = members[0].merge
            asked = logits if merge and merge.asks_policy else {}
            found |= model.walk(shown_B3HW, size, layout, Group(tuple(members)), asked)
        results |= {reduction: found[same] for reduction, same in bounded.items()}
    return [results[reduction] for reduction in reductions]


def _layouts(
    model: StepSegmenter,
    reductions: Sequence[Reduction],
    shown_B3HW: Tensor,
    logits: Mapping[int, Tensor],
) -> list[tuple[TokenLayout, list[Reduction]]]:
    """Reductions by the superpatches that they make of these images."""
    found = []
    by_merge: dict[Hashable, list[Reduction]] = {}
    for reduction in reductions:
        by_merge.setdefault(reduction.merge, []).append(reduction)
    dense = by_merge.pop(None, [])
    if dense:
        found.append((model.merge(shown_B3HW, logits, None), dense))
    rules = {r.merge: None for r in reductions if r.merge}
    for kind in {_kind(rule): None for rule in rules}:
        maps = {
            rule: model.windows(shown_B3HW, logits, rule) for rule in rules if _kind(rule) == kind
        }
        for together in alike(maps):
            layout = build_layout(maps[together[0]], together[0].windows)
            found.append((layout, [r for rule in together for r in by_merge[rule]]))
    return found


def _kind(rule: MergeRule) -> Hashable:
    """Rules of one kind give the same tokens where they choose the same windows."""
    return rule.windows, rule.resize, rule.asks_policy
