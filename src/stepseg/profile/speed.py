"""Timing of several systems side by side, in turns, so that drift of the machine cancels.

A shared machine changes its speed by more than systems differ: whoever measures A for a minute and
then B for a minute compares minutes. Here the calls alternate, A B C A B C, and ratios are formed
within each round before their median is taken.

    timings = time_interleaved({"dense": run_dense, "step": run_step}, iterations=20)
    timings["step"].p50_ms, speedup(timings["dense"], timings["step"])

Three clocks: wall clock around a call and a wait for the device; CUDA events around the work that
the call queued (on CUDA only); and the time that the process spent on CPUs, which does not grow
while others use them: with one thread it compares systems even on a busy machine.

Not here: what is run, and what its time is worth (`stepseg.profile.benchmark`).
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from stepseg.profile.memory import peak_memory_mb

Input = TypeVar("Input")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timed calls of one system."""

    seconds: tuple[float, ...]
    """Wall clock of every call, in order, the wait for the device included."""
    device_seconds: tuple[float, ...] | None = None
    """The same calls by CUDA events; None off CUDA."""
    cpu_seconds: tuple[float, ...] | None = None
    """The same calls by CPU time, summed over threads."""
    peak_memory_mb: float | None = None
    """See `stepseg.profile.memory`; None if not asked for."""

    @property
    def p50_ms(self) -> float:
        """Median in milliseconds."""
        return 1000 * median(self.seconds)

    @property
    def p95_ms(self) -> float:
        """95th percentile in milliseconds."""
        return 1000 * float(np.percentile(self.seconds, 95))

    @property
    def device_p50_ms(self) -> float | None:
        """Median by CUDA events in milliseconds."""
        return None if self.device_seconds is None else 1000 * median(self.device_seconds)

    @property
    def cpu_p50_ms(self) -> float | None:
        """Median of the CPU time in milliseconds."""
        return None if self.cpu_seconds is None else 1000 * median(self.cpu_seconds)

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
    clocked: dict[str, list[Reading]] = {name: [] for name in calls}
    _settle_malloc()
    with torch.no_grad():
        with _collecting_between_rounds() as collect:
            for done in range(warmup + iterations):
                collect()
                for name, call in calls.items():
                    clocked[name].append(clock(call, device))
                if progress is not None:
                    progress(done + 1, warmup + iterations)
        peaks = {
            name: peak_memory_mb(call, device) if memory else None for name, call in calls.items()
        }
    on_cuda = device.type == "cuda"
    return {
        name: Timing(
            seconds=tuple(reading.wall for reading in readings[warmup:]),
            device_seconds=tuple(r.events for r in readings[warmup:]) if on_cuda else None,
            cpu_seconds=tuple(reading.cpu for reading in readings[warmup:]),
            peak_memory_mb=peaks[name],
        )
        for name, readings in clocked.items()
    }


def speedup(baseline: Timing, other: Timing, group: int = 1, clock: str = "wall") -> float:
    """How many times faster `other` is: the median over rounds of the ratio within a round.

    Args:
        baseline: timed together with `other`.
        other: likewise.
        group: consecutive calls that make up one round, when calls go through a set of inputs.
        clock: ``wall`` or ``cpu``.

    """
    ours, theirs = (t.seconds if clock == "wall" else t.cpu_seconds for t in (other, baseline))
    if not ours or not theirs or len(ours) != len(theirs) or len(ours) < group:
        raise ValueError(
            f"a speed-up needs the same rounds of both, at least one of {group} call(s); got "
            f"{len(theirs or ())} and {len(ours or ())} calls by {clock} clock"
        )
    parts = [slice(first, first + group) for first in range(0, len(ours) - group + 1, group)]
    return median(sum(theirs[part]) / sum(ours[part]) for part in parts)


def in_turn(run: Callable[[Input], object], inputs: Iterable[Input]) -> Callable[[], object]:
    """A call that runs on the next input each time, from the first again after the last."""
    following = cycle(inputs)
    return torch.inference_mode()(lambda: run(next(following)))


def _settle_malloc() -> None:
    """Have freed memory kept on the host.

    glibc hands large blocks back, and every call faults them in again, until it has seen one freed
    that is nearly as large as it ever adapts to (32 MiB). Systems of many sizes would pay for that
    more than dense, and by what the process did before.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


@contextmanager
def _collecting_between_rounds() -> Iterator[Callable[[], object]]:
    """Garbage is collected when the yielded function is called, and never within a call.

    What lives already is set aside: walking all that was imported would take most of the time.
    """
    was_collecting = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if was_collecting:
            gc.enable()


class Reading(NamedTuple):
    """Seconds of one call by three clocks; events are 0 off CUDA."""

    wall: float
    cpu: float
    events: float


def clock(call: Callable[[], object], device: torch.device) -> Reading:
    """Clock one call, with the wait for what it queues."""
    if device.type != "cuda":
        start, cpu = time.perf_counter(), time.process_time()
        call()
        if device.type == "mps":
            torch.mps.synchronize()
        return Reading(time.perf_counter() - start, time.process_time() - cpu, 0.0)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        start, cpu = time.perf_counter(), time.process_time()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        return Reading(wall, cpu, begin.elapsed_time(end) / 1000)
