"""Where the time of one system goes: policy, merging, every block, heads, exits, the map.

The paper's Figures 9 and 10 show time and operations per layer. Here the whole call is cut at the
borders of its parts, so that the parts add up to it and nothing between them is lost.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from stepseg.macs import (
    block_macs,
    block_norms,
    count_macs,
    head_cost,
    norm_before,
    queries,
)
from stepseg.model import Reduction, Segmentation, StepSegmenter

Part = dict[str, Any]
Reading = tuple[float, float]
"""Seconds by the wall clock, and of CPU time; on CUDA both are by events."""


def profile_parts(
    model: StepSegmenter,
    reductions: Mapping[str, Reduction],
    images_B3HW: Tensor,
    *,
    warmup: int = 2,
    iterations: int = 10,
) -> dict[str, list[Part]]:
    """Time the parts of all systems, in turns.

    Returns:
        For every system its parts in order, each with `part`, `ms` (median over calls, for the
        whole batch), `share` (median of what it is of the first system's whole time in the same
        round: by CPU time, which others on the machine do not lengthen, or on CUDA by events),
        `gmacs` and `tokens` (means per image; None where they mean nothing).

    """
    seconds: dict[str, list[dict[str, Reading]]] = {name: [] for name in reductions}
    costs: dict[str, dict[str, Part]] = {}
    with torch.inference_mode():
        for round_ in range(warmup + iterations):
            for name, reduction in reductions.items():
                marks, output = _run(model, reduction, images_B3HW)
                if round_ >= warmup:
                    seconds[name].append(marks)
                costs.setdefault(name, _costs(model, output))
    wholes = [sum(work for _, work in call.values()) for call in next(iter(seconds.values()))]
    return {
        name: [
            {
                "part": part,
                "ms": 1000 * median(call[part][0] for call in calls),
                "share": median(c[part][1] / w for c, w in zip(calls, wholes, strict=True)),
                **costs[name].get(part, {"gmacs": None, "tokens": None}),
            }
            for part in calls[0]
        ]
        for name, calls in seconds.items()
    }


def _run(
    model: StepSegmenter, reduction: Reduction, images_B3HW: Tensor
) -> tuple[dict[str, Reading], Segmentation]:
    """One call; seconds by part, and its output."""
    clock = _Clock(images_B3HW.device)
    with _marking(model, reduction, clock):
        clock.start()
        output = model(images_B3HW, reduction=reduction)
        clock.mark("assembly")
        output.prediction()
        clock.mark("map")
    return clock.seconds(), output


class _Clock:
    """Marks borders of parts, on CUDA by events in the stream."""

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self.marks: list[tuple[str, Any]] = []

    def start(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()
        self.mark("")

    def mark(self, part: str) -> None:
        """What was done since the mark before is `part`."""
        if not self.on_cuda:
            self.marks.append((part, (time.perf_counter(), time.process_time())))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append((part, event))

    def seconds(self) -> dict[str, Reading]:
        """By part; parts that occur more than once are added up."""
        if self.on_cuda:
            torch.cuda.synchronize()
        total: dict[str, Reading] = {}
        for (_, begin), (part, end) in zip(self.marks, self.marks[1:], strict=False):
            if self.on_cuda:
                wall = work = begin.elapsed_time(end) / 1000
            else:
                wall, work = end[0] - begin[0], end[1] - begin[1]
            before = total.get(part, (0.0, 0.0))
            total[part] = (before[0] + wall, before[1] + work)
        return total


@contextmanager
def _marking(model: StepSegmenter, reduction: Reduction, clock: _Clock) -> Iterator[None]:
    """Hooks that mark the borders of the parts of `model`."""
    blocks = list(model.backbone.blocks)
    before = [(blocks[0], "merge and embed")]
    # An exit is what happens between its head and the next block: the rule, and the selection.
    before += [(blocks[exit_], f"exit_{exit_}") for exit_ in reduction.exit_blocks]
    after: list[tuple[nn.Module, str]] = [
        (block, f"block_{index}") for index, block in enumerate(blocks, start=1)
    ]
    after += [(model.exit_heads[str(e)], f"exit_head_{e}") for e in reduction.exit_blocks]
    after.append((model.decoder, "decoder"))
    if model.policy is not None:
        after.append((model.policy, "policy"))
    handles = [
        module.register_forward_pre_hook(lambda *_, part=part: clock.mark(part))
        for module, part in before
    ]
    handles += [
        module.register_forward_hook(lambda *_, part=part: clock.mark(part))
        for module, part in after
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _costs(model: StepSegmenter, output: Segmentation) -> dict[str, Part]:
    """MACs and tokens by part, means per image; LayerNorms belong to their block or head."""
    parts = count_macs(model, output)
    first = output.heads[0].tokens_per_image
    before = [norm_before(model.backbone, tokens) for tokens in first]
    embedding = _mean(parts["embedding"]) + _mean(before)
    costs: dict[str, Part] = {
        "policy": {"gmacs": _mean(parts["policy"]), "tokens": None},
        "merge and embed": {"gmacs": embedding, "tokens": None},
    }
    vit, start = model.backbone, 0
    for head in output.heads:
        tokens = head.tokens_per_image
        for index in range(start + 1, head.block + 1):
            extra = queries(model, index)
            in_block = [
                block_macs(vit, t, queries=extra) + block_norms(vit, t, queries=extra)
                for t in tokens
            ]
            part: Part = {"gmacs": _mean(in_block), "tokens": sum(tokens) / len(tokens)}
            costs[f"block_{index}"] = part
        is_decoder = head is output.heads[-1]
        module, cells = model.head(head.block), prod(output.layout.grid)
        in_head = _mean([sum(head_cost(vit, module, t, cells)) for t in tokens])
        name = "decoder" if is_decoder else f"exit_head_{head.block}"
        costs[name] = {"gmacs": in_head, "tokens": part["tokens"]}
        start = head.block
    return costs


def _mean(macs: Sequence[int]) -> float:
    return sum(macs) / len(macs) / 1e9
