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

Letters: T tokens of one image, D channels of the encoder, d channels of a head, C classes, Q
queries that run through blocks.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from stepseg.heads.eomt import EomtHead
from stepseg.heads.linear import ExitHead, LinearHead
from stepseg.packed import Passed
from stepseg.segmentation import Segmentation
from stepseg.vit.architecture import Architecture
from stepseg.vit.staged import StagedViT

NORM_OPERATIONS = 5
"""Per element of a LayerNorm with scale and shift, as fvcore counts."""

_policy_macs: WeakKeyDictionary[nn.Module, dict[tuple[int, int], int]] = WeakKeyDictionary()


class Parts(Protocol):
    """What is counted of a segmenter (`stepseg.model.StepSegmenter`)."""

    backbone: StagedViT
    policy: Any

    def head(self, block: int) -> ExitHead | EomtHead:
        """The head that reads the output of a block."""
        ...


def count_macs(model: Parts, output: Segmentation) -> dict[str, list[int]]:
    """Multiply-accumulates of every image of a batch, by part.

    Returns:
        ``policy``, ``embedding``, ``blocks_1-8`` and so on, ``exit_head_8``, ``decoder``,
        ``matching`` where rules act inside the blocks, ``norms``: one number per image each. A
        policy that the reduction does not consult counts nothing.

    """
    policy = 0
    if output.layout.windows and output.policy_logits:
        policy = policy_macs(model.policy, shown_size(model, output))
    blocks = [head.block for head in output.heads]
    passed = output.heads[-1].passed
    images = [
        macs_of_stages(
            model,
            list(zip(blocks, tokens, strict=True)),
            cells=output.layout.segments.lengths[image],
            on_grid=prod(output.layout.grid),
            inside={p.block: p.of_image(image) for p in passed},
        )
        for image, tokens in enumerate(zip(*output.tokens_per_stage, strict=True))
    ]
    parts = {"policy": [policy] * len(images)}
    return parts | {part: [macs[part] for macs in images] for part in images[0]}


def total_macs(parts: dict[str, list[int]]) -> list[int]:
    """Sum over parts, per image."""
    return [sum(numbers) for numbers in zip(*parts.values(), strict=True)]


def shown_size(model: Parts, output: Segmentation) -> tuple[int, int]:
    """Height and width of the images as the policy saw them."""
    side = model.backbone.patch_size
    if output.patch_size == side:
        return output.image_size
    rows, columns = output.layout.grid
    return rows * side, columns * side


def macs_of_stages(
    model: Parts,
    stages: Sequence[tuple[int, int]],
    cells: int | None = None,
    inside: Mapping[int, Passed] | None = None,
    on_grid: int | None = None,
) -> dict[str, int]:
    """Multiply-accumulates of one image by part, without the policy.

    Args:
        model: gives the sizes; may lie on the meta device.
        stages: for each head that runs its block, counted from 1, and the tokens that it reads,
            those of the blocks before it unless `inside` says otherwise. The last one is the
            decoder.
        cells: tokens that are embedded; None: those of the first stage.
        inside: by block what rules inside the blocks did to this image.
        on_grid: cells of the patch grid, for a decoder that reads all of them; None: as many.

    """
    vit = model.backbone
    cells = stages[0][1] if cells is None else cells
    parts = {"embedding": cells * 3 * vit.patch_size**2 * vit.dim}
    norms, start, matching = norm_before(vit, cells), 0, 0
    for block, tokens in stages:
        numbers = range(start + 1, block + 1)
        blocks = [inside[i] if inside else _all_pass(i, tokens) for i in numbers]
        is_decoder = block == vit.depth
        head = model.head(block)
        parts[f"blocks_{start + 1}-{block}"] = sum(
            block_macs(vit, b.before[0], b.after[0], b.extra_channels, queries(model, b.block))
            for b in blocks
        )
        in_head = head_cost(vit, head, tokens, on_grid or cells)
        parts["decoder" if is_decoder else f"exit_head_{block}"] = in_head[0]
        norms += in_head[1]
        norms += sum(
            block_norms(vit, b.before[0], b.after[0], queries(model, b.block)) for b in blocks
        )
        norms += NORM_OPERATIONS * vit.dim * sum(sum(b.norms) for b in blocks)
        matching += sum(b.matching[0] for b in blocks)
        start = block
    return parts | ({"matching": matching} if inside else {}) | {"norms": norms}


def _all_pass(block: int, tokens: int) -> Passed:
    return Passed(block, (tokens,), (tokens,), (0,))


def queries(model: Parts, block: int) -> int:
    """Q, in the blocks that queries of the decoder run through; 0 in those before."""
    decoder = model.head(model.backbone.depth)
    if isinstance(decoder, EomtHead) and block > decoder.start:
        return decoder.numbers.queries
    return 0


