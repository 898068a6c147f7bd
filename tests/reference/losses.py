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
    """SegViT's terms and the one per pixel; ignored pixels are in none of them."""
    batch, num_classes = mask_logits_BCYX.shape[:2]
    stride = weights.label_stride
    height, width = (side // stride for side in labels_BHW.shape[1:])
    logits_BCHW = F.interpolate(
        mask_logits_BCYX.double(), size=(height, width), mode="bilinear", align_corners=False
    ).tolist()
    labels = labels_BHW.tolist()
    focal_terms, dice_terms, pixel_terms = [], [], []
    class_cost = class_weight = pixel_weight = 0.0
    for b in range(batch):
        in_image = {label for row in labels[b] for label in row if label != ignore_index}
        for c in range(num_classes if in_image else 0):
            weight = 1.0 if c in in_image else weights.absent
            logits = class_logits_BC2[b, c].tolist()
            class_cost += weight * cross_entropy(logits, 0 if c in in_image else 1)
            class_weight += weight

        # One pixel of every stride x stride stands for all of them.
        sampled = {
            (i, j): labels[b][i * stride + stride // 2][j * stride + stride // 2]
            for i in range(height)
            for j in range(width)
        }
        sampled = {at: label for at, label in sampled.items() if label != ignore_index}
        for c in range(num_classes):
            pairs = [(logits_BCHW[b][c][i][j], label == c) for (i, j), label in sampled.items()]
            if any(inside for _, inside in pairs):
                focal_terms.append(focal(pairs, weights))
                dice_terms.append(dice(pairs, weights.dice_smooth))
        for (i, j), label in sampled.items():
            logits = [logits_BCHW[b][c][i][j] for c in range(num_classes)]
            share = weights.class_weights[label] if weights.class_weights else 1.0
            pixel_terms.append(share * cross_entropy(logits, label))
            pixel_weight += share
    terms = {
        "classes": weights.classes * class_cost / max(class_weight, 1e-9),
        "focal": weights.focal * mean(focal_terms),
        "dice": weights.dice * mean(dice_terms),
    }
    pixel = weights.pixel * sum(pixel_terms) / max(pixel_weight, 1e-9)
    return terms | ({"pixel": pixel} if weights.pixel else {})


def mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def cross_entropy(logits: list[float], truth: int) -> float:
    return math.log(sum(math.exp(x) for x in logits)) - logits[truth]


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


def policy_loss(
    logits: dict[int, Tensor], targets: dict[int, Tensor], weight: float, balance: bool
) -> float:
    """Balanced: each kind weighs one half; odds are multiplied by negatives per positive."""
    terms = []
    for size in logits:
        truths = targets[size].flatten().tolist()
        ones, zeros = truths.count(True), truths.count(False)
        costs = []
        for logit, truth in zip(logits[size].flatten().tolist(), truths, strict=True):
            share = 1 / len(truths)
            if balance and ones and zeros:
                logit += math.log(zeros / ones)
                share = 0.5 / (ones if truth else zeros)
            costs.append(-share * math.log(sigmoid(logit) if truth else 1 - sigmoid(logit)))
        terms.append(sum(costs))
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
        "votes": randn(batch, 4, 5),
    }
