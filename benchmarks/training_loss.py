"""What a training step minimises, of any head and of the policy, without Lightning."""

import torch
from torch import Tensor

from stepseg.dcts.targets import HomogeneityRule
from stepseg.losses import LossWeights, head_loss, policy_loss
from stepseg.segmentation import Segmentation

PATCH = 16
"""Side in pixels of the models here."""


def training_loss(output: Segmentation, labels_BHW: Tensor, weights: LossWeights) -> Tensor:
    """The sum over heads, and the policy's where it was asked."""
    terms: list[Tensor] = []
    for head in output.heads:
        mask_logits, class_logits = output.mask_logits(head), head.class_logits_BC2
        terms += head_loss(mask_logits, class_logits, labels_BHW, weights).values()
    if output.policy_logits:
        targets = HomogeneityRule().windows(labels_BHW, PATCH, list(output.policy_logits))
        terms.append(policy_loss(output.policy_logits, targets))
    return torch.stack(terms).sum()
