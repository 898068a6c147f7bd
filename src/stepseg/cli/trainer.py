"""From the configuration to Lightning's objects, for commands that train, evaluate or load data."""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from stepseg.cli.config import make_one
from stepseg.cli.failures import RunFailedError, explain
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.ranks import WatchedDDP
from stepseg.plain_types import check_keys

UNTRUE = (
    "LeafSpec",  # Lightning 2.6 asks PyTorch 2.15 for a name that it renamed
    "exists and is not empty",  # kept or replaced on purpose (`stepseg.cli.resume`)
    "smaller than the logging interval",  # an epoch is no measure here
    "in eval mode at the start",  # what is frozen is so on purpose, and told at the start
    "requested to overfit but enabled val",  # validation data are in order already
)
"""Warnings of Lightning that would mislead."""


def make_datamodule(values: Mapping[str, Any], **changes: Any) -> SegmentationDataModule:
    """Make the data module of `data=...`; `exit_threshold` there is a default for the reduction."""
    data = {k: v for k, v in values["data"].items() if k != "exit_threshold"} | changes
    known = inspect.signature(SegmentationDataModule).parameters
    check_keys("data", [key for key in data if key != "_target_"], known)
    return make_one("data", data)


def make_trainer(values: Mapping[str, Any], **extra: Any) -> L.Trainer:
    """Make the trainer of `trainer=...`, without Lightning's greetings."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for text in UNTRUE:
        warnings.filterwarnings("ignore", message=f".*{text}.*")
    if values["trainer"].get("strategy") == "ddp":
        extra = {"strategy": WatchedDDP(values["ranks"]["timeout_seconds"]), **extra}
    trainer: L.Trainer = make_one("trainer", values["trainer"], **extra)
    return trainer


@contextmanager
def clear_failures(
    values: Mapping[str, Any], trainer: L.Trainer, on_death: Callable[[str], None]
) -> Iterator[None]:
    """Turn failures of machine, memory, disk and other processes into messages with a remedy.

    Args:
        values: the configuration.
        trainer: of the run.
        on_death: called with a message where another process has died and this one cannot go on.

    """
    ranks = trainer.strategy
    if isinstance(ranks, WatchedDDP):
        ranks.on_death = on_death
    try:
        yield
    except SIGTERMException as stop:
        raise KeyboardInterrupt from stop
    except Exception as error:
        message = None
        if isinstance(ranks, WatchedDDP) and not isinstance(error, ValueError):
            message = ranks.failure(error)
        message = message or explain(error, values)
        if message is None:
            raise
        raise RunFailedError(message) from error
