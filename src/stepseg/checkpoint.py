"""Checkpoints: what is in them, and how a model comes back out of one, safely and by name.

A checkpoint is what the trainer writes plus one entry, ``stepseg``, of plain values: the model's
configuration and the classes that it was trained on. Nothing in it names code.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepseg.build import ModelConfig, build_segmenter
from stepseg.data.specs import DatasetSpec
from stepseg.model import StepSegmenter
from stepseg.state_dict import check_fit

FORMAT = 1
KEY = "stepseg"
PREFIX = "model."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint, read and checked."""

    path: Path
    config: ModelConfig
    data: dict[str, Any]
    """``name`` of the data set, its ``classes`` and their ``palette``."""
    state: dict[str, Tensor]
    step: int

    def build(self, config: ModelConfig | None = None) -> StepSegmenter:
        """Build the model with its weights; `config` may differ in the reduction only."""
        config = _with_position_grid(config or self.config, self.state)
        model = build_segmenter(config, load_weights=False)
        problem = f"checkpoint {str(self.path)!r} does not fit this model"
        check_fit(model.state_dict(), self.state, problem)
        model.load_state_dict(self.state)
        return model


def describe(config: ModelConfig, spec: DatasetSpec) -> dict[str, Any]:
    """The entry that makes a checkpoint self-contained."""
    data = {
        "name": spec.name,
        "classes": list(spec.classes),
        "palette": [list(colour) for colour in spec.palette],
    }
    return {"format": FORMAT, "model": config.to_dict(), "data": data}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running anything that it contains.

    Raises:
        ValueError: no such file, not a checkpoint of this project, or damaged; says which.

    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {str(path)!r} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"checkpoint {str(path)!r} cannot be read safely ({type(error).__name__}): it is "
            f"damaged, or holds more than tensors and plain values"
        ) from error
    if not isinstance(content, dict) or KEY not in content or "state_dict" not in content:
        raise ValueError(
            f"{str(path)!r} is not a stepseg checkpoint; ViT weights of timm go to "
            f"backbone.checkpoint, a policy to policy.checkpoint"
        )
    entry = content[KEY]
    if entry.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint {str(path)!r} has format {entry.get('format')}, this version reads "
            f"{FORMAT}"
        )
    state = {
        key.removeprefix(PREFIX): value
        for key, value in content["state_dict"].items()
        if key.startswith(PREFIX)
    }
    step = int(content.get("global_step", 0))
    config = ModelConfig.from_dict(entry["model"])
    return Checkpoint(path, config, dict(entry["data"]), state, step)


def check_data(checkpoint: Checkpoint, num_classes: int, name: str) -> None:
    """Refuse to evaluate on data with other classes than the checkpoint was trained on."""
    if checkpoint.config.num_classes != num_classes:
        raise ValueError(
            f"checkpoint {str(checkpoint.path)!r} predicts {checkpoint.config.num_classes} classes "
            f"({checkpoint.data.get('name')}), data {name!r} has {num_classes}"
        )


def _with_position_grid(config: ModelConfig, state: dict[str, Tensor]) -> ModelConfig:
    """The configuration with the grid of the weights, which pretrained weights brought along."""
    positions = state.get("backbone.pos_embed")
    if positions is None:
        return config  # an error that names it follows
    pos_grid = math.isqrt(positions.shape[1])
    return replace(config, backbone=replace(config.backbone, pos_grid=pos_grid))
