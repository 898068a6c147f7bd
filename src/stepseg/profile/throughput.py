"""Throughput: images per second with several batches in flight.

Latency waits for every batch, and a device whose host waits is idle. Who has more batches at hand
keeps several on their way, so that one is computed while the host decides how another goes on:
by a runtime that can do so itself, else by threads that have a stream each. On a CPU, where there
are no streams, the threads share its cores.

Not here: latency (`stepseg.profile.speed`).
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import count
from statistics import median
from typing import Any

import torch
from torch import Tensor

from stepseg.model import Reduction, Segmentation, StepSegmenter
from stepseg.profile.speed import clock


def throughput(
    model: StepSegmenter,
    reductions: Mapping[str, Reduction],
    batches: Sequence[Tensor],
    *,
    in_flight: int,
    rounds: int = 5,
    with_map: bool = True,
) -> dict[str, float]:
    """Images per second of every system, the median over rounds, in turns.

    Args:
        model: ready for inference, where the batches are.
        reductions: by name.
        batches: float images of one size, ``[B, 3, H, W]`` each; all of them, and at least four
            times as many as are in flight, make a round.
        in_flight: batches at a time.
        rounds: that are clocked, after one that is not.
        with_map: whether the map of class ids in pixels is made.

    """
    passes = -(-4 * in_flight // len(batches))
    queue = [batch for _ in range(passes) for batch in batches]
    images = sum(len(batch) for batch in queue)
    seconds: dict[str, list[float]] = {name: [] for name in reductions}

    def finish(output: Segmentation) -> object:
        return output.prediction() if with_map else output.cell_scores()

    for round_ in range(1 + rounds):
        for name, reduction in reductions.items():
            call = partial(_fly, model, reduction, queue, in_flight, finish)
            reading = clock(call, batches[0].device)
            if round_:
                seconds[name].append(reading.wall)
    return {name: images / median(list_) for name, list_ in seconds.items()}


@torch.inference_mode()
def _fly(
    model: StepSegmenter,
    reduction: Reduction,
    queue: Sequence[Tensor],
    in_flight: int,
    finish: Callable[[Segmentation], object],
) -> None:
    forward: Any = model.forward
    if hasattr(forward, "in_flight"):  # `stepseg.runtime.graphs`
        for output in forward.in_flight(queue, reduction, in_flight):
            finish(output)
    elif in_flight == 1:
        for batch in queue:
            finish(model(batch, reduction=reduction))
    else:
        _by_threads(lambda batch: finish(model(batch, reduction=reduction)), queue, in_flight)


def _by_threads(call: Callable[[Tensor], object], queue: Sequence[Tensor], threads: int) -> None:
    """Whoever is free takes the next batch."""
    numbers, lock, device = count(), threading.Lock(), queue[0].device

    def work() -> None:
        on_cuda = device.type == "cuda"
        stream = torch.cuda.Stream(device) if on_cuda else None
        with torch.cuda.stream(stream) if stream else nullcontext(), torch.inference_mode():
            while True:
                with lock:
                    number = next(numbers)
                if number >= len(queue):
                    break
                call(queue[number])
            if stream is not None:
                stream.synchronize()

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()
