"""The losses, one image, class and pixel at a time, in float64."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.losses import LossWeights


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def head_loss(
    mask_logits_BCYX: Tensor,
    class_logits_BC2: Tensor,
    labels_BHW: Tensor,
    weights: LossWeights,
    ignore_index: int,
) -> dict[str, float]:
    """SegViT's terms; ignored pixels are in none of them."""
    batch, num_classes = mask_logits_BCYX.shape[:2]
    height, width = labels_BHW.shape[1:]
    logits_BCHW = F.interpolate(
        mask_logits_BCYX.double(), size=(height, width), mode="bilinear", align_corners=False
    ).tolist()
    labels = labels_BHW.tolist()
    focal_terms, dice_terms = [], []
    class_cost = class_weight = 0.0
    for b in range(batch):
        pixels = [
            (i, j) for i in range(height) for j in range(width) if labels[b][i][j] != ignore_index
        ]
        for c in range(num_classes):
            present = any(labels[b][i][j] == c for i, j in pixels)
            if pixels:
                weight = 1.0 if present else weights.absent
                class_cost += weight * cross_entropy(class_logits_BC2[b, c].tolist(), present)
                class_weight += weight
            if present:
                pairs = [(logits_BCHW[b][c][i][j], labels[b][i][j] == c) for i, j in pixels]
                focal_terms.append(focal(pairs, weights))
                dice_terms.append(dice(pairs, weights.dice_smooth))
    num_masks = max(len(focal_terms), 1)
    return {
        "classes": weights.classes * class_cost / max(class_weight, 1e-9),
        "focal": weights.focal * sum(focal_terms) / num_masks,
        "dice": weights.dice * sum(dice_terms) / num_masks,
    }


def cross_entropy(present_absent: list[float], present: bool) -> float:
    truth = present_absent[0 if present else 1]
    return math.log(sum(math.exp(x) for x in present_absent)) - truth


def focal(pairs: list[tuple[float, bool]], weights: LossWeights) -> float:
    """Mean over the pixels of -alpha_t (1 - p_t)^gamma log(p_t)."""
    total = 0.0
    for logit, inside in pairs:
        p_truth = sigmoid(logit) if inside else 1 - sigmoid(logit)
        alpha = weights.focal_alpha if inside else 1 - weights.focal_alpha
        total -= alpha * (1 - p_truth) ** weights.focal_gamma * math.log(p_truth)
    return total / len(pairs)


def dice(pairs: list[tuple[float, bool]], smooth: float) -> float:
    overlap = sum(sigmoid(logit) for logit, inside in pairs if inside)
    sizes = sum(sigmoid(logit) for logit, _ in pairs) + sum(inside for _, inside in pairs)
    return 1 - (2 * overlap + smooth) / (sizes + smooth)


def policy_loss(logits: dict[int, Tensor], targets: dict[int, Tensor], weight: float) -> float:
    """Per window size the mean over positives and the mean over negatives count alike."""
    terms = []
    for size in logits:
        costs: dict[bool, list[float]] = {True: [], False: []}
        flat = zip(logits[size].flatten().tolist(), targets[size].flatten().tolist(), strict=True)
        for logit, homogeneous in flat:
            p_truth = sigmoid(logit) if homogeneous else 1 - sigmoid(logit)
            costs[homogeneous].append(-math.log(p_truth))
        means = [sum(kind) / len(kind) for kind in costs.values() if kind]
        terms.append(sum(means) / max(len(means), 1))
    return weight * sum(terms) / len(terms)


def toy_batch(batch: int, seed: int) -> dict[str, Tensor]:
    """Logits and labels of a few classes, with ignored pixels and windows of several sizes."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    labels = torch.randint(0, 4, (batch, 2, 3), generator=generator)
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)  # class 4 is in no image
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return {
        "masks": randn(batch, 5, 4, 6) * 2,
        "classes": randn(batch, 5, 2),
        "labels": labels,
        "windows2": randn(batch, 4, 6),
        "windows4": randn(batch, 2, 3),
        "targets2": torch.rand(batch, 4, 6, generator=generator) < 0.6,
        "targets4": torch.rand(batch, 2, 3, generator=generator) < 0.3,
    }
