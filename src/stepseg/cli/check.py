"""What can be wrong in the configuration of a training, checked before any data is touched.

Parts check their own numbers when they are made (`OptimConfig`, `MergeRule`, ...); here is what
concerns several parts, and what Lightning would find out late or not at all.
"""

from collections.abc import Mapping
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
    _check_frozen(values)
    _check_trainer(values["trainer"])


def check_model(config: ModelConfig, datamodule: SegmentationDataModule) -> None:
    """Check the model against the data, and that the data are there.

    Raises:
        ValueError: a window that no crop can hold, an exit beyond the last block, no data.

    """
    if datamodule.scenes is None and not Path(datamodule.root).is_dir():
        raise ValueError(
            f"data.root={str(datamodule.root)!r} is not a folder; how to get {datamodule.name}: "
            f"stepseg-data prepare {datamodule.name} ROOT (docs/data.md)"
        )
    if datamodule.scenes is None:
        for split in ("train", "val"):
            datamodule.dataset(split)
    merge, patch = config.reduction.merge, config.backbone.patch_size
    # A window that no training crop can hold would never be trained.
    if merge is not None and max(merge.windows) > min(datamodule.crop_size) // patch:
        raise ValueError(
            f"reduction.merge.windows={list(merge.windows)}: a window of {max(merge.windows)} "
            f"patches needs {max(merge.windows) * patch} px, data.crop_size is "
            f"{list(datamodule.crop_size)}; enlarge the crop or drop that window and its threshold"
        )


def _check_frozen(values: Mapping[str, Any]) -> None:
    backbone = values["backbone"]
    if values["heads"].get("frozen_decoder") and not values["init_from"]:
        raise ValueError(
            "heads.frozen_decoder=true keeps the decoder as it is, and nothing brings its weights: "
            "set init_from"
        )
    brought = (backbone.get("pretrained"), backbone.get("checkpoint"), values["init_from"])
    if values["task"] == "segmentation" and backbone.get("frozen") and not any(brought):
        raise ValueError(
            "backbone.frozen=true keeps the encoder as it is, and nothing brings its weights: set "
            "backbone.pretrained, backbone.checkpoint or init_from"
        )


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    for key in ("max_steps", "val_check_interval", "log_every_n_steps", "accumulate_grad_batches"):
        value = trainer.get(key)
        if key == "val_check_interval" and isinstance(value, float) and 0 < value <= 1:
            continue  # a share of the training
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            share = ", or a share of the training up to 1.0" if key == "val_check_interval" else ""
            raise ValueError(f"trainer.{key}={value!r}: a whole number of at least 1{share}")
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
