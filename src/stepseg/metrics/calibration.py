"""Whether scores are probabilities: how many windows of score .8 are homogeneous, and how many
pixels of tokens of confidence .8 have their class right.

Expected calibration error (Guo et al., arXiv 1706.04599) per window size of the policy, where every
window of the rule counts, unannotated ones as the rule has it; and per exit head, over the tokens
that it sees and that have a label.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from stepseg.dcts.classifier import fit_corrections
from stepseg.dcts.policy import PolicyNetwork
from stepseg.dcts.targets import HomogeneityRule
from stepseg.ops.padding import pad_to_multiple
from stepseg.protocol import Protocol, resized_size, show_first
from stepseg.segmentation import Segmentation
from stepseg.vit.patch_embed import resize_cells

EPS = 1e-6
"""Confidences count as so far from 0 and 1, that their logits are finite."""
BINS = 10
"""A tenth of the scores each; the upper end belongs to the next."""


Windows = dict[int, Tensor]
"""Something of every window, by window side ``[B, Y // s, X // s]``."""


def judge(
    policy: PolicyNetwork,
    images_B3HW: Tensor,
    labels_BHW: Tensor,
    rule: HomogeneityRule,
    protocol: Protocol,
    logits: Mapping[int, Tensor] | None = None,
    cell: int | None = None,
) -> tuple[Windows, Windows]:
    """What the policy says of whole images, and what is true.

    In the size in which images are first shown, and not by the windows of a sliding protocol or
    mirrored: these would count pixels twice.

    Args:
        policy: decides as in evaluation, whatever its mode.
        images_B3HW: uint8.
        labels_BHW: training ids.
        logits: what the policy has said of these images, if the protocol is plain and it has.
        cell: pixels that a patch shows; None: as many as it has (`Reduction.cell`).

    Returns:
        Logits and boolean targets.

    """
    height, width = labels_BHW.shape[1:]
    size = resized_size(height, width, protocol, protocol.scales[0])
    side = cell or policy.patch_size
    if not logits:
        shown_B3HW = show_first(images_B3HW, protocol)
        logits = policy.decide(resize_cells(shown_B3HW, side, policy.patch_size))
    labels_BHW = resize_labels(labels_BHW, size)
    return dict(logits), rule.windows(labels_BHW, side, policy.windows)


@torch.no_grad()
def correct_policy(
    policy: PolicyNetwork,
    pairs: Iterable[tuple[Tensor, Tensor]],
    rule: HomogeneityRule,
    protocol: Protocol,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
    cell: int | None = None,
) -> None:
    """Set the corrections of a policy on whole images, in place.

    Args:
        policy: on any device.
        pairs: images, uint8 ``[B, 3, H, W]``, and training ids.
        total: sums a vector over the ranks, which may have no images.
        cell: as of `judge`.

    """
    for correction in policy.corrections.values():
        correction.zero_()
    device = policy.mean.device
    logits = {side: [torch.empty(0, device=device)] for side in policy.windows}
    targets = {side: [torch.empty(0, device=device).bool()] for side in policy.windows}
    for images, labels in pairs:
        images, labels = images.to(device), labels.to(device)
        said, true = judge(policy, images, labels, rule, protocol, cell=cell)
        for side in policy.windows:
            logits[side].append(said[side].flatten())
            targets[side].append(true[side].flatten())
    fitted = fit_corrections(
        [torch.cat(parts) for parts in logits.values()],
        [torch.cat(parts) for parts in targets.values()],
        total,
    )
    for correction, value in zip(policy.corrections.values(), fitted, strict=True):
        correction.fill_(value)


def judge_exits(
    output: Segmentation, labels_BHW: Tensor, ignore_index: int
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """What exit heads say of the tokens that they see, and what is true.

    Args:
        output: of whole images.
        labels_BHW: of these images, in any size.

    Returns:
        By block, of every token with a label: finite logits of its confidence, and the share of its
        labelled pixels in which its class is right.

    """
    side, layout = output.patch_size, output.layout
    labels = pad_to_multiple(resize_labels(labels_BHW, output.image_size), side, ignore_index)

    def per_token(pixels_BHW: Tensor) -> Tensor:
        cells = pixels_BHW.unflatten(2, (-1, side)).unflatten(1, (-1, side)).sum((2, 4))
        zeros = torch.zeros(layout.num_tokens, device=cells.device)
        return zeros.index_add(0, layout.cell_to_token_BYX.flatten(), cells.flatten().float())

    labelled_BHW = labels != ignore_index
    labelled_T0 = per_token(labelled_BHW)
    logits, right = {}, {}
    for head in output.heads[:-1]:
        confidence_T0, class_T0, _ = output.confidences(head)
        class_BYX = layout.unmerge(class_T0[:, None])[..., 0]
        class_BHW = class_BYX.repeat_interleave(side, 1).repeat_interleave(side, 2)
        right_T0 = per_token(labelled_BHW & (labels == class_BHW))
        counts_T0 = (output.exit_T0 >= head.exits) & (labelled_T0 > 0)
        logits[head.block] = confidence_T0[counts_T0].double().logit(EPS)
        right[head.block] = (right_T0 / labelled_T0)[counts_T0]
    return logits, right


def resize_labels(labels_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Training ids in another size, of the nearest pixel; int64."""
    if tuple(labels_BHW.shape[1:]) != size:
        labels = labels_BHW[:, None].double()
        labels_BHW = F.interpolate(labels, size, mode="nearest-exact")[:, 0]
    return labels_BHW.long()


class CalibrationMetric(Metric):
    """Scores and truth of windows, or tokens, summed by window side, or block, and score.

    Args:
        windows: window sides of the policy, or blocks with an exit.

    """

    full_state_update = False
    counts: Tensor
    homogeneous: Tensor
    scores: Tensor

    def __init__(self, windows: Sequence[int]) -> None:
        super().__init__()
        self.windows = tuple(windows)
        for name in ("counts", "homogeneous", "scores"):
            zeros = torch.zeros((len(self.windows), BINS), dtype=torch.float64)
            self.add_state(name, zeros, "sum")

    def update(self, logits: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Count windows.

        Args:
            logits: per window side ``[B, Y // s, X // s]``; some may be missing.
            targets: boolean, alike (`stepseg.dcts.targets`), or shares of what is true.

        """
        for row, window in enumerate(self.windows):
            if window not in logits:
                continue
            score_W = logits[window].flatten().double().sigmoid()
            bin_W = (score_W * BINS).long().clamp(max=BINS - 1)
            # No bincount with weights: it adds up in no certain order on a GPU.
            inside_WN = bin_W[:, None] == torch.arange(BINS, device=bin_W.device)
            self.counts[row] += inside_WN.sum(0)
            self.homogeneous[row] += (inside_WN * targets[window].flatten()[:, None].double()).sum(
                0
            )
            self.scores[row] += (inside_WN * score_W[:, None]).sum(0)

    def compute(self) -> dict[str, dict[str, Any]]:
        """Per window side ``ece`` and ``bins``, under the names of `result.json`.

        A bin has its ``count`` of windows, ``confidence``, their mean score, and ``accuracy``, the
        share of them that is homogeneous; None where there is no window.
        """
        return {
            str(window): _reliability(*map(torch.Tensor.tolist, sums))
            for window, *sums in zip(
                self.windows, self.counts, self.homogeneous, self.scores, strict=True
            )
        }


def _reliability(
    counts: list[float], homogeneous: list[float], scores: list[float]
) -> dict[str, Any]:
    gaps = sum(abs(h - s) for h, s in zip(homogeneous, scores, strict=True))
    total = sum(counts)
    bins = [
        {
            "count": int(count),
            "confidence": score / count if count else None,
            "accuracy": hit / count if count else None,
        }
        for count, hit, score in zip(counts, homogeneous, scores, strict=True)
    ]
    return {"ece": gaps / total if total else None, "bins": bins}


def calibration_errors(figures: Mapping[str, Any]) -> dict[str, float]:
    """``ece_2x2`` of window sizes, ``ece_exit_8`` of exits and so on, where anything was seen.

    Args:
        figures: with ``policy_calibration`` and ``exit_calibration``, or without.

    """
    sizes = figures.get("policy_calibration") or {}
    exits = figures.get("exit_calibration") or {}
    errors = {f"ece_{side}x{side}": of_size["ece"] for side, of_size in sizes.items()}
    errors |= {f"ece_exit_{block}": of_exit["ece"] for block, of_exit in exits.items()}
    return {name: error for name, error in errors.items() if error is not None}
