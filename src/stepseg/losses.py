"""Losses: pure functions that return named scalars. Nothing here logs, schedules or holds state.

SegViT's three terms per head (classes present, focal and Dice on the masks of present classes) and
the policy's binary cross-entropy. Unlike the published code, ignored pixels enter no term.

Every mean is taken over all ranks: a sum of this rank over a count averaged over the ranks, so that
two processes give the gradient of one process with the doubled batch.

Letters: B images, C classes, H x W pixels of the label, Y x X cells.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms and their constants; the defaults are SegViT's."""

    classes: float = 1.0
    absent: float = 0.1
    """Weight of the absent classes within the class term."""
    focal: float = 20.0
    dice: float = 1.0
    pixel: float = 0.0
    """Cross-entropy over classes in every pixel, the mask logits as scores. Not in the literature:
    it also teaches the masks of absent classes, which speeds up training from random weights."""
    class_weights: tuple[float, ...] | None = None
    """Of the classes in `pixel`, where rare ones are to weigh more; None: all pixels alike."""
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    dice_smooth: float = 1.0
    exit_distill: float | None = None
    """Kullback-Leibler divergence of an exit head's classes from the decoder's at the tokens that
    reach it, without gradient to the decoder; None: 1 for light heads, else 0, as published."""
    policy: float = 1.0
    policy_balance: bool = False
    """Homogeneous and other windows weigh the same in the policy's loss, which corrects for it."""
    label_stride: int = 1
    """Masks are compared with every n-th pixel of each row and column; 1, all pixels, as published.
    Masks come from cells of 16 px: 4 costs little accuracy and a sixteenth of the time."""

    def __post_init__(self) -> None:
        if self.label_stride not in (1, 2, 4, 8, 16):
            raise ValueError(
                f"loss.label_stride must divide a patch of 16 px, got {self.label_stride}"
            )
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", tuple(map(float, self.class_weights)))
            if not self.pixel:
                raise ValueError(
                    "loss.class_weights weigh the pixel term: loss.pixel=1 asks for it"
                )
            if min(self.class_weights, default=1) <= 0:
                raise ValueError(
                    f"loss.class_weights are positive numbers, got {list(self.class_weights)}"
                )
        if self.exit_distill is not None and self.exit_distill < 0:
            raise ValueError(f"loss.exit_distill cannot be negative, got {self.exit_distill}")


TINY = 1e-8
"""Of a probability in a logarithm."""
Count = Callable[[Tensor], Tensor]


def local_count(count: Tensor) -> Tensor:
    """The count of this rank, a scalar or a vector, without asking the others."""
    return count


def mean_over_ranks(count: Tensor) -> Tensor:
    """Average counts, a scalar or vector, over the ranks of a distributed run; else as they are."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return count
    count = count.clone()
    dist.all_reduce(count)
    return count / dist.get_world_size()


def head_terms(weights: LossWeights, *, presence: bool = True) -> tuple[str, ...]:
    """Names of the terms of a head's loss; `presence`: of one that says which classes are there."""
    first = ("classes",) if presence else ()
    return (*first, "focal", "dice", *(("pixel",) if weights.pixel else ()))


