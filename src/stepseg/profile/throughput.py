"""Throughput: images per second with several batches in flight.

Latency waits for every batch, and a device whose host waits is idle. Who has more batches at hand
keeps several on their way, so that one is computed while the host decides how another goes on:
by a runtime that can do so itself, else by threads that have a stream each. On a CPU, where there
are no streams, the threads share its cores.

Not here: latency (`stepseg.profile.speed`).
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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

    with Crew(in_flight, batches[0].device) as crew:
        for round_ in range(1 + rounds):
            for name, reduction in reductions.items():
                call = partial(_fly, model, reduction, crew, finish, queue, all_try=not round_)
                reading = clock(call, batches[0].device)
                if round_:
                    seconds[name].append(reading.wall)
    return {name: images / median(list_) for name, list_ in seconds.items()}


class Crew:
    """Threads that take batches off a queue, each with a stream of its own.

    The same ones throughout: a new thread searches its convolutions anew, and a new stream starts
    without memory.

    Args:
        threads: how many.
        device: of the batches.

    """

    def __init__(self, threads: int, device: torch.device) -> None:
        self.threads, self.device = threads, device
        self._pool = ThreadPoolExecutor(threads)
        self._start = threading.Barrier(threads)
        self._own = threading.local()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def work(
        self, call: Callable[[Tensor], object], queue: Sequence[Tensor], *, all_try: bool = False
    ) -> None:
        """Whoever is free takes the next batch.

        Args:
            call: what is done with it.
            queue: the batches.
            all_try: before, everyone does it with the first one.

        """
        numbers, lock = count(), threading.Lock()

        def take() -> None:
            self._start.wait()  # or the first would be done before the last has begun
            with self._streaming() as stream, torch.inference_mode():
                if all_try:
                    call(queue[0])
                while True:
                    with lock:
                        number = next(numbers)
                    if number >= len(queue):
                        break
                    call(queue[number])
                if stream is not None:
                    stream.synchronize()

        for future in [self._pool.submit(take) for _ in range(self.threads)]:
            future.result()

    @contextmanager
    def _streaming(self) -> Iterator[Any]:
        """On the stream of this thread, where there are streams."""
        if self.device.type != "cuda":
            yield None
            return
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._own.stream):
            yield self._own.stream


@torch.inference_mode()
def _fly(
    model: StepSegmenter,
    reduction: Reduction,
    crew: Crew,
    finish: Callable[[Segmentation], object],
    queue: Sequence[Tensor],
    all_try: bool,
) -> None:
    forward: Any = model.forward
    if hasattr(forward, "in_flight"):  # `stepseg.runtime.graphs`
        for output in forward.in_flight(queue, reduction, crew.threads):
            finish(output)
    elif crew.threads == 1:
        for batch in queue:
            finish(model(batch, reduction=reduction))
    else:
        crew.work(lambda batch: finish(model(batch, reduction=reduction)), queue, all_try=all_try)
