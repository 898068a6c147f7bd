"""The whole method in loops: one image, one window, one class at a time, in float64.

Slow and obvious, written from the description of the method. It shares no code with the library but
timm's CNN of the policy network, and has its weights from the model under test.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reference import atm, exits, merging, vit
from stepseg.model import Reduction, StepSegmenter


@dataclass
class LoopResult:
    """What the loops find for one image."""

    windows: list[tuple[int, int, int]]
    """(y, x, side) of every token after merging."""
    tokens_per_head: list[int]
    """How many tokens each head saw."""
    exit_index: list[int]
    """Per token after merging: the exit at which it left; the number of exits if it never did."""
    mask_logits_T0C: Tensor
    """Per token the answer of the last head that saw it."""
    cell_scores_CYX: Tensor


def segment(
    model: StepSegmenter,
    image_3HW: Tensor,
    reduction: Reduction,
    labels_HW: Tensor | None = None,
    weights: vit.Weights | None = None,
) -> LoopResult:
    """Segment one image with the weights of `model` in evaluation mode, or with other weights."""
    height, width = image_3HW.shape[1:]
    rows, columns = -(-height // 16), -(-width // 16)
    padded = torch.full((3, rows * 16, columns * 16), 0.5, dtype=torch.float64)
    padded[:, :height, :width] = image_3HW

    covered = [[1] * columns for _ in range(rows)]
    if reduction.merge is not None:
        scores = (
            policy_scores(model, image_3HW)
            if labels_HW is None
            else oracle_scores(model, labels_HW)
        )
        edges = None
        if reduction.merge.edge_weight:
            grey = image_3HW.double().mean(0).tolist()
            edges = merging.edge_density(grey, 16, reduction.merge.windows)
        covered = merging.merge(scores, reduction.merge, rows, columns, edges)
    windows = merging.tokens(covered)
    resize = reduction.merge.resize if reduction.merge else "bilinear"
    return run_stages(model, padded, windows, resize, reduction, weights or vit.weights_of(model))


def policy_scores(model: StepSegmenter, image_3HW: Tensor) -> merging.Scores:
    """sigmoid(w . mean of the features in the window + b), window by window."""
    policy: Any = model.policy
    height, width = image_3HW.shape[1:]
    image = (image_3HW.double() - policy.mean) / policy.std
    image = F.pad(image, (0, -width % 32, 0, -height % 32))
    features_Fyx = policy.features(image[None])[-1][0]  # one cell is 2 x 2 patches
    rows, columns = -(-height // 16), -(-width // 16)
    scores = {}
    for side in policy.windows:
        classifier = policy.classifier[str(side)]
        weight = classifier.weight.flatten()
        bias = classifier.bias + getattr(classifier, "correction", 0)  # folded, it is in the bias
        cells = side // 2
        scores[side] = [
            [
                torch.sigmoid(
                    weight
                    @ features_Fyx[
                        :, y * cells : (y + 1) * cells, x * cells : (x + 1) * cells
                    ].mean(dim=(1, 2))
                    + bias
                ).item()
                for x in range(columns // side)
            ]
            for y in range(rows // side)
        ]
    return scores


def oracle_scores(model: StepSegmenter, labels_HW: Tensor) -> merging.Scores:
    assert model.policy is not None
    labels = labels_HW.tolist()
    return {
        side: [[float(one) for one in row] for row in merging.homogeneous(labels, 16, side)]
        for side in model.policy.windows
    }


def run_stages(
    model: StepSegmenter,
    padded_3HW: Tensor,
    windows: list[tuple[int, int, int]],
    resize: str,
    reduction: Reduction,
    weights: vit.Weights,
) -> LoopResult:
    """Blocks, heads and exits for one padded image with known windows."""
    backbone = vit.under(weights, "backbone")
    num_tokens, num_exits = len(windows), len(reduction.exit_blocks)
    result = LoopResult(
        windows=windows,
        tokens_per_head=[],
        exit_index=[num_exits] * num_tokens,
        mask_logits_T0C=torch.zeros(num_tokens, model.num_classes, dtype=torch.float64),
        cell_scores_CYX=torch.zeros(0),
    )
    own_presence_T0C = torch.zeros_like(result.mask_logits_T0C)
    last_presence_C = torch.zeros(0)
    active = list(range(num_tokens))
    depths: list[Tensor] = []  # what a cascade reads
    x_TD = vit.embed(padded_3HW, windows, backbone, resize, model.backbone.mean, model.backbone.std)
    for index in range(model.backbone.depth):
        if active:
            x_TD = vit.block(
                x_TD, vit.under(backbone, f"blocks.{index}"), model.backbone.numbers.num_heads
            )
        block = index + 1
        if block in (*model.decoder.earlier_blocks, model.backbone.depth):
            depths.insert(0, x_TD)
        if block != model.backbone.depth and block not in reduction.exit_blocks:
            continue
        result.tokens_per_head.append(len(active))
        if not active:
            continue
        name = "decoder" if block == model.backbone.depth else f"exit_heads.{block}"
        head: Any = model.get_submodule(name)
        if hasattr(head, "classify"):
            logits_TC = atm.linear_head(x_TD, vit.under(weights, name))
            last_presence_C = torch.ones(model.num_classes, dtype=torch.float64)
        else:
            logits_TC, class_logits_C2 = atm.atm_cascade(
                depths if block == model.backbone.depth else [x_TD],
                vit.under(weights, name),
                head.num_heads,
                len(head.layers),
            )
            last_presence_C = atm.presence(class_logits_C2)
        for row, token in enumerate(active):
            result.mask_logits_T0C[token] = logits_TC[row]
            own_presence_T0C[token] = last_presence_C
        if block == model.backbone.depth:
            break
        exit_index = reduction.exit_blocks.index(block)
        p_TC = logits_TC.sigmoid() * last_presence_C
        if head.temperature is not None:
            odds_TC = (p_TC / (1 - p_TC)) ** (1 / head.temperature)
            p_TC = odds_TC / (1 + odds_TC)
        p = p_TC.tolist()
        assert reduction.exit is not None
        stays = exits.keep(reduction.exit, p, exit_index)
        for token, stay in zip(active, stays, strict=True):
            if not stay:
                result.exit_index[token] = exit_index
        x_TD = x_TD[torch.tensor(stays)]
        active = [token for token, stay in zip(active, stays, strict=True) if stay]

    grid = (model.num_classes, padded_3HW.shape[1] // 16, padded_3HW.shape[2] // 16)
    result.cell_scores_CYX = torch.zeros(grid, dtype=torch.float64)
    for token, (y, x, side) in enumerate(windows):
        present = own_presence_T0C[token] if model.class_source == "own" else last_presence_C
        p_C = result.mask_logits_T0C[token].sigmoid() * present
        result.cell_scores_CYX[:, y : y + side, x : x + side] = p_C[:, None, None]
    return result
