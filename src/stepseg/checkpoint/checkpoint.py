"""Checkpoints: what is in them, and how a model comes back out of one, safely and by name.

A checkpoint is weights plus one entry, ``stepseg``, of plain values: the model's configuration, the
classes that it was trained on, what its policy learned and how it was evaluated. Nothing in it
names code. There are two files of that kind: what the trainer writes, to resume from, and a
safetensors file with the weights alone, to share (`write_inference_checkpoint`). `read_checkpoint`
takes both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint.entry import KEY, Entry, parse_entry
from stepseg.data.specs import DatasetSpec
from stepseg.dcts.classifier import add_corrections
from stepseg.dcts.targets import HomogeneityRule
from stepseg.foreign.eomt import is_eomt_folder, read_eomt
from stepseg.foreign.foreign import Foreign
from stepseg.foreign.mmseg import is_mmseg, read_mmseg
from stepseg.model import StepSegmenter
from stepseg.protocol import Protocol
from stepseg.weights.fit import check_fit
from stepseg.weights.hub import WEIGHTS, is_hub_address, repository
from stepseg.weights.place import find_checkpoint
from stepseg.weights.read import WeightFile, read_weights
from stepseg.weights.safetensors_file import write_safetensors

PREFIX = "model."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint, read and checked."""

    path: Path
    config: ModelConfig
    data: dict[str, Any]
    """``name`` of the data set, its ``classes``, their ``palette`` and the ``ignore_index``."""
    state: dict[str, Tensor]
    step: int
    protocol: Protocol | None = None
    """How it was evaluated; None: an older checkpoint, which does not say."""
    about: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: versions, commit, figures; plain values, for people to read."""
    rule: HomogeneityRule | None = None
    """What made a window homogeneous; None: an older checkpoint, which does not say."""

    def build(self, config: ModelConfig | None = None) -> StepSegmenter:
        """Build the model with its weights; `config` may differ in the reduction only."""
        config = _with_position_grid(config or self.config, self.state)
        problem = f"checkpoint {str(self.path)!r} does not fit this model"
        _check_counts(config, self.state, problem)
        with torch.device("meta"):  # nothing is allocated until every shape is known to fit
            blank = build_segmenter(config, load_weights=False)
        check_fit(blank.state_dict(), self.state, problem)
        model = build_segmenter(config, load_weights=False)
        model.load_state_dict(self.state)
        return model


def describe(
    config: ModelConfig,
    spec: DatasetSpec,
    protocol: Protocol | None = None,
    rule: HomogeneityRule | None = None,
) -> dict[str, Any]:
    """The entry that makes a checkpoint self-contained."""
    data = {
        "name": spec.name,
        "classes": list(spec.classes),
        "palette": [list(colour) for colour in spec.palette],
        "ignore_index": spec.ignore_index,
    }
    return Entry(config, data, protocol, rule=rule).to_dict()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running anything that it contains.

    Args:
        path: a file of the trainer, a safetensors file, the folder of a run (its best checkpoint),
            or an address on the hub, ``hf://user/name`` (`stepseg.weights.hub`). Also a folder
            of transformers or a repository with an EoMT (`stepseg.foreign.eomt`).

    Raises:
        ValueError: no such file, not a checkpoint of this project, or damaged; says which.

    """
    if is_eomt_folder(path):
        return of_foreign(Path(path), read_eomt(str(path)))
    address, path = path, find_checkpoint(path)
    source = f"checkpoint {str(path)!r}"
    file = read_weights(path, source)
    if file.entry is None and is_hub_address(address) and path.name == WEIGHTS:
        return of_foreign(path, read_eomt(*repository(str(address))))
    if file.entry is None and is_mmseg(file.state):
        return of_foreign(path, read_mmseg(file.state, file.content, str(path)))
    if file.entry is None:
        raise ValueError(
            f"{str(path)!r} is not a stepseg checkpoint: it has no {KEY!r} entry; ViT weights of "
            f"timm go to backbone.checkpoint, a policy to policy.checkpoint"
        )
    try:
        entry = parse_entry(file.entry)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    state, step = _of_model(file), file.content.get("global_step", 0)
    step = entry.step or (step if isinstance(step, int) else 0)
    return Checkpoint(
        path, entry.model, entry.data, state, step, entry.protocol, entry.about, entry.rule
    )


