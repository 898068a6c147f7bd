"""Runs of a model on one image, as much of them as the page needs.

Two kinds: a `Listening` run, in which all heads speak and nobody leaves, and an `ExactRun` with its
exits. Both see the image whole.

Letters: H x W pixels, Y x X cells of the patch grid, T0 tokens after merging, h heads.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepseg.dcts.edges import edge_density
from stepseg.explorer.plan import Plan
from stepseg.macs import count_macs, policy_macs
from stepseg.model import Reduction, Segmentation, StepSegmenter
from stepseg.pictures.drawing import Picture

TOP = 3
"""Classes that are kept per token and head."""


@dataclass(frozen=True, slots=True)
class Listening:
    """What every head says about every token of one rule of merging, while nobody leaves."""

    confidence_hT0: NDArray[np.float32]
    """The highest class probability, which the exit rule compares."""
    classes_hT0K: NDArray[np.uint8]
    """The `TOP` most probable classes."""
    others_hT0K: NDArray[np.uint8]
    """Probabilities of the second and further ones in steps of 1/255."""


@dataclass(frozen=True, slots=True)
class ExactRun:
    """What the model did at one setting."""

    level: int
    """Index into `Plan.levels`."""
    threshold: float | None
    """Of the exits; None: no exits."""
    tokens: list[int]
    """By stage: the tokens in the blocks before each head."""
    macs: dict[str, int]
    exit_T0: NDArray[np.uint8]
    """Index of the exit at which each token left, the number of exits if it never did."""
    map_HW: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Recording:
    """All about one image."""

    name: str
    pixels: Picture
    grid: tuple[int, int]
    policy_macs: int
    scores: dict[int, NDArray[np.float32]]
    """Policy scores per window side, ``[Y // s, X // s]``."""
    edges: dict[int, NDArray[np.float32]]
    """Edge densities likewise, where the model's thresholds follow them."""
    listening: list[Listening]
    """One per level."""
    runs: list[ExactRun]

    def agreement(self, run: ExactRun) -> float:
        """Share of the pixels in which a run has the class of the dense run, which is the first."""
        return float((run.map_HW == self.runs[0].map_HW).mean())


@torch.no_grad()
def record(
    model: StepSegmenter,
    name: str,
    pixels: Picture,
    plan: Plan,
    progress: Callable[[], None] = lambda: None,
) -> Recording:
    """Run a model on one image at every setting of the plan.

    Args:
        model: in evaluation mode; the image goes to its device and takes its dtype.
        name: what people call the image.
        pixels: uint8 RGB ``[H, W, 3]``.
        plan: the settings.
        progress: called after every run.

    """
    like = next(model.parameters())
    image_3HW = torch.tensor(pixels, device=like.device).permute(2, 0, 1)
    images = (image_3HW[None].float() / 255).to(like.dtype)
    listening, runs = [], []
    scores: dict[int, NDArray[np.float32]] = {}
    for index, level in enumerate(plan.levels):
        output = model(images, reduction=plan.listening(level.rule))
        listening.append(_listen(output))
        runs.append(_run_without_exits(model, output, index))
        scores = scores or _scores(output)
        progress()
        for exit_ in plan.exits:
            reduction = Reduction(merge=level.rule, exit=exit_, exit_blocks=plan.exit_blocks)
            runs.append(_run(model, model(images, reduction=reduction), index, exit_.threshold))
            progress()
    height, width = pixels.shape[:2]
    return Recording(
        name=name,
        pixels=pixels,
        grid=output.layout.grid,
        policy_macs=policy_macs(model.policy, (height, width)) if plan.windows else 0,
        scores=scores,
        edges=_edges(model, images, plan),
        listening=listening,
        runs=runs,
    )


def _listen(output: Segmentation) -> Listening:
    confidences, classes, others = [], [], []
    for head in output.heads:
        confidence_T0, class_T0, p_T0C = output.confidences(head)  # among ties as the rule chooses
        rest_T0C = p_T0C.scatter(1, class_T0[:, None], -1)
        p_T0K, class_T0K = rest_T0C.topk(min(TOP, p_T0C.shape[1]) - 1)
        confidences.append(_array(confidence_T0, np.float32))
        classes.append(_array(torch.cat([class_T0[:, None], class_T0K], 1), np.uint8))
        others.append(_array((p_T0K * 255).round(), np.uint8))
    return Listening(np.stack(confidences), np.stack(classes), np.stack(others))


def _run(
    model: StepSegmenter, output: Segmentation, level: int, threshold: float | None
) -> ExactRun:
    return ExactRun(
        level=level,
        threshold=threshold,
        tokens=[lengths[0] for lengths in output.tokens_per_stage],
        macs={part: macs[0] for part, macs in count_macs(model, output).items()},
        exit_T0=_array(output.exit_T0, np.uint8),
        map_HW=_array(output.prediction()[0], np.uint8),
    )


def _run_without_exits(model: StepSegmenter, output: Segmentation, level: int) -> ExactRun:
    """The run in which heads only listened, as it is without them: they change no token."""
    exit_T0 = torch.zeros_like(output.exit_T0)
    alone = replace(output, heads=output.heads[-1:], exit_T0=exit_T0)
    return _run(model, alone, level, None)


def _scores(output: Segmentation) -> dict[int, NDArray[np.float32]]:
    return {
        window: _array(logits.sigmoid()[0], np.float32)
        for window, logits in output.policy_logits.items()
    }


def _edges(model: StepSegmenter, images_B3HW: Tensor, plan: Plan) -> dict[int, NDArray[np.float32]]:
    if plan.own_merge is None or not plan.own_merge.edge_weight:
        return {}
    densities = edge_density(images_B3HW, model.patch_size, plan.windows)
    return {window: _array(density[0], np.float32) for window, density in densities.items()}


def _array(values: Tensor, dtype: type) -> NDArray:
    return (
        values.to("cpu", torch.float32 if values.is_floating_point() else None)
        .numpy()
        .astype(dtype)
    )
