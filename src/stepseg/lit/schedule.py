"""When training merges and lets tokens leave: the reduction of every step."""

import random
from dataclasses import dataclass

from stepseg.model import Reduction


@dataclass(frozen=True, slots=True)
class ReductionSchedule:
    """From dense to the full reduction in the course of a training.

    DToP fine-tunes a dense checkpoint with exits active from the first step; trained from scratch,
    heads know nothing at first, so that exits and merging have to wait.
    """

    merge_from_step: int = 0
    exit_from_step: int = 0
    dense_share: float = 0.0
    """Share of the later steps that stay dense, so that the weights also serve the baseline."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.dense_share <= 1:
            raise ValueError(f"dense_share is a share in [0, 1], got {self.dense_share}")
        if min(self.merge_from_step, self.exit_from_step) < 0:
            raise ValueError(
                f"steps count from 0, got merge_from_step={self.merge_from_step} and "
                f"exit_from_step={self.exit_from_step}"
            )

    def at(self, step: int, full: Reduction) -> Reduction:
        """Reduction of a step, a function of it alone: the same on all ranks and on resume."""
        draw = random.Random(f"{self.seed}/{step}").random()
        if draw < self.dense_share:
            return Reduction()
        merge = full.merge if step >= self.merge_from_step else None
        if step < self.exit_from_step or full.exit is None:
            return Reduction(merge=merge)
        return Reduction(merge=merge, exit=full.exit, exit_blocks=full.exit_blocks)
