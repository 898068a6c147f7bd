"""The policy learns alone: no gradient passes through the encoder, which is not even there."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch.optim import AdamW

from stepseg.accelerate.samples import Samples
from stepseg.checkpoint import Checkpoint
from stepseg.dcts.policy import PolicyNetwork
from stepseg.dcts.targets import HomogeneityRule
from stepseg.losses import local_count, policy_loss
from stepseg.metrics.calibration import correct_policy
from stepseg.model_config import PolicyConfig, ReductionConfig
from stepseg.protocol import Protocol


@dataclass(frozen=True, slots=True)
class Lesson:
    """How a policy learns."""

    steps: int = 400
    """Of the optimiser; 0: none, it stays as it is."""
    batch_size: int = 8
    """Crops per step."""
    crop: int = 256
    """Side of the crops in pixels."""
    lr: float = 1e-3
    """Greatest rate; it rises for a twentieth of the steps and falls along a cosine."""
    weight_decay: float = 1e-3
    calibration_images: int = 96
    """Whole images on which scores are made probabilities."""

    def __post_init__(self) -> None:
        for key, least in (
            ("steps", 0),
            ("batch_size", 1),
            ("crop", 32),
            ("calibration_images", 0),
        ):
            if getattr(self, key) < least:
                raise ValueError(f"learn.{key} is at least {least}, got {getattr(self, key)}")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"learn.lr is positive and learn.weight_decay not negative, got {self.lr} and "
                f"{self.weight_decay}"
            )


def teach(
    policy: PolicyNetwork,
    samples: Samples,
    protocol: Protocol,
    lesson: Lesson,
    *,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Let a policy learn which windows have one label in the dense model's maps, in place.

    Args:
        policy: in mode ``joint``.
        seed: of the crops.
        progress: told the number of steps and the mean loss, twenty times.

    """
    rule, device = HomogeneityRule(), policy.mean.device
    learned = [weight for weight in policy.parameters() if weight.requires_grad]
    optimiser = AdamW(learned, lr=lesson.lr, weight_decay=lesson.weight_decay)
    batches = samples.crops(protocol, lesson.crop, lesson.batch_size, seed)
    losses, every = [], max(1, lesson.steps // 20)
    policy.train()
    for step, (images, labels) in zip(range(lesson.steps), batches, strict=False):
        for group in optimiser.param_groups:
            group["lr"] = lesson.lr * _share(step, lesson.steps)
        targets = rule.windows(labels.to(device), policy.patch_size, policy.windows)
        loss = policy_loss(policy(images.to(device)), targets, reduce_count=local_count)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) % every == 0:
            progress(step + 1, sum(losses[-every:]) / every)
    policy.eval()
    if lesson.calibration_images:
        some = samples.spread(lesson.calibration_images)
        correct_policy(policy, some.tensors(), rule, protocol)


def with_policy(
    checkpoint: Checkpoint, config: PolicyConfig, policy: PolicyNetwork, reduction: ReductionConfig
) -> Checkpoint:
    """A checkpoint with another policy and reduction; the other weights are the same."""
    kept = {k: v for k, v in checkpoint.state.items() if not k.startswith("policy.")}
    learned = {f"policy.{k}": v.detach().cpu() for k, v in policy.state_dict().items()}
    model = replace(checkpoint.config, policy=config, reduction=reduction)
    return replace(checkpoint, config=model, state={**kept, **learned}, rule=HomogeneityRule())


def _share(step: int, steps: int) -> float:
    """Of the greatest rate."""
    warmup = max(1, steps // 20)
    fallen = (1 + math.cos(math.pi * step / steps)) / 2
    return min(1.0, (step + 1) / warmup) * max(fallen, 0.01)
