"""What can be wrong in the configuration of a training, checked before any data is touched.

Parts check their own numbers when they are made (`OptimConfig`, `MergeRule`, ...); here is what
concerns several parts, and what Lightning would find out late or not at all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.model_config import ModelConfig
from stepseg.plain_types import nearest

MONITORED = {
    "segmentation": ("mIoU", "mAcc", "aAcc", "fwIoU", "boundary_IoU"),
    "policy": ("mAP",),
}
"""Figures of a validation of which more is better."""

HALF_ON_CPU = ("16", "16-mixed", "16-true", "transformer-engine", "transformer-engine-float16")


def check_training(values: Mapping[str, Any]) -> None:
    """Check what does not need the data set.

    Raises:
        ValueError: names the key, its value and what it can be.

    """
    if values["task"] not in MONITORED:
        raise ValueError(f"task={values['task']!r}{nearest(values['task'], MONITORED)}")
    known = [f"val/{name}" for name in MONITORED[values["task"]]]
    if values["monitor"] not in known:
        raise ValueError(
            f"monitor={values['monitor']!r} is no figure of task={values['task']}"
            f"{nearest(values['monitor'], known)}"
        )
    if values["resume"].get("on_change") not in ("refuse", "warn"):
        raise ValueError(
            f"resume.on_change={values['resume'].get('on_change')!r}: choose refuse or warn"
        )
    seed = values["seed"]
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r}: a whole number from 0 to 2**32 - 1")
    _check_trainer(values["trainer"])


def check_model(
    config: ModelConfig, datamodule: SegmentationDataModule, values: Mapping[str, Any]
) -> None:
    """Check the model against the data, and that the data are there.

    Raises:
        ValueError: a window that no crop can hold, a part without weights that learns none, no
            data.

    """
    if datamodule.scenes is None and not Path(datamodule.root).is_dir():
        raise ValueError(
            f"data.root={str(datamodule.root)!r} is not a folder; how to get {datamodule.name}: "
            f"stepseg-data prepare {datamodule.name} ROOT (docs/data.md)"
        )
    if datamodule.scenes is None:
        for split in ("train", "val"):
            datamodule.dataset(split)
    merge, policy, patch = config.reduction.merge, config.policy, config.backbone.patch_size
    if values["task"] == "policy":
        if policy is not None:
            _check_windows("policy.windows", policy.windows, patch, datamodule.crop_size)
        return
    _check_frozen(values, merge is not None and merge.asks_policy)
    if merge is not None:
        cell = config.reduction.input.cell or patch
        _check_windows("reduction.merge.windows", merge.windows, cell, datamodule.crop_size)


def _check_windows(key: str, windows: Sequence[int], cell: int, crop: Sequence[int]) -> None:
    """A window that no training crop can hold would never be trained."""
    if max(windows) > min(crop) // cell:
        raise ValueError(
            f"{key}={list(windows)}: a window of {max(windows)} patches needs "
            f"{max(windows) * cell} px, data.crop_size is {list(crop)}; enlarge the crop or drop "
            f"that window and its threshold"
        )


def _check_frozen(values: Mapping[str, Any], asks_policy: bool) -> None:
    """What does not learn needs weights from somewhere."""
    backbone, policy = values["backbone"], values["policy"]
    asks_policy = asks_policy and policy.get("name") != "oracle"
    for setting, part, frozen, keys in (
        ("heads.frozen_decoder=true", "decoder", values["heads"].get("frozen_decoder"), ()),
        ("backbone.frozen=true", "backbone", backbone.get("frozen"), ("pretrained", "checkpoint")),
        (
            "policy.training=frozen", "policy",
            asks_policy and policy.get("training") == "frozen", ("checkpoint",),
        ),
    ):  # fmt: skip
        started = values["init_from"] and part not in values["init_without"]
        if frozen and not started and not any(values[part].get(key) for key in keys):
            choices = " or ".join([*(f"{part}.{key}" for key in keys), "init_from"])
            raise ValueError(
                f"{setting} keeps the {part} as it is, and nothing brings its weights: set "
                f"{choices}"
            )


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    for key in ("max_steps", "val_check_interval", "log_every_n_steps", "accumulate_grad_batches"):
        value = trainer.get(key)
        if key == "val_check_interval" and isinstance(value, float) and 0 < value <= 1:
            continue  # a share of the training
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            share = ", or a share of the training up to 1.0" if key == "val_check_interval" else ""
            raise ValueError(f"trainer.{key}={value!r}: a whole number of at least 1{share}")
    if trainer.get("limit_train_batches") not in (None, 1.0):
        raise ValueError(
            f"trainer.limit_train_batches={trainer['limit_train_batches']}: a training has steps "
            f"and no epochs, so it would see the same batches again and again: set "
            f"trainer.max_steps, or debug=overfit"
        )
    devices = trainer.get("devices")
    count = isinstance(devices, int) and not isinstance(devices, bool) and devices >= 1
    if not count and devices != "auto" and not (isinstance(devices, list) and devices):
        raise ValueError(
            f"trainer.devices={devices!r}: a number of processes of at least 1, 'auto', or a list "
            f"of GPU indices"
        )
    precision = str(trainer.get("precision"))
    if trainer.get("accelerator") == "cpu" and precision in HALF_ON_CPU:
        raise ValueError(
            f"trainer.precision={precision} needs a GPU: on a CPU use bf16-mixed or 32-true"
        )
    clip = trainer.get("gradient_clip_val")
    if clip is not None and (not isinstance(clip, int | float) or not clip > 0):
        raise ValueError(f"optim.grad_clip={clip!r}: a positive norm, or null for none")
