"""How often a model's scores were no numbers."""

import torch
from torch import Tensor
from torchmetrics import Metric


class NonFinite(Metric):
    """Counts batches; waits for no device."""

    full_state_update = False
    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("batches", torch.tensor(0), "sum")

    def update(self, is_finite: Tensor) -> None:
        """Count a batch, whose truth value lies on the device."""
        self.batches += ~is_finite

    def compute(self) -> int:
        """Batches with scores that are no numbers."""
        return int(self.batches)
