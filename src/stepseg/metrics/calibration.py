"""Whether the policy's scores are probabilities: how many windows of score .8 are homogeneous.

Expected calibration error (Guo et al., arXiv 1706.04599) of the probability that a window is
homogeneous, per window size. Every window of the rule counts, unannotated ones as the rule has it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from stepseg.dcts.policy import PolicyNetwork
from stepseg.dcts.targets import HomogeneityRule
from stepseg.protocol import Protocol, resize, resized_size

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
) -> tuple[Windows, Windows]:
    """What the policy says of whole images, and what is true.

    In the size in which images are first shown, and not by the windows of a sliding protocol or
    mirrored: these would count pixels twice.

    Args:
        policy: decides as in evaluation, whatever its mode.
        images_B3HW: uint8.
        labels_BHW: training ids.
        rule: what makes a window homogeneous.
        protocol: how images are shown.
        logits: what the policy has said of these images, if the protocol is plain and it has.

    Returns:
        Logits and boolean targets.

    """
    height, width = labels_BHW.shape[1:]
    size = resized_size(height, width, protocol, protocol.scales[0])
    if not logits:
        logits = policy.decide(resize(images_B3HW.float() / 255, size))
    if size != (height, width):
        labels = labels_BHW[:, None].double()
        labels_BHW = F.interpolate(labels, size, mode="nearest-exact")[:, 0]
    return dict(logits), rule.windows(labels_BHW.long(), policy.patch_size, policy.windows)


class CalibrationMetric(Metric):
    """Scores and truth of windows, summed by window side and score.

    Args:
        windows: window sides of the policy.

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
            logits: per window side ``[B, Y // s, X // s]``.
            targets: boolean, alike (`stepseg.dcts.targets`).

        """
        for row, window in enumerate(self.windows):
            score_W = logits[window].flatten().double().sigmoid()
            bin_W = (score_W * BINS).long().clamp(max=BINS - 1)
            # No bincount with weights: it adds up in no certain order on a GPU.
            inside_WN = bin_W[:, None] == torch.arange(BINS, device=bin_W.device)
            self.counts[row] += inside_WN.sum(0)
            self.homogeneous[row] += (inside_WN & targets[window].flatten()[:, None]).sum(0)
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


def errors_by_size(calibration: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """``ece_2x2`` and so on, of the sizes of which there were windows."""
    return {
        f"ece_{side}x{side}": figures["ece"]
        for side, figures in calibration.items()
        if figures["ece"] is not None
    }
