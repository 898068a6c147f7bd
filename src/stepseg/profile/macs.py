"""Multiply-accumulates from token counts: exact for every image, at no cost.

The papers call them GFLOPs (fvcore counts one multiply-accumulate as one). A block costs
``12 T D^2 + 2 T^2 D``; T differs between images and stages, which is why one traced image tells
little and a formula over recorded counts tells all.

Letters: T tokens of one image, D channels of the encoder, d channels of a head, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stepseg.heads.atm import AtmHead
from stepseg.model import Segmentation, StepSegmenter
from stepseg.vit.staged import StagedViT


def count_macs(model: StepSegmenter, output: Segmentation) -> dict[str, list[int]]:
    """Multiply-accumulates of every image of a batch, by part.

    Returns:
        ``policy``, ``embedding``, ``blocks_1-8`` and so on, ``exit_head_8``, ``decoder``: one
        number per image each. A policy that the reduction does not consult counts nothing.

    """
    images = range(output.layout.segments.num_images)
    policy = _policy_macs(model, output)
    parts: dict[str, list[int]] = {"policy": [policy for _ in images]}
    patch_pixels = 3 * model.patch_size**2
    parts["embedding"] = [
        tokens * patch_pixels * model.backbone.dim for tokens in output.layout.segments.lengths
    ]
    start = 0
    for head in output.heads:
        blocks = head.block - start
        name = f"blocks_{start + 1}-{head.block}"
        parts[name] = [blocks * block_macs(model.backbone, t) for t in head.tokens_per_image]
        is_decoder = head is output.heads[-1]
        module = model.decoder if is_decoder else model.exit_heads[str(head.block)]
        assert isinstance(module, AtmHead)
        parts["decoder" if is_decoder else f"exit_head_{head.block}"] = [
            head_macs(module, t, model.backbone.dim) for t in head.tokens_per_image
        ]
        start = head.block
    return parts


def total_macs(parts: dict[str, list[int]]) -> list[int]:
    """Sum over parts, per image."""
    return [sum(numbers) for numbers in zip(*parts.values(), strict=True)]


def block_macs(vit: StagedViT, tokens: int) -> int:
    """One transformer block on `tokens` tokens."""
    linear = (4 + 2 * vit.mlp_ratio) * vit.dim**2
    return int(tokens * linear + 2 * tokens**2 * vit.dim)


def head_macs(head: AtmHead, tokens: int, dim: int) -> int:
    """One ATM head on `tokens` tokens."""
    d, c = head.head_dim, head.num_classes
    self_attention = 4 * c * d * d + 2 * c * c * d
    cross_attention = 2 * c * d * d + 2 * tokens * d * d + 2 * c * tokens * d
    feed_forward = 8 * c * d * d
    layers = len(head.layers) * (self_attention + cross_attention + feed_forward)
    return tokens * dim * d + layers + tokens * c * d + 2 * c * d


def _policy_macs(model: StepSegmenter, output: Segmentation) -> int:
    if not output.layout.windows or not isinstance(model.policy, nn.Module):
        return 0
    height, width = output.image_size
    cache = model.policy.__dict__.setdefault("_macs_of_size", {})
    if (height, width) not in cache:
        example = torch.zeros(1, 3, height, width)
        cache[height, width] = (
            network_macs(model.policy, example) if model.policy.name != "oracle" else 0
        )
    return cache[height, width]


def network_macs(network: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of the convolutions and linear layers of a network, by running it."""
    total = 0

    def count(module: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        positions = output.numel() // weight.shape[0]
        total += positions * weight.numel()

    handles = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            network(example.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return total
