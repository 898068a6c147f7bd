"""When training merges and lets tokens leave: the reduction of every step."""

import random
from dataclasses import dataclass, replace

from stepseg.model import Reduction


@dataclass(frozen=True, slots=True)
class ReductionSchedule:
    """From dense to the full reduction in the course of a training.

    DToP fine-tunes a dense checkpoint with exits active from the first step; trained from scratch,
    heads know nothing at first, so that exits and merging have to wait.
    """

    merge_from: float = 0.0
    """When merging starts, as a share of all steps; 1: never."""
    exit_from: float = 0.0
    """When exits start, likewise."""
    dense_share: float = 0.0
    """Share of the steps that stay dense all the same, so that the weights also serve the
    baseline."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("merge_from", "exit_from", "dense_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"schedule.{name} is a share in [0, 1], got {getattr(self, name)}")

    def at(self, step: int, max_steps: int, full: Reduction) -> Reduction:
        """Reduction of a step, a function of it alone: the same on all ranks and on resume."""
        draw = random.Random(f"{self.seed}/{step}").random()
        merges = step >= self.merge_from * max_steps
        at_rest = full.inside.at_rest if full.inside else None
        if draw < self.dense_share:
            return Reduction(inside=at_rest, cell=full.cell)
        started = replace(
            full,
            merge=full.merge if merges else None,
            inside=full.inside if merges else at_rest,
            gmacs_per_image=full.gmacs_per_image if merges else None,
        )
        if step < self.exit_from * max_steps:
            return replace(started, exit=None, exit_blocks=())
        return started
