"""`init_from=`: the weights that a new training starts from."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from stepseg.checkpoint import Checkpoint, read_checkpoint
from stepseg.checkpoint.transfer import take_over
from stepseg.lit.policy_module import PolicyModule
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.model_config import ModelConfig

PARTS = ("backbone", "policy", "decoder", "exit_heads", "scorers")
"""Of a model, by the start of their weights' names."""


def read_start(values: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint of `init_from`; None: random or timm's weights.

    To a segmenter, a policy that is named by itself comes before its own.

    Raises:
        ValueError: it cannot be read, or something else is to bring the same weights.

    """
    if not values["init_from"]:
        return None
    left_out = {*values["init_without"]}
    if unknown := left_out - {*PARTS}:
        raise ValueError(f"init_without={sorted(unknown)}: parts of a model are {', '.join(PARTS)}")
    rivals = [("backbone", "pretrained"), ("backbone", "checkpoint")]
    if values["task"] == "policy":
        rivals.append(("policy", "checkpoint"))
    for part, key in rivals:
        if (given := values[part].get(key)) and part not in left_out:
            raise ValueError(
                f"init_from={values['init_from']!r} and {part}.{key}={given!r} both bring a "
                f"{part}: drop one, or init_without=[{part}]"
            )
    start = read_checkpoint(values["init_from"])
    if values["policy"].get("checkpoint"):
        left_out.add("policy")
    state = {k: v for k, v in start.state.items() if k.partition(".")[0] not in left_out}
    return replace(start, state=state)


def normalised_alike(config: ModelConfig, other: ModelConfig) -> ModelConfig:
    """The configuration with the normalisation of another's weights, unless it says its own."""
    backbone, known = config.backbone, other.backbone
    mean, std = backbone.mean or known.mean, backbone.std or known.std
    return replace(config, backbone=replace(backbone, mean=mean, std=std))


def start_from(
    start: Checkpoint,
    module: SegmentationModule | PolicyModule,
    left_out: Collection[str] = (),
) -> str:
    """Load what fits; returns a line about it.

    Args:
        start: from `read_start`.
        module: whose weights are overwritten.
        left_out: parts that start anew.

    Raises:
        ValueError: nothing that matters fits; says what the checkpoint is.

    """
    classes = start.data["classes"]
    if isinstance(module, PolicyModule):
        prefix = "policy."
        state = {k.removeprefix(prefix): v for k, v in start.state.items() if k.startswith(prefix)}
        done = take_over(module.policy, state, classes, classes)
        fits = done.taken > 0
    else:
        done = take_over(module.model, start.state, classes, module.spec.classes)
        if module.config.policy and module.config.policy.checkpoint:
            done.new = [key for key in done.new if not key.startswith("policy.")]
        if "backbone" in left_out:
            fits = done.taken > 0
        else:
            fits = "backbone.patch_embed.proj.weight" not in done.new
    if not fits:
        backbone, policy = start.config.backbone, start.config.policy
        known = f"backbone={backbone.name}" + (f", policy={policy.name}" if policy else "")
        raise ValueError(f"init_from: {start.path} is of {known}, of which nothing fits here")
    return f"init_from: {start.path}: {done.line()}"
