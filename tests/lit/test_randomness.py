"""Random numbers of a batch are its own."""

from itertools import product

from stepseg.lit.callbacks.randomness import batch_seed


def test_seed_batch_and_rank_all_count():
    seeds = {batch_seed(*which) for which in product(range(3), repeat=3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)
