"""Many reductions at once give, number for number, what each gives alone."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stepseg.dcts.merge import MergeRule
from stepseg.grid import segment_all
from stepseg.heads.exit import ConfidenceExit, RandomExit, UniformExit, matched_control
from stepseg.model import Reduction, Segmentation, StepSegmenter
from toys import CONFIDENCE, DCTS, SYSTEMS, toy_images, toy_labels, toy_oracle, toy_segmenter

GRID = [
    Reduction(merge, ConfidenceExit(threshold, 1), blocks)
    for merge in (None, DCTS, replace(DCTS, thresholds=(0.5, 0.75)), replace(DCTS, resize="area"))
    for threshold in (0.8, 0.87)
    for blocks in ((1,), (3,), (1, 3), (1, 2, 3))
]
CONTROLS = [
    Reduction(DCTS, rule, blocks)
    for blocks in ((1, 3), (2, 3))
    for rule in (RandomExit(CONFIDENCE, seed=1), CONFIDENCE, UniformExit(ConfidenceExit(0.8, 1)))
]


def run_matched(
    model: StepSegmenter, reduction: Reduction, images: Tensor, labels: Tensor | None
) -> Segmentation:
    """One reduction by itself; a control gets the counts of the confident run."""
    rule = reduction.exit
    if isinstance(rule, RandomExit | UniformExit):
        confident = model(images, labels, replace(reduction, exit=rule.base))
        rule = matched_control(rule, confident.tokens_per_stage)
        reduction = replace(reduction, exit=rule)
    return model(images, labels, reduction)


def assert_same(ours: Segmentation, alone: Segmentation) -> None:
    assert ours.image_size == alone.image_size
    assert ours.tokens_per_stage == alone.tokens_per_stage
    assert ours.layout.windows == alone.layout.windows
    for name in ("cell_to_token_BYX", "window_BYX", "anchor_T0"):
        assert torch.equal(getattr(ours.layout, name), getattr(alone.layout, name))
    assert [head.block for head in ours.heads] == [head.block for head in alone.heads]
    for mine, other in zip(ours.heads, alone.heads, strict=True):
        assert torch.equal(mine.mask_logits_T0C, other.mask_logits_T0C)
        assert torch.equal(mine.class_logits_BC2, other.class_logits_BC2)
    assert torch.equal(ours.exit_T0, alone.exit_T0)
    assert torch.equal(ours.presence_BC, alone.presence_BC)
    assert (ours.presence_T0C is None) == (alone.presence_T0C is None)
    assert ours.policy_logits.keys() == alone.policy_logits.keys()
    assert torch.equal(ours.prediction(), alone.prediction())


def assert_grid(model, reductions, images: Tensor, labels: Tensor | None = None) -> None:
    together = segment_all(model, reductions, images, labels)
    for reduction, ours in zip(reductions, together, strict=True):
        with torch.no_grad():
            assert_same(ours, run_matched(model, reduction, images, labels))


@pytest.mark.parametrize("class_source", ["final", "own"])
def test_every_system_and_rule(class_source):
    """One image merges little and another much, so that the batch is ragged."""
    model = toy_segmenter(class_source=class_source)
    images = toy_images(4)
    images[1] = images[1].mean((1, 2), keepdim=True)
    assert_grid(model, [*SYSTEMS.values(), *GRID, *CONTROLS], images)


def test_order_and_repetition_do_not_matter():
    model, images = toy_segmenter(), toy_images()
    points = [*CONTROLS, *reversed(GRID), *GRID]
    together = segment_all(model, points, images)
    for reduction, ours in zip(points, together, strict=True):
        assert ours is together[points.index(reduction)]
    assert_grid(model, points, images)


def test_the_oracle_reads_the_labels():
    assert_grid(toy_segmenter(policy=toy_oracle()), GRID, toy_images(), toy_labels())


def test_an_image_that_all_tokens_leave():
    points = [SYSTEMS["step_all_leave"], SYSTEMS["step"]]
    assert_grid(toy_segmenter(), points, toy_images(2))


class Counted:
    """Counts the calls of the parts of a model."""

    def __init__(self, model, monkeypatch) -> None:
        self.policies = self.embeddings = self.blocks = 0
        policy, embed, run_blocks = (
            model.policy.forward,
            model.backbone.embed,
            model.backbone.run_blocks,
        )

        def count_policy(images):
            self.policies += 1
            return policy(images)

        def count_embed(*arguments):
            self.embeddings += 1
            return embed(*arguments)

        def count_blocks(tokens, start, stop):
            self.blocks += stop - start
            return run_blocks(tokens, start, stop)

        monkeypatch.setattr(model.policy, "forward", count_policy)
        monkeypatch.setattr(model.backbone, "embed", count_embed)
        monkeypatch.setattr(model.backbone, "run_blocks", count_blocks)


def test_what_is_shared_is_computed_once(monkeypatch):
    model, images = toy_segmenter(), toy_images()
    first, second = Reduction(DCTS, CONFIDENCE, (1,)), Reduction(DCTS, CONFIDENCE, (3,))
    other = Reduction(DCTS, ConfidenceExit(0.8, 1), (3,))
    finer = Reduction(replace(DCTS, thresholds=(0.5, 0.75)))
    kept = [r.tokens_per_stage for r in segment_all(model, [second, other], images)]
    assert kept[0] != kept[1]  # otherwise the last blocks would be shared, too
    counted = Counted(model, monkeypatch)
    segment_all(model, [first, second, other], images)
    # block 1 for all; 2 to 4 of the first; 2 and 3 for the others, 4 for each
    assert (counted.policies, counted.embeddings, counted.blocks) == (1, 1, 1 + 3 + 2 + 2)
    counted = Counted(model, monkeypatch)
    segment_all(model, [first, finer], images)
    assert (counted.policies, counted.embeddings) == (1, 2)


def test_decisions_count_and_not_thresholds(monkeypatch):
    model, images = toy_segmenter(), toy_images()
    same_merge = [replace(DCTS, thresholds=(0.7, t)) for t in (0.999, 0.9999)]
    same_exit = [ConfidenceExit(t, 1) for t in (0.999, 0.9999)]
    points = [Reduction(m, e, (1, 3)) for m in same_merge for e in same_exit]
    counted = Counted(model, monkeypatch)
    results = segment_all(model, points, images)
    assert counted.blocks == 4
    assert len(set(map(id, results))) == 1
    assert_grid(model, points, images)


def test_a_control_shares_the_run_that_it_is_matched_to(monkeypatch):
    model, images = toy_segmenter(), toy_images()
    counted = Counted(model, monkeypatch)
    segment_all(model, CONTROLS[:2], images)
    assert counted.blocks == 1 + 2 * 3
    counted = Counted(model, monkeypatch)
    segment_all(model, CONTROLS[:1], images)  # the base runs, although nobody asked for it
    assert counted.blocks == 1 + 2 * 3


def test_unlike_windows_never_meet():
    two = MergeRule(windows=(2,), thresholds=(1.0,))
    four = MergeRule(windows=(2, 4), thresholds=(1.0, 1.0))
    results = segment_all(
        toy_segmenter(), [Reduction(two), Reduction(four), Reduction()], toy_images()
    )
    assert [result.layout.windows for result in results] == [(2,), (2, 4), ()]
