"""Training figures on their way to loggers and checkpoints, in an order that resuming needs.

Lightning writes the figures of a step after the checkpoints of that step; a run that is resumed
from such a checkpoint would miss them. Here a step's row is written before its checkpoint.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric

from stepseg.metrics.joining import join_ranks

Value = TypeVar("Value")


def is_logging_step(module: L.LightningModule, batch_index: int) -> bool:
    """Whether loggers get this batch: it completes a step, one of every `log_every_n_steps`."""
    trainer = module.trainer
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    completes = (batch_index + 1) % trainer.accumulate_grad_batches == 0
    return completes and (module.global_step + 1) % interval == 0


def write_metrics(module: L.LightningModule, values: Mapping[str, float]) -> None:
    """Hand a step's figures to all loggers, now."""
    for logger in module.trainer.loggers:
        logger.log_metrics(dict(values), step=module.global_step)


def of_all_ranks(value: Value) -> list[Value]:
    """The value of every process, which can be anything; all processes call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def sum_over_ranks(metric: Metric) -> dict[str, Tensor]:
    """The states of a metric, of all ranks together; all ranks call this."""
    return {name: join_ranks(name, getattr(metric, name)).cpu() for name in metric._defaults}


def load_sums(metric: Metric, sums: Mapping[str, Tensor]) -> None:
    """Continue from the result of `sum_over_ranks`; on one rank only."""
    for name, value in sums.items():
        getattr(metric, name).copy_(value)
