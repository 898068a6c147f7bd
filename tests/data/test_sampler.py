from itertools import islice, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepseg.data.sampler import EvaluationSampler, InfiniteBatchSampler, mixed_seed


def batches(count, **kwargs):
    return list(islice(InfiniteBatchSampler(**kwargs), count))


def test_every_pass_shows_every_sample_once_in_a_new_order():
    keys = [key for batch in batches(10, num_samples=5, batch_size=2, seed=3) for key in batch]
    assert [key.position for key in keys] == list(range(20))
    passes = [[key.row for key in keys[i : i + 5]] for i in range(0, 20, 5)]
    assert all(sorted(rows) == [0, 1, 2, 3, 4] for rows in passes)
    assert len({tuple(rows) for rows in passes}) > 1


def test_order_depends_on_the_seed():
    assert batches(4, num_samples=50, batch_size=4, seed=0) == batches(
        4, num_samples=50, batch_size=4, seed=0
    )
    assert batches(4, num_samples=50, batch_size=4, seed=0) != batches(
        4, num_samples=50, batch_size=4, seed=1
    )


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_what_one_rank_sees(world):
    whole = batches(5, num_samples=7, batch_size=2 * world)
    shares = [
        batches(5, num_samples=7, batch_size=2, rank=rank, world=world) for rank in range(world)
    ]
    for step in range(5):
        assert [key for share in shares for key in share[step]] == whole[step]


def test_start_continues_the_sequence():
    whole = batches(6, num_samples=5, batch_size=3, seed=1)
    assert batches(2, num_samples=5, batch_size=3, seed=1, start=12) == whole[4:]


def test_a_batch_larger_than_the_data_spans_passes():
    (batch,) = batches(1, num_samples=2, batch_size=5)
    rows = [key.row for key in batch]
    assert sorted(rows[:2]) == sorted(rows[2:4]) == [0, 1]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_samples": 0, "batch_size": 1}, "got 0 and 1"),
        ({"num_samples": 1, "batch_size": 0}, "got 1 and 0"),
    ],
)
def test_impossible_numbers_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        InfiniteBatchSampler(**kwargs)


@pytest.mark.parametrize(("samples", "world"), [(10, 1), (10, 3), (2, 4), (500, 8)])
def test_evaluation_covers_every_sample_once(samples, world):
    shares = [list(EvaluationSampler(samples, rank, world)) for rank in range(world)]
    assert [index for share in shares for index in share] == list(range(samples))
    lengths = [len(EvaluationSampler(samples, rank, world)) for rank in range(world)]
    assert max(lengths) - min(lengths) <= 1


@given(
    num_samples=st.integers(1, 30),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 8),
    resumed_at=st.integers(0, 7),
)
def test_all_ranks_together_see_every_pass_once_wherever_they_resume(
    num_samples, batch_size, world, seed, steps, resumed_at
):
    def sequence(start, count):
        shares = [
            batches(
                count, num_samples=num_samples, batch_size=batch_size, seed=seed, rank=rank,
                world=world, start=start,
            )
            for rank in range(world)
        ]  # fmt: skip
        return [key for step in range(count) for share in shares for key in share[step]]

    whole = sequence(0, steps)
    assert [key.position for key in whole] == list(range(steps * batch_size * world))
    for first in range(0, len(whole) - num_samples + 1, num_samples):
        rows = [key.row for key in whole[first : first + num_samples]]
        assert sorted(rows) == list(range(num_samples))
    resumed_at = min(resumed_at, steps)
    used = resumed_at * batch_size * world
    assert sequence(used, steps - resumed_at) == whole[used:]


@given(samples=st.integers(0, 200), world=st.integers(1, 40))
def test_evaluation_shares_are_a_partition_into_almost_equal_parts(samples, world):
    shares = [list(EvaluationSampler(samples, rank, world)) for rank in range(world)]
    assert [index for share in shares for index in share] == list(range(samples))
    assert {len(share) - samples // world for share in shares} <= {0, 1}


def test_seeds_do_not_collide_between_neighbours():
    seeds = {mixed_seed(seed, position) for seed in range(20) for position in range(500)}
    assert len(seeds) == 20 * 500
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({mixed_seed(*which) for which in product(range(3), repeat=3)}) == 27
