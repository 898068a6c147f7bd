"""The benchmark: several systems on the same weights, images and machine, in turns.

Realisation is the share of the saved operations that is saved time:

    realisation = (dense time / reduced time) / (dense MACs / reduced MACs)

with both systems timed in one run. 1 means that every saved operation is saved time.

Not here: how systems are configured (`stepseg.cli.benchmark`), the clock (`stepseg.profile.speed`),
where the time goes within one system (`stepseg.profile.parts`).
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from stepseg.macs import count_macs, macs_of_stages, policy_macs, total_macs
from stepseg.model import Reduction, StepSegmenter
from stepseg.ops.attention import ragged_backend
from stepseg.packed import Passed
from stepseg.profile.break_even import exit_shares
from stepseg.profile.peak import matmul_peak
from stepseg.profile.speed import Timing, in_turn, speedup, time_interleaved
from stepseg.profile.tokens import stage_tokens
from stepseg.telling import counted

Row = dict[str, Any]

BASELINE = "none"
"""The name of the dense system."""
CLOCKS = {
    True: "images on the device to their maps of class ids on the device",
    False: "images on the device to class scores on the patch grid; no map is made",
}
"""What is timed, with and without the map."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """How systems are timed."""

    warmup: int = 2
    """Passes over the images that are not clocked."""
    iterations: int = 10
    """Clocked calls of every system, at least; rounded up to whole passes."""
    with_map: bool = True
    """Whether the map of class ids in pixels is made."""


def prescribed_cost(model: StepSegmenter, reduction: Reduction, image_size: tuple[int, int]) -> Row:
    """Tokens and MACs of a reduction with prescribed counts, without running anything.

    The model may lie on the meta device.
    """
    cell = reduction.cell or model.patch_size
    grid = (-(-image_size[0] // cell), -(-image_size[1] // cell))
    if reduction.cell is not None:
        image_size = (grid[0] * model.patch_size, grid[1] * model.patch_size)
    tokens = stage_tokens(reduction, grid)
    blocks = (*reduction.exit_blocks, model.backbone.depth)
    asks = reduction.merge is not None and reduction.merge.asks_policy
    policy = policy_macs(model.policy, image_size) if asks else 0
    inside: dict[int, Passed] = {}
    if reduction.inside is not None:
        inside = {p.block: p for p in reduction.inside.foresee(model.backbone, tokens[0])}
        tokens = (inside[model.backbone.depth].after[0],)
    stages = list(zip(blocks, tokens, strict=True))
    on_grid = grid[0] * grid[1]
    cells = on_grid if inside else None
    parts = {"policy": policy} | macs_of_stages(model, stages, cells, inside, on_grid)
    counts = [[number] for number in tokens]
    return _cost(model, reduction, {p: [macs] for p, macs in parts.items()}, counts)


@torch.inference_mode()
def measured_cost(model: StepSegmenter, reduction: Reduction, batches: Sequence[Tensor]) -> Row:
    """Tokens and MACs of a reduction over batches ``[B, 3, H, W]``, by running it once on each."""
    parts: dict[str, list[int]] = {}
    stages: list[list[int]] = [[] for _ in range(len(reduction.exit_blocks) + 1)]
    for images_B3HW in batches:
        output = model(images_B3HW, reduction=reduction)
        for part, macs in count_macs(model, output).items():
            parts.setdefault(part, []).extend(macs)
        for stage, numbers in zip(stages, output.tokens_per_stage, strict=True):
            stage.extend(numbers)
    return _cost(model, reduction, parts, stages)


def benchmark(
    model: StepSegmenter,
    reductions: Mapping[str, Reduction],
    batches: Sequence[Tensor],
    rounds: Rounds,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Row]:
    """Count and time all systems, in turns, each on the same batch within a round.

    Args:
        model: ready for inference, where the batches are.
        reductions: by name; all are compared with the dense one, `BASELINE`, if it is there.
        batches: float images of one size, ``[B, 3, H, W]`` each.
        rounds: how many, and what is timed.
        progress: told the number of finished rounds and of all rounds.

    Returns:
        One row of figures per system. Latencies are per batch.

    """
    rows = {name: measured_cost(model, r, batches) for name, r in reductions.items()}
    passes = -(-rounds.iterations // len(batches))
    timings = time_interleaved(
        {
            name: in_turn(partial(_segment, model, reduction, rounds.with_map), batches)
            for name, reduction in reductions.items()
        },
        warmup=rounds.warmup * len(batches),
        iterations=passes * len(batches),
        device=batches[0].device,
        progress=progress,
    )
    for name, row in rows.items():
        row |= _speed(timings[name], len(batches[0]))
        if BASELINE in rows:
            both = (timings[BASELINE], timings[name], len(batches))
            row["speedup"], row["speedup_cpu"] = speedup(*both), speedup(*both, clock="cpu")
    compare_costs(rows)
    return rows


def compare_costs(rows: Mapping[str, Row]) -> None:
    """Add `macs_ratio` and, where a speed-up is known, `realisation` to all rows.

    Both come in two kinds: by wall clock, and by CPU time (`_cpu`).
    """
    for row in rows.values():
        dense = rows[BASELINE]["gmacs"] if BASELINE in rows else None
        row["macs_ratio"] = dense / row["gmacs"] if dense else None
        for kind in ("", "_cpu"):
            gain = row.setdefault(f"speedup{kind}", None)
            row[f"realisation{kind}"] = gain / row["macs_ratio"] if gain else None


def environment(device: torch.device, model: StepSegmenter, dtype: torch.dtype) -> Row:
    """Where figures were taken: device and its fastest product, threads, versions, backends."""
    on_cuda = device.type == "cuda"
    return {
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if on_cuda else cpu_name(),
        "threads": torch.get_num_threads(),
        "matmul_gmacs_per_s": matmul_peak(device, dtype) / 1e9,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_cuda else None,
        "attention_backend": {
            "uniform": "dense",
            "ragged": ragged_backend(device, dtype, model.backbone.numbers.head_dim),
        },
    }


def _segment(
    model: StepSegmenter, reduction: Reduction, with_map: bool, images_B3HW: Tensor
) -> Tensor:
    """What is timed."""
    output = model(images_B3HW, reduction=reduction)
    return output.prediction() if with_map else output.cell_scores()


def _cost(
    model: StepSegmenter,
    reduction: Reduction,
    parts: dict[str, list[int]],
    stages: Sequence[Sequence[int]],
) -> Row:
    """Means over images, and of a reduction with exits whether they pay."""
    totals, tokens = total_macs(parts), [fmean(numbers) for numbers in stages]
    exits = exit_shares(model, reduction.exit_blocks, tokens)
    return {
        "gmacs": fmean(totals) / 1e9,
        "gmacs_std": pstdev(totals) / 1e9,
        "gmacs_max": max(totals) / 1e9,
        "gmacs_by_part": {part: fmean(macs) / 1e9 for part, macs in parts.items()},
        "tokens_per_stage": tokens,
        **({"exits": exits} if exits else {}),
    }


def _speed(timing: Timing, batch_size: int) -> Row:
    return {
        "latency_ms_p50": timing.p50_ms,
        "latency_ms_p95": timing.p95_ms,
        "device_ms_p50": timing.device_p50_ms,
        "cpu_ms_p50": timing.cpu_p50_ms,
        "images_per_s": timing.images_per_s(batch_size),
        "peak_memory_mb": timing.peak_memory_mb,
    }


def cpu_name() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {counted(torch.get_num_threads(), 'thread')}"
