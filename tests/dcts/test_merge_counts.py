import pytest
import torch

from stepseg.dcts.merge import MergeRule, build_layout, merge_windows


def merge(counts, scores, grid):
    rule = MergeRule(windows=tuple(scores), thresholds=None, top_k=counts)
    return merge_windows(scores, rule, 1, grid)[0]


def test_the_highest_scores_of_every_size_merge_outside_larger_windows():
    scores = {
        2: torch.tensor([[[0.9, 0.8, 0.1, 0.7], [0.95, 0.6, 0.5, 0.2]]]),
        4: torch.tensor([[[0.4, 0.3]]]),
    }
    window_YX = merge((2, 1), scores, (4, 8))
    assert window_YX.tolist() == [
        [4, 4, 4, 4, 1, 1, 2, 2],
        [4, 4, 4, 4, 1, 1, 2, 2],
        [4, 4, 4, 4, 2, 2, 1, 1],
        [4, 4, 4, 4, 2, 2, 1, 1],
    ]


def test_counts_are_exact_for_every_image_whatever_the_scores():
    windows, counts, grid = (2, 4, 8), (5, 3, 1), (16, 16)
    scores = {s: torch.rand(3, 16 // s, 16 // s).round(decimals=1) for s in windows}  # many ties
    rule = MergeRule(windows=windows, thresholds=None, top_k=counts)
    layout = build_layout(merge_windows(scores, rule, 3, grid), windows)
    for image in layout.window_BYX:
        assert [int((image == s).sum()) // s**2 for s in windows] == [5, 3, 1]
    assert layout.segments.lengths == (256 - 5 * 3 - 3 * 15 - 63,) * 3


def test_a_size_without_windows_merges_nothing():
    scores = {2: torch.rand(1, 4, 4), 4: torch.rand(1, 2, 2)}
    assert set(merge((3, 0), scores, (8, 8)).flatten().tolist()) == {1, 2}


def test_one_number_is_the_case_of_cts():
    scores = {2: torch.rand(1, 4, 4)}
    assert torch.equal(merge(3, scores, (8, 8)), merge((3,), scores, (8, 8)))


@pytest.mark.parametrize("counts", [3, (3,), (1, 2, 3)])
def test_one_number_per_size_is_required(counts):
    with pytest.raises(ValueError, match=r"number\(s\) .* for windows=\(2, 4\)"):
        MergeRule(windows=(2, 4), thresholds=None, top_k=counts)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="cannot be"):
        MergeRule(windows=(2, 4), thresholds=None, top_k=(1, -1))


@pytest.mark.parametrize(
    ("grid", "count"), [((32, 32), 103), ((48, 48), 232), ((64, 64), 412), ((16, 16), 26)]
)
def test_counts_in_proportion_to_the_grid(grid, count):
    """412 windows of 64 x 64 cells is what the STEP paper reports for CTS."""
    rule = MergeRule(windows=(2,), thresholds=None, top_k=103, top_k_cells=1024)
    assert rule.on_grid(grid).counts == (count,)
    scores = {2: torch.rand(1, grid[0] // 2, grid[1] // 2)}
    merged = merge_windows(scores, rule, 1, grid)
    assert (merged == 2).sum() == 4 * count


@pytest.mark.parametrize("changes", [{"top_k_cells": 0}, {"top_k": None, "thresholds": (0.5,)}])
def test_impossible_proportions(changes):
    numbers = {"windows": (2,), "thresholds": None, "top_k": 103, "top_k_cells": 1024}
    with pytest.raises(ValueError, match="top_k_cells"):
        MergeRule(**(numbers | changes))
