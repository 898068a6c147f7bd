"""No image costs more than its budget, and none merges more than it has to: against loops."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from reference import merging
from stepseg.budget import budget_range, within_budget
from stepseg.dcts.merge import MergeRule, fewest_tokens, merge_windows
from stepseg.grid import segment_all
from stepseg.macs import count_macs, total_macs
from stepseg.model import Reduction
from stepseg.model_config import ReductionConfig
from stepseg.profile.tokens import prescribe
from toys import SYSTEMS, toy_images, toy_segmenter

RULES = {
    "two sizes": MergeRule(windows=(2, 4), thresholds=(0.7, 0.8)),
    "one is off": MergeRule(windows=(2, 4, 8), thresholds=(0.7, 1.0, 0.9)),
    "none merges by itself": MergeRule(windows=(2, 4), thresholds=(0.999, 0.999)),
    "by edges": MergeRule(windows=(2, 4), thresholds=(0.6, 0.7), edge_weight=0.8),
}


@pytest.mark.parametrize("grid", [(8, 8), (9, 13)], ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_least_shift_is_found_for_every_image(rule, grid):
    """Whatever the number of tokens; ties merge together; off stays off."""
    torch.manual_seed(0)
    sizes = {w: (3, grid[0] // w, grid[1] // w) for w in rule.windows}
    scores = {w: torch.rand(size, dtype=torch.float64) for w, size in sizes.items()}
    scores[2][1] = (scores[2][1] * 4).round() / 4
    edges = {w: torch.rand(size, dtype=torch.float64) for w, size in sizes.items()}
    fewest, cells = fewest_tokens(rule, grid), grid[0] * grid[1]
    for most in {fewest, fewest + 1, (fewest + cells) // 2, cells - 7, cells}:
        bounded = replace(rule, most_tokens=most)
        got = merge_windows(scores, bounded, 3, grid, edges if rule.edge_weight else None)
        for b in range(3):
            own = ({w: s[b].tolist() for w, s in of.items()} for of in (scores, edges))
            expected = merging.merge_bounded(next(own), bounded, *grid, next(own))
            assert got[b].tolist() == expected
            assert len(merging.tokens(expected)) <= most
    with pytest.raises(ValueError, match=rf"most_tokens={fewest - 1}.*at least {fewest}"):
        merge_windows(scores, replace(rule, most_tokens=fewest - 1), 3, grid, edges)


@pytest.mark.parametrize("system", ["dcts", "step", "dcts_edges"])
@torch.no_grad()
def test_no_image_costs_more_and_none_knows_its_neighbours(system):
    model, images = toy_segmenter(), toy_images()
    free = SYSTEMS[system]
    least, most = budget_range(model, free, (80, 112))
    usual = [macs / 1e9 for macs in total_macs(count_macs(model, model(images, reduction=free)))]
    between = [least, (least + min(usual)) / 2, sorted(usual)[1], most, 2 * most]
    bounded = [replace(free, gmacs_per_image=budget) for budget in between]
    together = segment_all(model, [*bounded, free], images)
    for budget, reduction, of_all in zip(between, bounded, together, strict=False):
        result = model(images, reduction=reduction)
        assert torch.equal(result.prediction(), of_all.prediction())
        macs = total_macs(count_macs(model, result))
        assert max(macs) <= budget * 1e9 * (1 + 1e-12)
        for b, image in enumerate(images):
            alone = model(image[None], reduction=reduction)
            assert torch.equal(alone.layout.window_BYX[0], result.layout.window_BYX[b])
        if budget >= most:
            assert result.tokens_per_stage == together[-1].tokens_per_stage
    counts = [result.tokens_per_stage[0] for result in together]
    assert all(a <= b for few, many in pairwise(counts)
               for a, b in zip(few, many, strict=True))  # fmt: skip
    assert sum(counts[0]) < sum(counts[3])


def test_a_budget_that_cannot_be_met_says_what_can():
    model = toy_segmenter()
    reduction = replace(SYSTEMS["dcts"], gmacs_per_image=0.0001)
    least, most = budget_range(model, reduction, (80, 112))
    with pytest.raises(ValueError, match=rf"112 x 80 px costs from {least:.4g}.*to {most:.4g}"):
        model(toy_images(), reduction=reduction)
    enough = within_budget(model, replace(reduction, gmacs_per_image=most), (80, 112))
    assert enough.merge is not None
    assert enough.merge.most_tokens == 35
    with pytest.raises(ValueError, match="measure"):
        prescribe(reduction, (5, 7), [20])


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"merge": None}, "which dense has not: choose reduction=dcts or step"),
        ({"merge": {"windows": [2], "thresholds": None, "top_k": 3}}, "which CTS has not"),
        ({"merge": {}, "budget": {"gmacs_per_image": -1}}, "positive number of GMACs, got -1"),
        ({"merge": {"thresholds": None, "top_k": [1] * 4, "most_tokens": 3}}, "moves thresholds"),
    ],
)
def test_what_has_no_thresholds_has_no_budget(values, match):
    with pytest.raises(ValueError, match=match):
        ReductionConfig.from_dict({"budget": {"gmacs_per_image": 1.0}} | values).build()


def test_it_is_part_of_the_name():
    config = ReductionConfig.from_dict({"merge": {}, "budget": {"gmacs_per_image": 2.5}})
    assert config.build().label == "dCTS, at most 2.5 GMACs"
    assert Reduction().gmacs_per_image is None