def head_loss(
    mask_logits_BCYX: Tensor,
    class_logits_BC2: Tensor | None,
    labels_BHW: Tensor,
    weights: LossWeights,
    ignore_index: int = 255,
    reduce_count: Count = mean_over_ranks,
    present_BC: Tensor | None = None,
) -> dict[str, Tensor]:
    """Loss terms of one ATM head, each with its weight applied; the sum is the head's loss.

    Args:
        mask_logits_BCYX: on any grid that covers the label exactly; upsampled bilinearly to it.
        class_logits_BC2: (present, absent) per class; None: the head does not say.
        labels_BHW: int64 training ids.
        weights: of the terms.
        ignore_index: label without annotation.
        reduce_count: averages a count over the ranks. Evaluation, where ranks have different
            numbers of batches and must not wait for each other, passes `local_count`.
        present_BC: `classes_present` of the labels, where several heads are compared with them.

    Returns:
        Scalars under the names of `head_terms`.

    """
    num_classes = mask_logits_BCYX.shape[1]
    terms: dict[str, Tensor] = {}
    if class_logits_BC2 is not None:
        if present_BC is None:
            present_BC = classes_present(labels_BHW, num_classes, ignore_index)
        class_cost, class_weight = _class_term(class_logits_BC2.float(), present_BC, weights.absent)
        terms["classes"] = weights.classes * class_cost / divisor(reduce_count(class_weight))
    step = weights.label_stride
    labels_BHW = labels_BHW[:, step // 2 :: step, step // 2 :: step]
    target_BCHW = one_hot_masks(labels_BHW, num_classes, ignore_index)
    masked_BC = target_BCHW.flatten(2).any(2)
    valid_BHW = labels_BHW != ignore_index
    logits_BCHW = F.interpolate(
        mask_logits_BCYX.float(), size=labels_BHW.shape[1:], mode="bilinear", align_corners=False
    )
    num_masks = divisor(reduce_count(masked_BC.sum().float()))
    valid_B1HW = valid_BHW[:, None].to(logits_BCHW.dtype)
    target_BCHW = target_BCHW.to(logits_BCHW.dtype)
    focal_BC = _focal(logits_BCHW, target_BCHW, valid_B1HW, weights)
    dice_BC = _dice(logits_BCHW, target_BCHW, valid_B1HW, weights.dice_smooth)
    terms["focal"] = weights.focal * (focal_BC * masked_BC).sum() / num_masks
    terms["dice"] = weights.dice * (dice_BC * masked_BC).sum() / num_masks
    if weights.pixel:
        cost, weight = _pixel_term(logits_BCHW, labels_BHW, ignore_index, weights.class_weights)
        terms["pixel"] = weights.pixel * cost / divisor(reduce_count(weight))
    return terms


def distill_loss(
    p_TC: Tensor,
    teacher_TC: Tensor,
    taught_T: Tensor,
    weight: float = 1.0,
    reduce_count: Count = mean_over_ranks,
) -> Tensor:
    """Kullback-Leibler divergence from a teacher's classes, mean over tokens.

    Args:
        p_TC: of every token and class, not negative; normalised here, and likewise `teacher_TC`,
            which gets no gradient.
        teacher_TC: alike.
        taught_T: boolean; the tokens that count.
        weight: of the result.
        reduce_count: as in `head_loss`.

    """
    log_TC, log_teacher_TC = (
        (p.float() / p.float().sum(1, keepdim=True).clamp(min=TINY)).clamp(min=TINY).log()
        for p in (p_TC, teacher_TC.detach())
    )
    cost_T = F.kl_div(log_TC, log_teacher_TC, reduction="none", log_target=True).sum(1)
    return weight * (cost_T * taught_T).sum() / divisor(reduce_count(taught_T.sum().float()))


def policy_loss(
    logits: Mapping[int, Tensor],
    targets: Mapping[int, Tensor],
    weight: float = 1.0,
    balance: bool = False,
    reduce_count: Count = mean_over_ranks,
) -> Tensor:
    """Binary cross-entropy per window size; mean over the sizes that fit.

    Either way the sigmoid of a logit learns to be the probability that the window is homogeneous.

    Args:
        logits: per window side ``[B, Y // s, X // s]``.
        targets: boolean, alike (`stepseg.dcts.targets`).
        weight: of the result.
        balance: let positives and negatives weigh the same. Their ratio is then added to the odds
            within the loss (Menon et al., arXiv 2007.07314), so that it stays out of the logits.
        reduce_count: as in `head_loss`.

    """
    kinds = {window: torch.stack([target, ~target]) for window, target in targets.items()}
    counts_S2 = torch.stack([kind.flatten(1).sum(1) for kind in kinds.values()]).float()
    counts_S2 = reduce_count(counts_S2)
    terms = []
    for (window, logit), count_2 in zip(logits.items(), counts_S2, strict=True):
        logit = logit.float()
        if balance:
            divisor_2 = divisor(count_2) * (count_2 > 0).sum().clamp(min=1)
            if_both = (count_2 > 0).all()  # with one kind only there is nothing to balance
            logit = logit + torch.where(if_both, count_2[1].log() - count_2[0].log(), 0)
        else:
            divisor_2 = divisor(count_2.sum())
        target = targets[window].to(torch.float32)
        cost = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
        terms.append(((cost * kinds[window]).flatten(1).sum(1) / divisor_2).sum())
    # A size that fits into no image has the term zero and does not thin out the others.
    fitting = (counts_S2.sum(1) > 0).sum().clamp(min=1)
    return weight * torch.stack(terms).sum() / fitting


def one_hot_masks(labels_BHW: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Boolean ``[B, C, H, W]``; ignored pixels belong to no class."""
    classes = torch.arange(num_classes, device=labels_BHW.device)[:, None, None]
    return (labels_BHW[:, None] == classes) & (labels_BHW != ignore_index)[:, None]


def classes_present(labels_BHW: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Which classes an image has, boolean ``[B, C]``; without the masks, which cost more."""
    labels_BN = labels_BHW.flatten(1)
    counts = (labels_BN >= 0) & (labels_BN < num_classes) & (labels_BN != ignore_index)
    present = counts.new_zeros(len(labels_BN), num_classes + 1)  # the last stands for all others
    return present.scatter_(1, torch.where(counts, labels_BN, num_classes), True)[:, :-1]


def divisor(count: Tensor) -> Tensor:
    """The count, or 1 where nothing was counted; one item on one of two ranks is a count of 0.5."""
    return torch.where(count > 0, count, 1)


def _class_term(
    logits_BC2: Tensor, present_BC: Tensor, absent_weight: float
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy summed over images and classes, and the sum of the weights."""
    target_BC = (~present_BC).long()  # index 0 says present
    cost_BC = F.cross_entropy(logits_BC2.flatten(0, 1), target_BC.flatten(), reduction="none")
    annotated_B1 = present_BC.any(1, keepdim=True)  # an image without labels says nothing
    weight_BC = torch.where(present_BC, 1.0, absent_weight) * annotated_B1
    return (cost_BC.view_as(weight_BC) * weight_BC).sum(), weight_BC.sum()


def _pixel_term(
    logits_BCHW: Tensor, labels_BHW: Tensor, ignore_index: int, weights: tuple[float, ...] | None
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy summed over pixels, and the sum of the weights."""
    weight_C = None if weights is None else _on_device(weights, logits_BCHW.device)
    cost = F.cross_entropy(
        logits_BCHW, labels_BHW, weight_C, ignore_index=ignore_index, reduction="sum"
    )
    valid_BHW = labels_BHW != ignore_index
    if weight_C is None:
        return cost, valid_BHW.sum().float()
    return cost, (weight_C[torch.where(valid_BHW, labels_BHW, 0)] * valid_BHW).sum()


@cache
def _on_device(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """Once, since the host waits for a copy."""
    with torch.inference_mode(False):  # a validation may come first, and trainings learn by it
        return torch.tensor(weights, device=device)


def _focal(logits: Tensor, target: Tensor, valid: Tensor, weights: LossWeights) -> Tensor:
    """Mean focal loss over the valid pixels of each mask, ``[B, C]``."""
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    miss = probability + target - 2 * probability * target  # 1 - probability of the truth
    balance = weights.focal_alpha * target + (1 - weights.focal_alpha) * (1 - target)
    focal = balance * miss**weights.focal_gamma * cost * valid
    return focal.flatten(2).sum(2) / valid.flatten(2).sum(2).clamp(min=1)


def _dice(logits: Tensor, target: Tensor, valid: Tensor, smooth: float) -> Tensor:
    """Dice loss over the valid pixels of each mask, ``[B, C]``."""
    probability = (logits.sigmoid() * valid).flatten(2)
    target = target.flatten(2)  # ignored pixels are in no target
    overlap = (probability * target).sum(2)
    return 1 - (2 * overlap + smooth) / (probability.sum(2) + target.sum(2) + smooth)
