"""From Hydra's configuration to the typed objects of the library; a DictConfig ends here.

What needs Lightning, whose import takes seconds, is in `stepseg.cli.trainer`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from stepseg.checkpoint import Checkpoint, read_checkpoint
from stepseg.grid.systems import NO_HEADS
from stepseg.masking import is_secret, masked, masked_text
from stepseg.model_config import ModelConfig, change_merge
from stepseg.reduction_file import BESIDE


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
        ValueError: tokens are to leave a model that has no exit heads; values of a part that the
            checkpoint's own reduction lacks.

    """
    exit_ = config.reduction.exit
    if values["name"] != "checkpoint" and values["exit"] and not (exit_ and exit_.head_blocks):
        raise ValueError(f"reduction={values['name']} lets tokens leave: {NO_HEADS}")
    own = config.to_dict()["reduction"]
    chosen: dict[str, Any] = {}
    for part, given in reduction_values(values).items():
        base = own.get(part)
        said = {key: value for key, value in (given or {}).items() if value is not None}
        if given is None or (values["name"] == "checkpoint" and base is None):
            if said:
                raise ValueError(
                    f"reduction.{part}.{next(iter(said))}= changes what the checkpoint's own "
                    f"reduction does not have: choose one that does, such as reduction=step"
                )
            chosen[part] = None
            continue
        chosen[part] = (
            change_merge(base or {}, said) if part == "merge" else {**(base or {}), **said}
        )
    return chosen


def make_all(name: str, group: Mapping[str, Any] | None) -> list[Any]:
    """Instantiate the values of a group of named `_target_`s; null turns one off."""
    return [make_one(f"{name}.{k}", value) for k, value in (group or {}).items() if value]


def make_one(where: str, values: Any, **extra: Any) -> Any:
    """Call a `_target_`; what it refuses becomes one message that names the group."""
    try:
        return instantiate(values, _convert_="all", **extra)
    except InstantiationException as error:
        cause, text = error.__cause__, " ".join(str(error).split())
    # Outside of the block: a cause that is raised inside would become its own context's cause.
    # Lightning's by name: most commands do without an import of it.
    named = type(cause).__name__ == "MisconfigurationException"
    if named or isinstance(cause, ValueError | TypeError):
        text = str(cause)
        if isinstance(cause, ValueError) and where in text:
            raise cause  # a message of ours, with the key in it
    raise ValueError(f"{where}: {text}")
