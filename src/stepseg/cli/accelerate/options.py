"""What `stepseg-accelerate` was asked for, checked before a weight is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepseg.accelerate.wish import LEAST
from stepseg.cli.typed import typed_of
from stepseg.dcts.merge import MergeRule
from stepseg.model_config import PolicyConfig
from stepseg.plain_types import from_values, is_whole
from stepseg.predict.inputs import File, find_files
from stepseg.telling import counted


def check_options(values: Mapping[str, Any], policy: PolicyConfig, typed: Sequence[str]) -> None:
    """Refuse what cannot work.

    Args:
        values: of the command.
        policy: as they say.
        typed: overrides, as the user gave them.

    Raises:
        ValueError: names the key and the remedy.

    """
    if not values["model"]:
        raise ValueError(
            "model= is missing: a checkpoint or run folder of stepseg, an EoMT of transformers "
            "(a folder, or user/name of the hub)"
        )
    if not values["images"]:
        raise ValueError("data= is missing: a folder of images like those to come; no labels")
    if policy.name == "oracle" or policy.training != "joint":
        raise ValueError("policy= is a network that learns: policy=efficientnet_lite0 or lcnet_050")
    if typed_of(["policy.calibration_images"], typed):
        raise ValueError(
            f"policy.calibration_images={policy.calibration_images} is of trainings: here "
            f"learn.calibration_images= counts"
        )
    merge_rule(values, policy)
    exits = values["exits"] or []
    if not isinstance(exits, list) or not all(type(block) is int for block in exits):
        raise ValueError(f"exits={exits}: blocks after which tokens may leave, such as [8,16]")
    if not is_whole(values["batch_size"]) or values["batch_size"] < 1:
        raise ValueError(f"batch_size={values['batch_size']!r}: a number of images, at least 1")


def merge_rule(values: Mapping[str, Any], policy: PolicyConfig) -> MergeRule:
    """The thresholds from which a search starts, for the policy's windows.

    Raises:
        ValueError: they do not belong to the windows, or are no probabilities.

    """
    given = values["thresholds"]
    if not isinstance(given, list) or len(given) != len(policy.windows):
        raise ValueError(f"thresholds={given}: one for each of policy.windows={policy.windows}")
    return from_values(MergeRule, {"windows": policy.windows, "thresholds": given}, "")


def find_images(values: Mapping[str, Any], output: Path) -> list[File]:
    """The images to learn from, to choose on and to compare on.

    Raises:
        ValueError: too few.

    """
    files = find_files(str(values["images"]), recursive=values["recursive"], output=output)
    images = [file for file in files if not file.is_video]
    if len(images) < LEAST:
        raise ValueError(
            f"data={values['images']!r} has {counted(len(images), 'image')}: {LEAST} are needed"
        )
    return images
