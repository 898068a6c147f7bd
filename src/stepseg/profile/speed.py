"""Timing of several systems side by side, in turns, so that drift of the machine cancels.

A shared machine changes its speed by more than systems differ: whoever measures A for a minute and
then B for a minute compares minutes. Here the calls alternate, A B C A B C, and ratios are formed
within each round before their median is taken.

    timings = time_interleaved({"dense": run_dense, "step": run_step}, iterations=20)
    timings["step"].p50_ms, speedup(timings["dense"], timings["step"])

Two clocks: wall clock around a call and a wait for the device (always), and CUDA events around the
work that the call queued (on CUDA only). Not here: what is run, and what its time is worth
(`stepseg.profile.benchmark`).
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from stepseg.profile.memory import peak_memory_mb


@dataclass(frozen=True, slots=True)
class Timing:
    """The timed calls of one system."""

    seconds: tuple[float, ...]
    """Wall clock of every call, in order, the wait for the device included."""
    device_seconds: tuple[float, ...] | None = None
    """The same calls by CUDA events; None off CUDA."""
    peak_memory_mb: float | None = None
    """See `stepseg.profile.memory`; None if not asked for."""

    @property
    def p50_ms(self) -> float:
        """Median in milliseconds."""
        return 1000 * median(self.seconds)

    @property
    def p95_ms(self) -> float:
        """95th percentile in milliseconds."""
        return 1000 * percentile(self.seconds, 95)

    @property
    def device_p50_ms(self) -> float | None:
        """Median by CUDA events in milliseconds."""
        return None if self.device_seconds is None else 1000 * median(self.device_seconds)

    def images_per_s(self, batch_size: int) -> float:
        """Throughput at the median."""
        return batch_size / median(self.seconds)


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 2,
    iterations: int = 10,
    device: torch.device | str = "cpu",
    memory: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Timing]:
    """Call everything once per round, in the given order, and clock each call.

    Gradients are off. What the calls do once (caches, compilation, choice of kernels) belongs into
    the warm-up.

    Args:
        calls: by name; they take no arguments and their results are dropped.
        warmup: rounds that are not clocked.
        iterations: rounds that are.
        device: where the calls queue work.
        memory: also measure peak memory, in one more round after the clocked ones.
        progress: told the number of finished rounds and of all rounds.

    Returns:
        One `Timing` per name, in the given order.

    """
    if not calls or warmup < 0 or iterations < 1:
        raise ValueError(
            f"timing needs something to call, warmup >= 0 and iterations >= 1, got {len(calls)} "
            f"calls, warmup={warmup} and iterations={iterations}"
        )
    device = torch.device(device)
    clocked: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    was_collecting = gc.isenabled()
    with torch.no_grad():
        try:
            for done in range(warmup + iterations):
                gc.collect()  # between rounds rather than within a call
                gc.disable()
                for name, call in calls.items():
                    clocked[name].append(_clock(call, device))
                if progress is not None:
                    progress(done + 1, warmup + iterations)
        finally:
            if was_collecting:
                gc.enable()
        peaks = {
            name: peak_memory_mb(call, device) if memory else None for name, call in calls.items()
        }
    on_cuda = device.type == "cuda"
    return {
        name: Timing(
            seconds=tuple(wall for wall, _ in pairs[warmup:]),
            device_seconds=tuple(events for _, events in pairs[warmup:]) if on_cuda else None,
            peak_memory_mb=peaks[name],
        )
        for name, pairs in clocked.items()
    }


def speedup(baseline: Timing, other: Timing, group: int = 1) -> float:
    """How many times faster `other` is: the median over rounds of the ratio within a round.

    Args:
        baseline: timed together with `other`.
        other: likewise.
        group: consecutive calls that make up one round, when calls go through a set of inputs.

    """
    rounds = len(baseline.seconds) // group
    if rounds == 0 or len(baseline.seconds) != len(other.seconds):
        raise ValueError(
            f"a speed-up needs the same rounds of both, at least one of {group} call(s); got "
            f"{len(baseline.seconds)} and {len(other.seconds)} calls"
        )
    parts = [slice(i * group, (i + 1) * group) for i in range(rounds)]
    return median(sum(baseline.seconds[part]) / sum(other.seconds[part]) for part in parts)


def percentile(values: tuple[float, ...], percent: float) -> float:
    """Percentile with linear interpolation between the neighbours, as numpy's default."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _clock(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds of one call by wall clock and, on CUDA, by events (0 elsewhere)."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        if device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - start, 0.0
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        start = time.perf_counter()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return time.perf_counter() - start, begin.elapsed_time(end) / 1000
