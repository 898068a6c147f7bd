"""Multiply-accumulates from token counts: exact for every image, at no cost.

The papers print them as GFLOPs (fvcore counts one multiply-accumulate as one). A block costs
``12 T D^2 + 2 T^2 D`` in a plain ViT, where T counts class token and registers, too. T differs
between images and stages, which is why one traced image tells little and a formula over recorded
counts tells all.

Counted are the products of linear maps, convolutions and attention, and, as a part of its own,
LayerNorm with fvcore's five operations per element. Not counted: BatchNorm, which folds into its
convolution, and what fvcore ignores too (softmax, activations, additions, sorting, indexing).
Counted is the method: the first self-attention of a head's queries, which a model prepared for
inference computes once for all images, costs every image its share, as in the papers (0.1 % of a
ViT-B with 150 classes for a head). `stepseg.profile.fvcore` compares these numbers with traces.

Letters: T tokens of one image, D channels of the encoder, d channels of a head, C classes.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from stepseg.heads.atm import AtmHead
from stepseg.model import Segmentation, StepSegmenter
from stepseg.vit.architecture import Architecture
from stepseg.vit.staged import StagedViT

NORM_OPERATIONS = 5
"""Per element of a LayerNorm with scale and shift, as fvcore counts."""

_policy_macs: WeakKeyDictionary[nn.Module, dict[tuple[int, int], int]] = WeakKeyDictionary()


def count_macs(model: StepSegmenter, output: Segmentation) -> dict[str, list[int]]:
    """Multiply-accumulates of every image of a batch, by part.

    Returns:
        ``policy``, ``embedding``, ``blocks_1-8`` and so on, ``exit_head_8``, ``decoder``,
        ``norms``: one number per image each. A policy that the reduction does not consult counts
        nothing.

    """
    policy = policy_macs(model.policy, output.image_size) if output.layout.windows else 0
    blocks = [head.block for head in output.heads]
    stages = zip(*output.tokens_per_stage, strict=True)
    images = [macs_of_stages(model, list(zip(blocks, tokens, strict=True))) for tokens in stages]
    parts = {"policy": [policy] * len(images)}
    return parts | {part: [macs[part] for macs in images] for part in images[0]}


def total_macs(parts: dict[str, list[int]]) -> list[int]:
    """Sum over parts, per image."""
    return [sum(numbers) for numbers in zip(*parts.values(), strict=True)]


def macs_of_stages(model: StepSegmenter, stages: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Multiply-accumulates of one image by part, without the policy.

    Args:
        model: gives the sizes; may lie on the meta device.
        stages: for each head that runs its block, counted from 1, and the tokens in the blocks
            before it. The last one is the decoder.

    """
    vit = model.backbone
    parts = {"embedding": stages[0][1] * 3 * vit.patch_size**2 * vit.dim}
    norms, start = norm_before(vit, stages[0][1]), 0
    for block, tokens in stages:
        is_decoder = block == vit.depth
        head = model.decoder if is_decoder else model.exit_heads[str(block)]
        assert isinstance(head, AtmHead)
        parts[f"blocks_{start + 1}-{block}"] = (block - start) * block_macs(vit, tokens)
        parts["decoder" if is_decoder else f"exit_head_{block}"] = head_macs(head, tokens, vit.dim)
        norms += (block - start) * block_norms(vit, tokens)
        norms += final_norms(vit, head, tokens) + head_norms(head, tokens)
        start = block
    return parts | {"norms": norms}


def part_names(blocks: Sequence[int]) -> tuple[str, ...]:
    """The parts of `count_macs` for heads after these blocks; the last one is the decoder."""
    names = ["policy", "embedding"]
    start = 0
    for block in blocks:
        head = "decoder" if block == blocks[-1] else f"exit_head_{block}"
        names += [f"blocks_{start + 1}-{block}", head]
        start = block
    return (*names, "norms")


def block_macs(vit: StagedViT, tokens: int) -> int:
    """Products of one transformer block on `tokens` tokens and the prefix rows."""
    numbers = vit.numbers
    rows = tokens + numbers.prefix
    return rows * row_macs(numbers) + 2 * rows**2 * numbers.dim


def row_macs(numbers: Architecture) -> int:
    """Products of a block on every row by itself; a gated MLP has three linear maps."""
    maps = 3 if numbers.activation == "swiglu" else 2
    return 4 * numbers.dim**2 + maps * numbers.dim * numbers.hidden_dim


def block_norms(vit: StagedViT, tokens: int) -> int:
    """Operations of the LayerNorms of a block."""
    return NORM_OPERATIONS * (tokens + vit.numbers.prefix) * row_norms(vit.numbers)


def row_norms(numbers: Architecture) -> int:
    """Elements of a row that the LayerNorms of a block pass over."""
    return 2 * numbers.dim + (numbers.hidden_dim if numbers.mlp_norm else 0)


def norm_before(vit: StagedViT, tokens: int) -> int:
    """Operations of the LayerNorm before the first block, if there is one."""
    numbers = vit.numbers
    return NORM_OPERATIONS * numbers.norm_pre * (tokens + numbers.prefix) * numbers.dim


def final_norms(vit: StagedViT, head: AtmHead, tokens: int) -> int:
    """Operations of the final LayerNorm on all that a head reads, if there is one."""
    return NORM_OPERATIONS * vit.numbers.final_norm * _modules(head) * tokens * vit.dim


def head_macs(head: AtmHead, tokens: int, dim: int) -> int:
    """Products of one head on `tokens` tokens; the modules of a cascade cost alike."""
    d, c = head.head_dim, head.num_classes
    self_attention = 4 * c * d * d + 2 * c * c * d
    cross_attention = 2 * c * d * d + 2 * tokens * d * d + 2 * c * tokens * d
    feed_forward = 8 * c * d * d
    layers = len(head.layers) * (self_attention + cross_attention + feed_forward)
    return _modules(head) * (tokens * dim * d + layers + tokens * c * d) + 2 * c * d


def head_norms(head: AtmHead, tokens: int) -> int:
    """Operations of the LayerNorms of a head: one over tokens, three over queries per layer."""
    per_query = 3 * len(head.layers) * head.num_classes
    return _modules(head) * NORM_OPERATIONS * (tokens + per_query) * head.head_dim


def _modules(head: AtmHead) -> int:
    return 1 + len(head.earlier_blocks)


def policy_macs(policy: nn.Module | None, image_size: tuple[int, int]) -> int:
    """Multiply-accumulates of a policy network on one image.

    Counted once per network and size, on tensors without data: nothing is computed, and batch
    statistics stay as they are. A policy without weights, such as the oracle, costs nothing.
    """
    if policy is None or next(policy.parameters(), None) is None:
        return 0
    sizes = _policy_macs.setdefault(policy, {})
    if image_size not in sizes:
        sizes[image_size] = network_macs(policy, (1, 3, *image_size))
    return sizes[image_size]


def network_macs(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of the convolutions and matrix products of a network."""
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    on_meta = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    dtype = next(network.parameters()).dtype
    example = torch.empty(*input_shape, dtype=dtype, device="meta")
    # With gradients on compiled graphs step aside: what is counted are the network's operators.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        functional_call(network, on_meta, example)
    return counter.get_total_flops() // 2  # PyTorch counts a multiply-accumulate as two
