"""Ranks, counts and products per image, against literals and loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepseg.ops.segment import count_per_image, position_in_image, rank_in_group, segment_scores
from stepseg.packed import Segments


class OnGpu(torch.Tensor):
    """A CPU tensor that claims to live on a GPU, to reach the code that runs there."""

    is_cuda = True


def test_rank_in_group_by_hand():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.7, 0.2])
    groups = torch.tensor([0, 3, 0, 0, 3, 1])  # group 2 is empty
    assert rank_in_group(scores, groups, 4).tolist() == [2, 0, 0, 1, 1, 0]


def test_rank_gives_ties_to_the_earlier_row():
    assert rank_in_group(torch.ones(4), torch.zeros(4, dtype=torch.int64), 1).tolist() == [
        0,
        1,
        2,
        3,
    ]


def test_rank_of_nothing():
    ranks = rank_in_group(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 3)
    assert ranks.shape == (0,)
    assert ranks.dtype == torch.int64


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=30))
def test_rank_in_group_equals_a_loop(rows):
    groups = torch.tensor([group for group, _ in rows], dtype=torch.int64)
    scores = torch.tensor([float(score) for _, score in rows])
    expected = []
    for index, (group, score) in enumerate(rows):
        better = [s for g, s in rows if g == group and s > score]
        equal_before = [s for g, s in rows[:index] if g == group and s == score]
        expected.append(len(better) + len(equal_before))
    assert rank_in_group(scores, groups, 5).tolist() == expected


def test_count_per_image():
    segments = Segments.from_lengths([3, 0, 2], "cpu")
    mask = torch.tensor([True, False, True, False, True])
    assert count_per_image(mask, segments).tolist() == [2, 0, 1]
    nothing = Segments.from_lengths([0, 0], "cpu")
    assert count_per_image(mask[:0], nothing).tolist() == [0, 0]


def test_position_in_image():
    segments = Segments.from_lengths([3, 0, 2], "cpu")
    assert position_in_image(segments, segments.image_ids()).tolist() == [0, 1, 2, 0, 1]


LENGTHS = {
    "ragged": [3, 0, 5],
    "uniform": [4, 4],
    "one": [4],
    "one empty": [0],
    "all empty": [0, 0],
}


@pytest.mark.parametrize("on_gpu", [False, True], ids=["cpu", "as on a gpu"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_segment_scores_equal_a_loop(lengths, on_gpu):
    segments = Segments.from_lengths(lengths, "cpu")
    x = torch.randn(segments.total, 6, dtype=torch.float64, requires_grad=True)
    queries = torch.randn(len(lengths) * 3, 6, dtype=torch.float64, requires_grad=True)
    rows = x.as_subclass(OnGpu) if on_gpu else x
    result = segment_scores(rows, queries, segments).as_subclass(torch.Tensor)

    expected = torch.zeros(segments.total, 3, dtype=torch.float64)
    for t, b in enumerate(segments.image_ids().tolist()):
        for c in range(3):
            expected[t, c] = sum(x[t, d].item() * queries[3 * b + c, d].item() for d in range(6))
    torch.testing.assert_close(result, expected)

    upstream = torch.randn_like(result)
    x_grad, query_grad = torch.autograd.grad(result, (x, queries), upstream)
    for b in range(len(lengths)):
        own = slice(*segments.cu_seqlens[b : b + 2].tolist())
        of_image = slice(3 * b, 3 * b + 3)
        torch.testing.assert_close(x_grad[own], upstream[own] @ queries[of_image])
        torch.testing.assert_close(query_grad[of_image], upstream[own].T @ x[own])
