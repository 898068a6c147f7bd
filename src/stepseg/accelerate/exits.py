"""Linear exit heads for a finished model, distilled from its own label maps.

The encoder stays as it is and runs once over the images, up to the last exit; the heads then learn
from the tokens that it left, each to name the classes of its pixels in their shares. Half of the
images are merged as the policy has it, so that heads have seen superpatches, too.

Letters: B images (1), H x W pixels, T0 tokens after merging, N tokens that were kept, D channels, C
classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim import AdamW

from stepseg.accelerate.samples import Samples
from stepseg.checkpoint import Checkpoint
from stepseg.data.labels import IGNORE_INDEX
from stepseg.dcts.merge import MergeRule
from stepseg.heads.linear import LinearHead
from stepseg.heads.temperature import fit_temperatures
from stepseg.metrics.calibration import EPS, resize_labels
from stepseg.model_config import ExitConfig
from stepseg.ops.padding import pad_to_multiple
from stepseg.packed import TokenLayout
from stepseg.predict.segmenter import Segmenter
from stepseg.protocol import show_first

THRESHOLD = 0.95
"""Confidence above which tokens leave, in the middle of what is searched."""
TOKENS = 2**16
"""Kept of all images together, to learn from."""
STEPS, BATCH, RATE = 1500, 1024, 3e-3
APART = 0.1
"""Share of the tokens, those of the last images, on which temperatures are fitted."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Tokens of many images."""

    values: Mapping[int, Tensor]
    """By block what its head reads, float32 ``[N, D]``."""
    shares_NC: Tensor
    """Of the pixels of each token that have a class."""


def with_untrained_heads(checkpoint: Checkpoint, blocks: Sequence[int]) -> Checkpoint:
    """A checkpoint with linear heads after some blocks, whose weights are to come.

    Raises:
        ValueError: it has exit heads; where they cannot stand is told when the model is built.

    """
    config, exit_ = checkpoint.config, checkpoint.config.reduction.exit
    if exit_ is not None and exit_.head_blocks:
        raise ValueError(
            f"exits={list(blocks)}: the model has exit heads after blocks "
            f"{list(exit_.head_blocks)}, which stay as they are: drop exits="
        )
    own = ExitConfig(blocks=tuple(sorted({*blocks})), threshold=THRESHOLD)
    config = replace(
        config,
        heads=replace(config.heads, exit="linear", calibration_images=None),  # with temperatures
        reduction=replace(config.reduction, exit=own),
    )
    dim, classes = config.backbone.numbers().dim, config.num_classes
    blank = {block: LinearHead(dim=dim, num_classes=classes, calibrated=True) for block in blocks}
    return with_heads(replace(checkpoint, config=config), blank)


def with_heads(checkpoint: Checkpoint, heads: Mapping[int, LinearHead]) -> Checkpoint:
    """The same with these weights of its heads."""
    weights = {
        f"exit_heads.{block}.{key}": value.detach().cpu()
        for block, head in heads.items()
        for key, value in head.state_dict().items()
    }
    return replace(checkpoint, state={**checkpoint.state, **weights})


def distil(
    segmenter: Segmenter, rule: MergeRule, samples: Samples, seed: int = 0
) -> dict[int, LinearHead]:
    """Teach a head after every block at which the model has one, with its temperature.

    Args:
        segmenter: with the policy, and heads of any weights.
        rule: by which half of the images merge.
        seed: of the tokens that are kept, and of their order.

    """
    generator = torch.Generator().manual_seed(seed)
    return fit_heads(gather(segmenter, rule, samples, generator), generator)


@torch.no_grad()
def gather(
    segmenter: Segmenter, rule: MergeRule, samples: Samples, generator: torch.Generator
) -> Seen:
    """Run the encoder and keep some tokens of every image, with what they should say."""
    model, protocol = segmenter.model, segmenter.protocol
    values: dict[int, list[Tensor]] = {block: [] for block in model.exit_head_blocks}
    shares = []
    for index, (image, label) in enumerate(samples.tensors()):
        shown = show_first(image.to(segmenter.device), protocol)
        size = (shown.shape[2], shown.shape[3])
        label = resize_labels(label.to(segmenter.device), size)
        windows = protocol.windows(*size)
        for w in windows:
            x_13hw = shown[..., w.top : w.bottom, w.left : w.right].to(segmenter.dtype)
            merge = rule if index % 2 else None
            layout = model.merge(x_13hw, model.policy_logits(x_13hw) if merge else {}, merge)
            tokens, start = model.embed(x_13hw, layout, merge), 0
            some = torch.randperm(layout.num_tokens, generator=generator)
            some = some[: max(16, TOKENS // (len(samples) * len(windows)))].to(segmenter.device)
            for block, kept in values.items():
                tokens, start = model.backbone.run_blocks(tokens, start, block), block
                kept.append(model.backbone.read(tokens).values_TD[some].float().cpu())
            label_1hw = label[:, w.top : w.bottom, w.left : w.right]
            of_all = class_shares(layout, label_1hw, model.num_classes, model.patch_size)
            shares.append(of_all[some].cpu())
    return Seen({block: torch.cat(kept) for block, kept in values.items()}, torch.cat(shares))


def class_shares(layout: TokenLayout, labels_BHW: Tensor, num_classes: int, side: int) -> Tensor:
    """Shares of the classes in the pixels of every token, ``[T0, C]``; 0 where none has one.

    Args:
        labels_BHW: class ids.
        side: of a patch in pixels.

    """
    labels = pad_to_multiple(labels_BHW, side, IGNORE_INDEX)
    token_BHW = layout.cell_to_token_BYX.repeat_interleave(side, 1).repeat_interleave(side, 2)
    has_one = labels != IGNORE_INDEX
    pairs = token_BHW[has_one] * num_classes + labels[has_one]
    counts = torch.bincount(pairs, minlength=layout.num_tokens * num_classes)
    counts_TC = counts.view(layout.num_tokens, num_classes).float()
    return counts_TC / counts_TC.sum(1, keepdim=True).clamp(min=1)


def fit_heads(seen: Seen, generator: torch.Generator) -> dict[int, LinearHead]:
    """Teach heads, by their blocks, with temperatures."""
    return {block: _fit(x_ND, seen.shares_NC, generator) for block, x_ND in seen.values.items()}


def _fit(values_ND: Tensor, shares_NC: Tensor, generator: torch.Generator) -> LinearHead:
    dim, classes = values_ND.shape[1], shares_NC.shape[1]
    head = LinearHead(dim=dim, num_classes=classes, calibrated=True)
    learned = len(values_ND) - round(APART * len(values_ND))
    optimiser = AdamW(head.parameters(), lr=RATE, weight_decay=0.0)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        rows = torch.randint(learned, (min(BATCH, learned),), generator=generator)
        said = head.classify(head.norm(values_ND[rows])).log_softmax(1)
        loss = -(shares_NC[rows] * said).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        confidence_N, class_N = head.mask_logits(values_ND[learned:]).sigmoid().max(1)
        right_N = shares_NC[learned:].gather(1, class_N[:, None])[:, 0]
        assert head.temperature is not None
        head.temperature.copy_(fit_temperatures([confidence_N.double().logit(EPS)], [right_N]))
    return head.eval()