def of_foreign(path: Path, foreign: Foreign) -> Checkpoint:
    """What `stepseg.foreign` made of a file of somebody else."""
    return Checkpoint(
        path,
        foreign.config,
        {"ignore_index": 255, **foreign.data},
        foreign.state,
        step=0,
        protocol=foreign.protocol,
        about=foreign.about,
    )


def write_inference_checkpoint(
    path: str | Path, checkpoint: Checkpoint, about: Mapping[str, Any] | None = None
) -> None:
    """Write weights and configuration to a safetensors file, atomically: what one shares.

    Args:
        about: plain values to add to what the checkpoint says about itself.

    """
    entry = Entry(
        model=without_local_paths(checkpoint.config),
        data=checkpoint.data,
        protocol=checkpoint.protocol,
        step=checkpoint.step,
        about={**checkpoint.about, **(about or {})},
        rule=checkpoint.rule,
    )
    plain = entry.to_dict()
    parse_entry(plain)  # what cannot be read again is not written
    write_safetensors(Path(path), checkpoint.state, plain)


def check_data(checkpoint: Checkpoint, classes: Sequence[str], name: str) -> str | None:
    """Refuse to evaluate on data with other classes than the checkpoint was trained on.

    Args:
        checkpoint: what predicts.
        classes: names, in the order of the data's training ids.
        name: of the data.

    Returns:
        A line where names differ that may mean the same; else None.

    Raises:
        ValueError: not as many classes, or the same ones in another order.

    """
    source = f"checkpoint {str(checkpoint.path)!r}"
    if checkpoint.config.num_classes != len(classes):
        raise ValueError(
            f"{source} predicts {checkpoint.config.num_classes} classes "
            f"({checkpoint.data.get('name')}), data {name!r} has {len(classes)}: "
            "choose data of the same classes by data="
        )
    known = [str(known).casefold() for known in checkpoint.data["classes"]]
    here = [own.casefold() for own in classes]
    differing = [i for i, (own, other) in enumerate(zip(here, known, strict=True)) if own != other]
    if not differing:
        return None
    first = differing[0]
    words = f"class {first} is {checkpoint.data['classes'][first]!r} there and {classes[first]!r}"
    if sorted(known) == sorted(here):
        raise ValueError(
            f"{source} has the classes of data {name!r} in another order ({words} here): give "
            f"them in the checkpoint's order, for a folder in its classes.yaml"
        )
    return (
        f"{len(differing)} of {len(here)} classes have other names in {source} than in data "
        f"{name!r} ({words} here)"
    )


def without_local_paths(config: ModelConfig) -> ModelConfig:
    """The configuration without the files that its weights once came from."""
    backbone = replace(config.backbone, checkpoint=None)
    policy = config.policy and replace(config.policy, checkpoint=None)
    return replace(config, backbone=backbone, policy=policy)


def _of_model(file: WeightFile) -> dict[str, Tensor]:
    """The model's weights, with what older files lack; a trainer keeps others beside them."""
    state = dict(file.state)
    if file.content:
        state = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    add_corrections(state)
    return state


def _with_position_grid(config: ModelConfig, state: Mapping[str, Tensor]) -> ModelConfig:
    """The configuration with the grid of the weights, which pretrained weights brought along."""
    positions = state.get("backbone.pos_embed")
    if positions is None or positions.dim() != 3:
        return config  # an error that names it follows
    pos_grid = math.isqrt(positions.shape[1])
    return replace(config, backbone=replace(config.backbone, pos_grid=pos_grid))


def _check_counts(config: ModelConfig, state: Mapping[str, Tensor], problem: str) -> None:
    """Refuse to build more parts than the file has weights for, whatever the entry claims."""
    exit_, eomt = config.reduction.exit, config.heads.eomt
    claims = {
        "backbone.blocks.": config.backbone.numbers().depth,
        "decoder.layers.": 0 if eomt else config.heads.num_layers,
        "decoder.upscale.": eomt.upscale if eomt else 0,
        "decoder.further.": len(config.heads.cascade or ()),
        "exit_heads.": len(exit_.head_blocks) if exit_ else 0,
    }
    for prefix, claimed in claims.items():
        held = {key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)}
        if claimed > len(held):
            raise ValueError(
                f"{problem}: its configuration counts {claimed} of {prefix}*, it holds {len(held)}"
            )
