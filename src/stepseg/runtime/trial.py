"""`runtime=auto` on a GPU: whichever runtime is the fastest on the user's first batch."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from stepseg.model import StepSegmenter
from stepseg.segmentation import Segmentation
from stepseg.telling import tell

WARM_UPS, TIMED = 2, 5
"""Calls of every runtime; the first ones compile and record."""


class Trial:
    """Stands in for `StepSegmenter.forward` until a runtime is chosen, and then is that runtime.

    Args:
        model: prepared for inference.
        runtimes: by name, what makes of a model one with the same weights that is carried out so;
            ``eager`` first, whose errors are those of the images and not of a runtime.

    """

    def __init__(
        self,
        model: StepSegmenter,
        runtimes: Mapping[str, Callable[[StepSegmenter], StepSegmenter]],
    ) -> None:
        self.model, self.runtimes = model, runtimes
        self.chosen: StepSegmenter | None = None

    def __call__(self, images_B3HW: Tensor, *others: Any, **named: Any) -> Segmentation:
        """As the method."""
        if self.model.training or torch.is_grad_enabled():
            return StepSegmenter.forward(self.model, images_B3HW, *others, **named)
        if self.chosen is None:
            self.chosen = self._choose(images_B3HW, others, named)
        return self.chosen(images_B3HW, *others, **named)

    @property
    def in_flight(self) -> Callable[..., Iterator[Segmentation]]:
        """Of the chosen runtime; none has it before there is one, nor has every runtime."""
        forward: Any = getattr(self.chosen, "forward", None)
        return forward.in_flight

    def _choose(self, images_B3HW: Tensor, others: Any, named: Any) -> StepSegmenter:
        made, seconds, said = {}, {}, []
        for name, make in self.runtimes.items():
            try:
                made[name] = make(self.model)
                seconds[name] = _time(partial(made[name], images_B3HW, *others, **named))
                said.append(f"{name} {1000 * seconds[name]:.1f} ms")
            except Exception as error:
                if name == "eager":
                    raise
                said.append(f"{name} fails ({type(error).__name__})")
        best = min(seconds, key=seconds.__getitem__)
        chosen = made[best]
        made.clear()
        gc.collect()  # a runtime and its model refer to each other, and graphs hold memory
        shape = " x ".join(map(str, images_B3HW.shape))
        tell(f"runtime=auto takes {best}: on the first batch, {shape}, {', '.join(said)}")
        return chosen


def _time(call: Callable[[], Segmentation]) -> float:
    """Median of the seconds until the scores are there."""
    seconds = []
    for _ in range(WARM_UPS + TIMED):
        start = time.perf_counter()
        float(call().cell_scores().sum())  # host sync: until then all is only queued
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARM_UPS:])
