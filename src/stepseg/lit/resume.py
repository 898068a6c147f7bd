"""Finding the checkpoint to go on with, and whether the run that wrote it was the same run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from stepseg.checkpoint.entry import KEY, parse_entry
from stepseg.lit.optim import OptimConfig, check_groups, follow_config
from stepseg.lit.policy_module import PolicyModule
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.lit.stopping import LAST, NEXT, PREVIOUS
from stepseg.model_config import ModelConfig
from stepseg.plain_types import check_count, flat, is_below
from stepseg.weights.read import read_weights
from stepseg.weights.safetensors_file import is_safetensors

RECORD = "stepseg_run"
MAX_VALUES = 2**20
"""Values of a run's record in all; a large one has some thousand."""
NEEDED = ("state_dict", "optimizer_states", "loops", "global_step")

NEUTRAL = (
    "ckpt_path", "resume", "card", "logger", "callbacks", "compare", "best_by", "checkpoint_every",
    "ranks", "stop", "user", "data.test_split",
    "data.root", "data.num_workers", "data.val_batch_size", "data.pin_memory", "data.on_error",
    "trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.enable_model_summary",
    "trainer.profiler",
)  # fmt: skip
"""Keys that do not change the course of a training."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A checkpoint that was read and is whole."""

    path: Path
    step: int
    config: dict[str, Any] | None
    """Configuration of the run that wrote it; None: not recorded."""
    model: ModelConfig | None = None
    """Of its segmenter; None: it trained a policy alone."""


class RunRecord(L.Callback):
    """Writes the run's configuration and last evaluation into every checkpoint."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[RECORD] = {"config": self.config, "results": pl_module.results}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # A run that ended after its last validation evaluates nothing again.
        pl_module.results = checkpoint.get(RECORD, {}).get("results", pl_module.results)
        (optimizer,) = checkpoint["optimizer_states"]
        check_groups(optimizer["param_groups"], *_trained(pl_module))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the record be true: what is resumed with other rates learns by these."""
        (optimizer,), (schedule,) = trainer.optimizers, trainer.lr_scheduler_configs
        assert isinstance(schedule.scheduler, LambdaLR)
        follow_config(optimizer, schedule.scheduler, *_trained(pl_module))


def _trained(pl_module: L.LightningModule) -> tuple[nn.Module, OptimConfig]:
    assert isinstance(pl_module, SegmentationModule | PolicyModule)
    model = pl_module.model if isinstance(pl_module, SegmentationModule) else pl_module
    return model, pl_module.optim


def validated(path: str | Path) -> tuple[int, Any]:
    """The step of a checkpoint that a validation chose, and the figures of that validation.

    `BestCheckpoint` saves right after the validation, hence what `RunRecord` wrote is of these
    weights. None of a checkpoint without a record.
    """
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    record = content.get(RECORD, {})
    check_count(record, MAX_VALUES, f"checkpoint {str(path)!r}: its {RECORD!r} entry")
    return int(content["global_step"]), record.get("results")


def read_point(path: Path) -> ResumePoint:
    """Read a checkpoint and check every byte of it.

    Raises:
        ValueError: damaged, or no checkpoint of a training; says which.

    """
    if is_safetensors(path):
        raise ValueError(
            f"ckpt_path={str(path)!r} holds weights alone, for inference: resume from last.ckpt"
        )
    source = f"checkpoint {str(path)!r}"
    content = read_weights(path, source, checksums=True).content
    missing = [key for key in NEEDED if key not in content]
    if missing:
        raise ValueError(
            f"{str(path)!r} holds no state of a training ({', '.join(missing)} missing): resume "
            f"from last.ckpt or best.ckpt of stepseg-train"
        )
    record, step = content.get(RECORD, {}), content["global_step"]
    check_count(record, MAX_VALUES, f"{source}: its {RECORD!r} entry")
    config = record.get("config") if isinstance(record, dict) else record
    if type(step) is not int or step < 0 or not isinstance(config, dict | None):
        raise ValueError(f"{source} is damaged: its step or its configuration is none")
    try:
        model = parse_entry(content[KEY]).model if KEY in content else None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return ResumePoint(path, step, config, model)


def newest_point(folder: Path) -> tuple[ResumePoint | None, list[str]]:
    """The newest whole checkpoint of a run, and what was wrong with the others.

    Args:
        folder: `checkpoints/` of a run.

    """
    points: list[ResumePoint] = []
    problems = []
    for name in (NEXT, LAST, PREVIOUS, "best.ckpt"):
        if not (folder / name).is_file() or (points and name == "best.ckpt"):
            continue
        try:
            points.append(read_point(folder / name))
        except ValueError as error:
            problems.append(str(error))
    return max(points, key=lambda point: point.step, default=None), problems


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose change alters the course of a training, with the old and the new value."""
    old, new = flat(before), flat(now)
    keys = [key for key in {**old, **new} if not is_below(key, NEUTRAL)]
    absent = "(absent)"
    return {
        key: (old.get(key, absent), new.get(key, absent))
        for key in keys
        if old.get(key, absent) != new.get(key, absent)
    }
