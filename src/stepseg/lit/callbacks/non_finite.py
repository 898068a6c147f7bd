"""Steps whose loss or gradient is not finite: skipped without a trace, counted, limited.

A skipped step changes no weight, no moment of the optimiser and no running statistic; schedules
and data go on, so that the step is one of `trainer.max_steps`. Gradients are averaged over the
ranks, and what is not finite on one rank is not finite in the average: all ranks skip together.
"""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stepseg.lit.metrics import of_all_ranks
from stepseg.telling import tell


class TrainingDivergedError(ValueError):
    """Too many steps without a finite loss and gradient."""


class SkipNonFinite(L.Callback):
    """Skips them, and ends the training when there are too many.

    Args:
        max_in_row: skipped steps one after the other that are still accepted.
        max_total: skipped steps that are still accepted altogether; None: any number.

    """

    def __init__(self, max_in_row: int = 10, max_total: int | None = None) -> None:
        if max_in_row < 0 or (max_total is not None and max_total < 0):
            raise ValueError(f"limits cannot be negative, got {max_in_row=} and {max_total=}")
        self.max_in_row, self.max_total = max_in_row, max_total
        self.steps: list[int] = []
        """Skipped steps, counted from 0."""
        self._names: list[str] = []
        self._buffers: list[Tensor] = []

    @property
    def in_row(self) -> int:
        """Length of the run of skipped steps at the end."""
        count = 0
        while count < len(self.steps) and self.steps[-1] - self.steps[-1 - count] == count:
            count += 1
        return count

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._names = []
            buffers = _statistics(pl_module)
            if len(self._buffers) != len(buffers):
                self._buffers = [torch.empty_like(buffer) for buffer in buffers]
            if buffers:
                torch._foreach_copy_(self._buffers, buffers)
        self._names += batch["name"]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        grads = [p.grad for p in params if p.grad is not None]
        # host sync: whether to step is a decision of the host
        if not grads or bool(torch.nn.utils.get_total_norm(grads).isfinite()):
            return
        for parameter in params:
            parameter.grad = None  # no gradient: the optimiser leaves weight and moments alone
        buffers = _statistics(pl_module)
        if buffers:
            torch._foreach_copy_(buffers, self._buffers)
        self._count(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self.steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = list(state_dict["steps"])

    def figures(self) -> dict[str, Any]:
        """For `result.json`; empty where nothing was skipped."""
        return {"skipped_steps": list(self.steps)} if self.steps else {}

    def _count(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if not self.steps or self.steps[-1] != step:
            self.steps.append(step)
        names = [name for rank in of_all_ranks(self._names) for name in rank]
        what = f"loss or gradient is not finite in step {step} (images: {', '.join(names)})"
        if trainer.is_global_zero:
            tell(f"{what}: step skipped, {len(self.steps)} so far")
        total = self.max_total
        if self.in_row > self.max_in_row or (total is not None and len(self.steps) > total):
            saved = [getattr(c, "saved", None) for c in trainer.checkpoint_callbacks]
            good = next((str(path) for path in saved if path), "none yet")
            raise TrainingDivergedError(
                f"{what}; {self.in_row} steps in a row and {len(self.steps)} in all were skipped "
                f"(callbacks.non_finite.max_in_row={self.max_in_row}, max_total={total}). Last "
                f"good checkpoint: {good}. Lower optim.lr or optim.grad_clip, look at these "
                f"images, or use trainer.precision=32-true"
            )


def poison(loss: Tensor) -> Tensor:
    """The loss, with a gradient that is not finite whenever the loss is not; waits for nothing."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, float("nan"))


def _statistics(module: nn.Module) -> list[Tensor]:
    """Running statistics of normalisations, which a forward pass changes."""
    return [
        buffer
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training
        for buffer in part.buffers()
    ]
