"""From Hydra's configuration to the typed objects of the library; a DictConfig ends here."""

import inspect
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from stepseg.checkpoint import Checkpoint, read_checkpoint
from stepseg.cli.failures import RunFailedError, one_message
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.interrupt import REQUEUE_EXIT_CODE, TrainingInterrupted
from stepseg.lit.ranks import WatchedDDP
from stepseg.masking import is_secret, masked, masked_text
from stepseg.model_config import ModelConfig, change_merge
from stepseg.plain_types import check_keys
from stepseg.reduction_file import BESIDE
from stepseg.telling import tell

EXPECTED_ERRORS = (ValueError, FileNotFoundError, NotADirectoryError)
"""What bad input raises: shown as one message, without a traceback."""


UNTRUE = (
    "LeafSpec",  # Lightning 2.6 asks PyTorch 2.15 for a name that it renamed
    "exists and is not empty",  # kept or replaced on purpose (`stepseg.cli.resume`)
    "smaller than the logging interval",  # an epoch is no measure here
    "in eval mode at the start",  # what is frozen is so on purpose, and told at the start
    "requested to overfit but enabled val",  # validation data are in order already
)
"""Warnings of Lightning that would mislead."""


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The whole configuration, resolved, as plain values."""
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """The whole configuration as it may be written down and shared.

    As `plain`, but without secrets (`stepseg.masking`) and with references to the environment as
    they stand: what a variable holds is the business of this machine.
    """
    OmegaConf.register_new_resolver("oc.env", _reference, replace=True)
    try:
        values: dict[str, Any] = masked(plain(cfg))
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    return values


def _reference(name: str, *default: Any) -> str:
    return "${oc.env:" + ",".join(map(str, [name, *(() if is_secret(name) else default)])) + "}"


def output_dir() -> Path:
    """Hydra's output directory of this job."""
    return Path(HydraConfig.get().runtime.output_dir)


def overrides() -> list[str]:
    """What the user typed, without secrets."""
    task = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [masked_text(str(typed)) for typed in task or ()]


def model_config(values: Mapping[str, Any], num_classes: int) -> ModelConfig:
    """The model's part of the configuration."""
    backbone = {k: v for k, v in values["backbone"].items() if k != "exit_blocks"}
    return ModelConfig.from_dict(
        {
            "num_classes": num_classes,
            "backbone": backbone,
            "policy": values["policy"],
            "heads": values["heads"],
            "reduction": reduction_values(values["reduction"]),
        }
    )


def reduction_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The reduction alone, without what its file says beside it."""
    return {key: value for key, value in values.items() if key not in BESIDE}


def given_checkpoint(values: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of `ckpt_path`.

    Raises:
        ValueError: none was given, or it cannot be read.

    """
    if not values["ckpt_path"]:
        raise ValueError("ckpt_path= is missing: give a checkpoint of stepseg-train")
    return read_checkpoint(values["ckpt_path"])


def checkpoint_reduction(values: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """The reduction to use with a checkpoint; what is null within a part is the checkpoint's.

    Raises:
        ValueError: tokens are to leave a model that has no exit heads.

    """
    exit_ = config.reduction.exit
    if values["name"] != "checkpoint" and values["exit"] and not (exit_ and exit_.head_blocks):
        raise ValueError(
            f"reduction={values['name']} lets tokens leave, and the checkpoint has no exit heads: "
            f"choose a reduction without exits, such as dcts, or train with this one"
        )
    own = config.to_dict()["reduction"]
    chosen: dict[str, Any] = {}
    for part, given in reduction_values(values).items():
        base = own.get(part)
        if given is None or (values["name"] == "checkpoint" and base is None):
            chosen[part] = None
            continue
        said = {key: value for key, value in given.items() if value is not None}
        chosen[part] = (
            change_merge(base or {}, said) if part == "merge" else {**(base or {}), **said}
        )
    return chosen


def make_datamodule(values: Mapping[str, Any], **changes: Any) -> SegmentationDataModule:
    """Make the data module of `data=...`; `exit_threshold` there is a default for the reduction."""
    data = {k: v for k, v in values["data"].items() if k != "exit_threshold"} | changes
    known = inspect.signature(SegmentationDataModule).parameters
    check_keys("data", [key for key in data if key != "_target_"], known)
    return _instantiate("data", data)


def make_all(name: str, group: Mapping[str, Any] | None) -> list[Any]:
    """Instantiate the values of a group of named `_target_`s; null turns one off."""
    return [_instantiate(f"{name}.{k}", value) for k, value in (group or {}).items() if value]


def make_trainer(values: Mapping[str, Any], **extra: Any) -> L.Trainer:
    """Make the trainer of `trainer=...`, without Lightning's greetings."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for text in UNTRUE:
        warnings.filterwarnings("ignore", message=f".*{text}.*")
    if values["trainer"].get("strategy") == "ddp":
        extra = {"strategy": WatchedDDP(values["ranks"]["timeout_seconds"]), **extra}
    trainer: L.Trainer = _instantiate("trainer", values["trainer"], **extra)
    return trainer


def _instantiate(where: str, values: Any, **extra: Any) -> Any:
    """Call a `_target_`; what it refuses becomes one message that names the group."""
    try:
        return instantiate(values, _convert_="all", **extra)
    except InstantiationException as error:
        cause, text = error.__cause__, " ".join(str(error).split())
    # Outside of the block: a cause that is raised inside would become its own context's cause.
    if isinstance(cause, ValueError | TypeError | MisconfigurationException):
        text = str(cause)
        if isinstance(cause, ValueError) and where in text:
            raise cause  # a message of ours, with the key in it
    raise ValueError(f"{where}: {text}")


def run_command(name: str, task: Callable[[], Any]) -> Any:
    """Run a command: bad input ends in one message, everything else in a traceback.

    In a sweep the exception passes, so that the launcher sees it.
    """
    try:
        return task()
    except EXPECTED_ERRORS as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        tell(f"{name}: error: {one_message(error)}")
        sys.exit(2)
    except RunFailedError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        tell(f"{name}: failed: {error}")
        sys.exit(1)
    except TrainingInterrupted as stop:
        sys.exit(_interrupted(name, stop))
    except KeyboardInterrupt:
        tell(f"{name}: interrupted")
        sys.exit(130)


def _interrupted(name: str, stop: TrainingInterrupted) -> int:
    """Say how to go on; returns the exit code."""
    if getattr(rank_zero_only, "rank", 0):
        return 0  # the first process speaks for all; another code would have it killed
    tell(f"{name}: {stop}")
    if stop.checkpoint is not None:
        again = f"hydra.run.dir={output_dir()} ckpt_path=last"
        tell(f"{name}: go on with the same command and {again}")
        job = os.environ.get("SLURM_JOB_ID")
        if job:
            tell(f"{name}: or, with these in the job script: scontrol requeue {job}")
    return 130 if stop.signal == signal.SIGINT else REQUEUE_EXIT_CODE