def part_names(blocks: Sequence[int], *, inside: bool = False) -> tuple[str, ...]:
    """The parts of `count_macs` for heads after these blocks; the last one is the decoder.

    `inside`: of a reduction that acts inside the blocks.
    """
    names = ["policy", "embedding"]
    start = 0
    for block in blocks:
        head = "decoder" if block == blocks[-1] else f"exit_head_{block}"
        names += [f"blocks_{start + 1}-{block}", head]
        start = block
    return (*names, *(("matching",) if inside else ()), "norms")


def block_macs(
    vit: StagedViT,
    tokens: int,
    after: int | None = None,
    extra_channels: int = 0,
    queries: int = 0,
) -> int:
    """Products of one transformer block on tokens and the prefix rows.

    Args:
        vit: gives the sizes.
        tokens: in the attention.
        after: in the MLP; None: as many.
        extra_channels: of every attention head, for the sizes of merged tokens.
        queries: rows of a decoder among them.

    """
    numbers = vit.numbers
    rows = tokens + numbers.prefix + queries
    wide = numbers.dim + numbers.num_heads * extra_channels
    gone = 0 if after is None else tokens - after
    return rows * row_macs(numbers) + 2 * rows**2 * wide - gone * mlp_macs(numbers)


def row_macs(numbers: Architecture) -> int:
    """Products of a block on every row by itself."""
    return 4 * numbers.dim**2 + mlp_macs(numbers)


def mlp_macs(numbers: Architecture) -> int:
    """Products of the MLP on a row; a gated one has three linear maps."""
    maps = 3 if numbers.activation == "swiglu" else 2
    return maps * numbers.dim * numbers.hidden_dim


def block_norms(vit: StagedViT, tokens: int, after: int | None = None, queries: int = 0) -> int:
    """Operations of the LayerNorms of a block; tokens and queries as of `block_macs`."""
    numbers = vit.numbers
    gone = 0 if after is None else tokens - after
    elements = (tokens + numbers.prefix + queries) * row_norms(numbers)
    return NORM_OPERATIONS * (elements - gone * (row_norms(numbers) - numbers.dim))


def row_norms(numbers: Architecture) -> int:
    """Elements of a row that the LayerNorms of a block pass over; the first before attention."""
    return 2 * numbers.dim + (numbers.hidden_dim if numbers.mlp_norm else 0)


def norm_before(vit: StagedViT, tokens: int) -> int:
    """Operations of the LayerNorm before the first block, if there is one."""
    numbers = vit.numbers
    return NORM_OPERATIONS * numbers.norm_pre * (tokens + numbers.prefix) * numbers.dim


def final_norms(vit: StagedViT, head: ExitHead, tokens: int) -> int:
    """Operations of the final LayerNorm on all that a head reads, if there is one."""
    return NORM_OPERATIONS * vit.numbers.final_norm * _modules(head) * tokens * vit.dim


def head_cost(
    vit: StagedViT, head: ExitHead | EomtHead, tokens: int, cells: int
) -> tuple[int, int]:
    """Products of a head, and operations of its LayerNorms and of the final one on what it reads.

    Args:
        vit: gives the sizes.
        head: of one of the kinds.
        tokens: that it reads.
        cells: of the patch grid.

    """
    if isinstance(head, EomtHead):
        macs, norms = _query_cost(head, cells, vit.dim)
        read = tokens + head.numbers.queries
        return macs, norms + NORM_OPERATIONS * vit.numbers.final_norm * read * vit.dim
    norms = head_norms(head, tokens) + final_norms(vit, head, tokens)
    return head_macs(head, tokens, vit.dim), norms


def _query_cost(head: EomtHead, cells: int, dim: int) -> tuple[int, int]:
    """Of a decoder with queries: MLP and classes, upscaling of the whole grid, masks on it."""
    numbers = head.numbers
    macs, norms = numbers.queries * dim * (3 * dim + head.num_classes + 1), 0
    for _ in range(numbers.upscale):
        macs += 4 * cells * dim * (dim + 9)
        cells *= 4
        norms += NORM_OPERATIONS * cells * dim
    return macs + numbers.queries * cells * dim, norms


def head_macs(head: ExitHead, tokens: int, dim: int) -> int:
    """Products of one head on `tokens` tokens; the modules of a cascade cost alike."""
    if isinstance(head, LinearHead):
        return tokens * dim * head.num_classes
    d, c, said = head.head_dim, head.num_classes, head.presence.out_features
    self_attention = 4 * c * d * d + 2 * c * c * d
    cross_attention = 2 * c * d * d + 2 * tokens * d * d + 2 * c * tokens * d
    feed_forward = 8 * c * d * d
    layers = len(head.layers) * (self_attention + cross_attention + feed_forward)
    return _modules(head) * (tokens * dim * d + layers + tokens * c * d) + said * c * d


def head_norms(head: ExitHead, tokens: int) -> int:
    """Operations of the LayerNorms of a head: one over tokens, three over queries per layer."""
    if isinstance(head, LinearHead):
        return NORM_OPERATIONS * tokens * head.dim
    per_query = 3 * len(head.layers) * head.num_classes
    return _modules(head) * NORM_OPERATIONS * (tokens + per_query) * head.head_dim


def _modules(head: ExitHead) -> int:
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
