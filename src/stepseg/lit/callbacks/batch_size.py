"""How many images fit into memory: Lightning's search, which says what it found."""

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder

from stepseg.telling import tell


class FindBatchSize(BatchSizeFinder):
    """Doubles `data.batch_size` until memory is full, and trains on with the last that fitted.

    Without a GPU memory is never full, and the last one tried is the answer.

    Args:
        start: the first size.
        trials: so many sizes at most.
        steps: of every size.

    """

    def __init__(self, start: int = 1, trials: int = 8, steps: int = 3) -> None:
        if min(start, trials, steps) < 1:
            raise ValueError(f"sizes, trials and steps are counted, got {start}, {trials}, {steps}")
        super().__init__(steps_per_trial=steps, init_val=start, max_trials=trials)

    def scale_batch_size(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().scale_batch_size(trainer, pl_module)
        tell(f"stepseg-train: data.batch_size={self.optimal_batch_size} fits into memory")
