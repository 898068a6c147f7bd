"""Which sample comes when: an endless training sequence and an unpadded evaluation order.

The training sequence is a pure function of the seed: position p belongs to pass p // N over the
data and is that pass's permutation at p % N. Nothing else is state, so a run is resumed by one
number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """What the training sampler hands to the data set."""

    row: int
    """Which sample of the data set."""
    position: int
    """Place in the endless global training sequence, the seed of the augmentation."""


class InfiniteBatchSampler(Sampler[list[SampleKey]]):
    """Endless batches for one of `world` ranks.

    A global batch is `world * batch_size` consecutive positions; rank r owns the r-th run of
    `batch_size`. Ranks together therefore see what one rank with a larger batch would see.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> None:
        if num_samples < 1 or batch_size < 1:
            raise ValueError(
                f"need at least 1 sample and a batch size of 1, got {num_samples} and {batch_size}"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start = start
        """Global position of the next global batch when iteration begins."""

    @property
    def global_batch(self) -> int:
        """Positions that one step of all ranks uses."""
        return self.batch_size * self.world

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order_pass, order = -1, np.empty(0, dtype=np.int64)
        first = self.start + self.rank * self.batch_size
        while True:
            keys = []
            for position in range(first, first + self.batch_size):
                current_pass, offset = divmod(position, self.num_samples)
                if current_pass != order_pass:
                    order_pass, order = current_pass, self.permutation(current_pass)
                keys.append(SampleKey(int(order[offset]), position))
            yield keys
            first += self.global_batch

    def permutation(self, number: int) -> np.ndarray:
        """Order of the samples in pass `number` (from 0), int64 [num_samples]."""
        return np.random.default_rng([self.seed, number]).permutation(self.num_samples)


class EvaluationSampler(Sampler[int]):
    """The contiguous share of one rank, without the padding that would count samples twice.

    Shares differ by at most one sample; ranks beyond the number of samples get none.
    """

    def __init__(self, num_samples: int, rank: int = 0, world: int = 1) -> None:
        self.indices = range(num_samples * rank // world, num_samples * (rank + 1) // world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def mixed_seed(*numbers: int) -> int:
    """A well mixed 63-bit seed that all numbers have a say in."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
