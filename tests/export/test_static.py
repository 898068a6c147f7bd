"""The static model against the packed one: the same numbers, on every system with fixed counts."""

import pytest
import torch

from stepseg.dcts.merge import MergeRule
from stepseg.export.dense import take_rows
from stepseg.export.static import (
    StaticSegmenter,
    check_static,
    first_true,
    least_confident,
    merged_counts,
)
from stepseg.heads.exit import BudgetExit
from stepseg.model import Reduction
from toys import (
    CONFIDENCE,
    DCTS,
    EXIT_BLOCKS,
    SYSTEMS,
    light_heads,
    toy_images,
    toy_oracle,
    toy_segmenter,
)

SIZE = (77, 110)
"""5 x 7 cells, none of them whole at the right and lower border."""

CTS = MergeRule(windows=(2,), thresholds=None, top_k=3)
SIZES = MergeRule(windows=(2, 4), thresholds=None, top_k=(1, 1))


def budget(*tokens):
    return {"exit": BudgetExit(tokens), "exit_blocks": EXIT_BLOCKS}


STATIC = {
    "dense": (Reduction(), [35]),
    "cts": (Reduction(merge=CTS), [26]),
    "cts of two sizes": (Reduction(merge=SIZES), [17]),
    "cts area": (Reduction(merge=MergeRule((2,), None, 3, resize="area")), [26]),
    "more windows than fit": (Reduction(merge=MergeRule((2, 4), None, (9, 1))), [14]),
    "no window": (Reduction(merge=MergeRule((2,), None, 0)), [35]),
    "scaled": (Reduction(merge=MergeRule((2,), None, 12, top_k_cells=140)), [26]),
    "budget": (Reduction(**budget(20, 9)), [35, 20, 9]),
    "step": (Reduction(merge=SIZES, **budget(12, 9)), [17, 12, 9]),
    "one budget for all": (Reduction(merge=CTS, **budget(20)), [26, 20, 20]),
    "more than there are": (Reduction(merge=CTS, **budget(99, 9)), [26, 26, 9]),
    "all leave at the last": (Reduction(merge=CTS, **budget(20, 0)), [26, 20, 0]),
    "all leave at the first": (Reduction(merge=CTS, **budget(0)), [26, 0, 0]),
}


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {
        source: toy_segmenter(class_source=source).prepare_for_inference()
        for source in ("final", "own")
    } | {"light": toy_segmenter(exit_heads=light_heads()).prepare_for_inference()}


@pytest.mark.parametrize("source", ["final", "own", "light"])
@pytest.mark.parametrize("name", STATIC)
@torch.no_grad()
def test_equals_the_packed_model(name, source, models):
    reduction, tokens = STATIC[name]
    images = toy_images(3, *SIZE)
    expected = models[source](images, reduction=reduction)
    static = StaticSegmenter(models[source], reduction, SIZE, scores=True)
    labels, scores = static(images)
    torch.testing.assert_close(scores, expected.scores(), rtol=0, atol=2e-6)
    assert torch.equal(labels, expected.prediction())
    assert labels.dtype == torch.int64
    assert static.tokens_per_stage == tokens
    assert [stage[0] for stage in expected.tokens_per_stage] == tokens
    assert len(labels.unique()) > 1


@torch.no_grad()
def test_labels_alone(models):
    images = toy_images(2, *SIZE)
    labels = StaticSegmenter(models["final"], Reduction(), SIZE)(images)
    assert torch.equal(labels, models["final"](images, reduction=Reduction()).prediction())


@torch.no_grad()
def test_ties_go_to_the_earlier_window_and_token(models):
    """An image of one colour: all scores tie, and still both models choose alike."""
    images = torch.full((2, 3, 64, 96), 0.4)
    reduction = Reduction(merge=CTS, **budget(9, 4))
    model = toy_segmenter().prepare_for_inference()
    model.backbone.pos_embed.zero_()  # nothing tells the tokens apart
    expected = model(images, reduction=reduction)
    _, scores = StaticSegmenter(model, reduction, (64, 96), scores=True)(images)
    torch.testing.assert_close(scores, expected.scores(), rtol=0, atol=2e-6)
    probability = torch.tensor([[[0.5], [0.2], [0.5], [0.2], [0.2]]])
    assert least_confident(probability, 2).tolist() == [[1, 3]]
    assert least_confident(probability, 4).tolist() == [[0, 1, 3, 4]]


def test_small_parts_by_hand():
    mask = torch.tensor([[False, True, False, True], [True, True, False, False]])
    assert first_true(mask, 2).tolist() == [[1, 3], [0, 1]]
    x = torch.arange(12).view(2, 3, 2)
    index = torch.tensor([[2, 0], [1, 1]])
    assert take_rows(x, index).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_counts_of_merged_windows():
    rule = MergeRule(windows=(2, 4), thresholds=None, top_k=(5, 1))
    assert merged_counts(rule, (8, 8)) == {2: 5, 4: 1}
    assert merged_counts(rule, (4, 6)) == {2: 2, 4: 1}  # six 2 x 2 fit, four are covered
    assert merged_counts(rule, (3, 3)) == {2: 1, 4: 0}


@pytest.mark.parametrize(
    ("reduction", "named"),
    [
        (SYSTEMS["dcts"], "merging by thresholds.*top_k=103"),
        (SYSTEMS["dtop"], "exits by confidence.*rule=budget"),
        (SYSTEMS["step_uniform"], "merging by thresholds.*exits by confidence"),
        (SYSTEMS["step_random"], "exits by confidence"),
        (Reduction(merge=DCTS, **budget(9)), "merging by thresholds"),
        (Reduction(merge=CTS, exit=CONFIDENCE, exit_blocks=(1,)), "exits by confidence"),
    ],
)
def test_numbers_that_depend_on_the_image_are_refused(reduction, named, models):
    with pytest.raises(ValueError, match=f"cannot be exported.*{named}.*reduction=none"):
        StaticSegmenter(models["final"], reduction, SIZE)


def test_labels_cannot_be_asked_for():
    with pytest.raises(ValueError, match="the oracle policy merges by labels"):
        StaticSegmenter(toy_segmenter(policy=toy_oracle()), Reduction(merge=CTS), SIZE)


def test_fixed_numbers_pass():
    for reduction, _ in STATIC.values():
        check_static(reduction)
