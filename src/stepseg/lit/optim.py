"""Optimiser and schedule: AdamW with parameter groups, warm-up, then decay or a constant rate."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stepseg.model import StepSegmenter
from stepseg.plain_types import choices

UNDECAYED = ("pos_embed", "prefix", "query_Cd", "query_QD")
"""Learned tokens and positions: besides norms, biases and factors."""
SCHEDULES = ("cosine", "poly", "constant")


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """Numbers of the optimiser and its schedule; one step is one optimiser step."""

    lr: float = 6e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    head_lr_scale: float = 1.0
    """Learning rate of the ATM heads relative to `lr`."""
    layer_decay: float = 1.0
    """Learning rate of a block relative to the next: below 1 the early blocks learn slower."""
    policy_lr: float = 5e-5
    policy_weight_decay: float = 1e-3
    schedule: str = "cosine"
    """One of `SCHEDULES`."""
    power: float = 0.9
    """Of ``poly``."""
    warmup_steps: int = 0
    encoder_warmup_steps: int = 0
    """In two stages: the encoder stands still while the rest warms up, then warms up over so many
    steps of its own; 0: all warm up together."""
    warmup_factor: float = 1e-6
    """Share of the learning rate at the first step of the linear warm-up."""
    min_lr_factor: float = 0.0
    """Share of the learning rate at the last step."""
    grad_clip: float | None = None
    """Norm to which gradients are clipped; the trainer does it."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"optim.schedule={self.schedule!r}: {choices(self.schedule, SCHEDULES)}"
            )
        for name in ("lr", "policy_lr", "layer_decay", "head_lr_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"optim.{name} must be positive, got {getattr(self, name)}")
        for name in (
            "weight_decay", "policy_weight_decay", "warmup_steps", "encoder_warmup_steps",
            "min_lr_factor",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"optim.{name} cannot be negative, got {getattr(self, name)}")


def build_optimizer(
    model: nn.Module, config: OptimConfig, max_steps: int
) -> tuple[Optimizer, LambdaLR]:
    """Make the optimiser and the schedule that is stepped with it.

    Args:
        model: a segmenter, or what has nothing but a `policy`.
        config: rates and decays.
        max_steps: the length of the schedule.

    Raises:
        ValueError: nothing is left after the warm-up.

    """
    warmup = config.warmup_steps + config.encoder_warmup_steps
    if warmup >= max_steps:
        raise ValueError(
            f"a warm-up of {warmup} steps (optim.warmup_steps, optim.encoder_warmup_steps) leaves "
            f"nothing of trainer.max_steps={max_steps}"
        )
    groups = parameter_groups(model, config)
    optimizer = adamw(groups, lr=config.lr, betas=config.betas)
    factor = partial(lr_factor, config=config, max_steps=max_steps)
    factors: list[Callable[[int], float]] = [
        partial(factor, encoder=group["name"].startswith("backbone")) for group in groups
    ]
    return optimizer, LambdaLR(optimizer, factors)


def check_groups(saved: Sequence[Mapping[str, Any]], model: nn.Module, config: OptimConfig) -> None:
    """Refuse the state of an optimiser that had other parameters, or grouped them otherwise.

    Args:
        saved: `param_groups` of its state.
        model: that is trained now.
        config: rates and decays of now.

    Raises:
        ValueError: the groups differ; says how.

    """
    before = {group["name"]: len(group["params"]) for group in saved}
    now = {group["name"]: len(group["params"]) for group in parameter_groups(model, config)}
    differing = [
        f"{name!r} has {before.get(name, 0)} there and {now.get(name, 0)} here"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise ValueError(
            f"the checkpoint's optimiser groups parameters otherwise ({', '.join(differing)}), as "
            f"it learned other parts, or by another optim.layer_decay or weight decay: resume as "
            f"it was, or begin anew with init_from=<checkpoint>"
        )


def follow_config(
    optimizer: Optimizer, schedule: LambdaLR, model: nn.Module, config: OptimConfig
) -> None:
    """Set rates and decays as configured: a state that was loaded brings those of its own run."""
    for group, own in zip(optimizer.param_groups, parameter_groups(model, config), strict=True):
        group |= {"initial_lr": own["lr"], "weight_decay": own["weight_decay"]}
        group["betas"] = config.betas
    schedule.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, factor in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
        group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)


def adamw(groups: list[dict], **options: Any) -> AdamW:
    """AdamW; on a CPU in one kernel, which there takes a quarter of the time.

    On GPUs PyTorch's own choice is about as fast, and the fused one lets no scaler of fp16 clip.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    optimizer = AdamW(groups, fused=on_cpu, **options)
    if on_cpu:
        # By it Lightning knows who unscales gradients inside, and clips none: here nothing scales.
        optimizer._step_supports_amp_scaling = False
    return optimizer


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict]:
    """Group the trainable parameters by part, block and decay; norms and biases do not decay."""
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = defaultdict(list)
    depth = model.backbone.depth if isinstance(model, StepSegmenter) else 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part, lr, decay = _settings(name, depth, config)
            decays = parameter.ndim > 1 and not name.endswith(UNDECAYED)
            groups[part, lr, decay if decays else 0.0].append(parameter)
    return [
        {"name": f"{part}{'' if decay else ' (no decay)'}", "params": params, "lr": lr,
         "weight_decay": decay}
        for (part, lr, decay), params in groups.items()
    ]  # fmt: skip


def lr_factor(step: int, config: OptimConfig, max_steps: int, encoder: bool = False) -> float:
    """Share of the learning rate at a step, counted from 0; the encoder's may start later."""
    waits, warmup = 0, config.warmup_steps
    if encoder and config.encoder_warmup_steps:
        waits, warmup = warmup, config.encoder_warmup_steps
    if step < waits:
        return 0.0
    if step < waits + warmup:
        share = (step - waits) / warmup
        return config.warmup_factor + (1 - config.warmup_factor) * share
    progress = (step - waits - warmup) / max(1, max_steps - waits - warmup)
    progress = min(progress, 1.0)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        decay = (1 - progress) ** config.power
    return config.min_lr_factor + (1 - config.min_lr_factor) * decay


def _settings(name: str, depth: int, config: OptimConfig) -> tuple[str, float, float]:
    """Part, learning rate and weight decay of a parameter by its name in the model."""
    if name.startswith("policy."):
        return "policy", config.policy_lr, config.policy_weight_decay
    if not name.startswith("backbone."):
        return "heads", config.lr * config.head_lr_scale, config.weight_decay
    # embeddings and prefix tokens are layer 0, block i is layer i + 1; the last block and the
    # final norm learn at full rate
    layer = depth if name.startswith("backbone.norm.") else 0
    if name.startswith("backbone.blocks."):
        layer = int(name.split(".")[2]) + 1
    lr = config.lr * config.layer_decay ** (depth - layer)
    part = "backbone" if config.layer_decay == 1 else f"backbone layer {layer}"
    return part, lr, config.weight_decay
