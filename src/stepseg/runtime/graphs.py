"""CUDA graphs in place of `StepSegmenter.forward` (`stepseg.runtime.captured`).

Every new kind of batch (number and size of images, reduction) is recorded at its first use, and its
first result is compared with the model as it is: what differs, or cannot be recorded, is left to
the model for good, with one warning.

What is not captured: reductions that act inside the blocks, decoders that read several depths or
answer for all tokens at once, merging by labels, several reductions at once, autocast. They go
through the model as ever.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, cuda, nn

from stepseg.dcts.policy import OraclePolicy
from stepseg.heads.exit import BudgetExit, ConfidenceExit, RandomExit, UniformExit
from stepseg.model import StepSegmenter
from stepseg.ops.first_use import FirstUse
from stepseg.reduction import Reduction
from stepseg.runtime.agreement import differ
from stepseg.runtime.captured import Captured, Steps
from stepseg.runtime.lane import Lane
from stepseg.segmentation import Segmentation
from stepseg.telling import tell

MOST_KINDS = 4
"""Kinds of batches that a lane holds tensors and graphs for; the least recently used leave."""


@dataclass
class _Run:
    """A batch on its way: what the host waits for before it goes on; None: for nothing more."""

    steps: Steps
    event: cuda.Event | None

    @classmethod
    def of(cls, steps: Steps) -> "_Run":
        return cls(steps, next(steps))

    def go_on(self) -> None:
        """Wait, and queue what comes next."""
        if self.event is not None:
            self.event.synchronize()
            self.event = next(self.steps)

    def result(self) -> Segmentation:
        """What comes out; waits as often as need be."""
        while self.event is not None:
            self.go_on()
        try:
            next(self.steps)
        except StopIteration as end:
            return end.value
        raise AssertionError("the result comes after None")


def _first_of(running: deque[_Run]) -> Segmentation:
    """Finish the first; the others go on meanwhile."""
    while running[0].event is not None:
        for run in running:
            run.go_on()
    return running.popleft().result()


class Graphs:
    """Stands in for `StepSegmenter.forward`; one caller at a time.

    Args:
        model: prepared for inference, on a CUDA device; it answers where graphs do not.
        underneath: what is recorded: makes of the model one with the same weights, carried out in
            whatever way.

    """

    def __init__(
        self, model: StepSegmenter, underneath: Callable[[StepSegmenter], StepSegmenter]
    ) -> None:
        self.model, self.underneath = model, underneath
        self._told: set[str] = set()
        self._weights: list[nn.Parameter] = []
        self._seen: list[tuple[int, int]] | None = None

    def __call__(
        self,
        images_B3HW: Tensor,
        labels_BHW: Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Segmentation:
        """As the method."""
        reduction = reduction or self.model.reduction
        if not self._takes(images_B3HW, reduction):
            return StepSegmenter.forward(self.model, images_B3HW, labels_BHW, reduction)
        return self._first_use(_kind(images_B3HW, reduction), images_B3HW, reduction)

    @torch.no_grad()
    def in_flight(
        self, batches: Iterable[Tensor], reduction: Reduction | None = None, lanes: int = 2
    ) -> Iterator[Segmentation]:
        """Segment batches with so many on their way at a time, in their order.

        While the host waits for the numbers of one batch the device works on another.
        """
        reduction, running, count = reduction or self.model.reduction, deque[_Run](), 0
        for images_B3HW in batches:
            go = self._takes(images_B3HW, reduction)
            go = go and self._first_use.verdicts.get(_kind(images_B3HW, reduction), False)
            while running and (len(running) == lanes or not go):
                yield _first_of(running)
            if go:
                running.append(_Run.of(self._steps(images_B3HW, reduction, count % lanes)))
                count += 1
            else:
                yield self(images_B3HW, None, reduction)
        while running:
            yield _first_of(running)

    def _takes(self, images_B3HW: Tensor, reduction: Reduction) -> bool:
        """Whether a batch is for graphs; says once why not."""
        if self.model.training or torch.is_grad_enabled():
            return False
        if self._versions() != self._seen:
            self._begin()
        if False in self._first_use.verdicts.values():
            return False  # and has been warned of
        self.model.check(reduction)
        self.model.check_images(images_B3HW)
        reason = why_not(self.model, reduction)
        if torch.is_autocast_enabled(images_B3HW.device.type):
            reason = "autocast makes copies of the weights in each run"
        if reason is None:
            return True
        if reason not in self._told:
            self._told.add(reason)
            tell(f"runtime=graphs: {reduction.label} runs without graphs: {reason}")
        return False

    def _begin(self) -> None:
        """As new: graphs know the addresses of the weights, and what was computed from them."""
        self._weights = list(self.model.parameters())
        self._seen = self._versions()
        self._recorded: StepSegmenter | None = None
        self._lanes: list[Lane] = []
        self._captured: dict[tuple[Any, ...], Captured] = {}  # the least recently used first
        self._first_use = FirstUse("runtime=graphs", self._replay, self._plain, self._differ)

    def _plain(self, images_B3HW: Tensor, reduction: Reduction) -> Segmentation:
        return StepSegmenter.forward(self.model, images_B3HW, None, reduction)

    def _replay(self, images_B3HW: Tensor, reduction: Reduction) -> Segmentation:
        try:
            return _Run.of(self._steps(images_B3HW, reduction, 0)).result()
        except torch.OutOfMemoryError as error:  # without graphs there may be enough
            self._captured.clear()
            self._lanes.clear()
            raise RuntimeError("graphs of these batches do not fit into the memory") from error

    def _differ(self, ours: Segmentation, expected: Segmentation) -> str | None:
        return differ(ours, expected, self._weights[0].dtype)

    def _steps(self, images_B3HW: Tensor, reduction: Reduction, lane: int) -> Steps:
        key = (lane, images_B3HW.shape, images_B3HW.dtype, reduction)
        captured = self._captured.pop(key, None)
        if captured is None:
            captured = self._capture(images_B3HW, reduction, lane)
        self._captured[key] = captured
        return captured.walk(images_B3HW)

    def _capture(self, images_B3HW: Tensor, reduction: Reduction, lane: int) -> Captured:
        while len(self._lanes) <= lane:
            self._lanes.append(Lane(images_B3HW.device))
        of_lane = [key for key in self._captured if key[0] == lane]
        if len(of_lane) >= MOST_KINDS:
            self._lanes[lane].forget(self._captured.pop(of_lane[0]))
        if self._recorded is None:
            self._recorded = self.underneath(self.model)
        return Captured(self._recorded, reduction, self._lanes[lane], images_B3HW)

    def _versions(self) -> list[tuple[int, int]]:
        """Where the weights are, and how often they were changed there."""
        return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in self._weights]

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which record their own model."""
        return {"model": self.model, "underneath": self.underneath}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def why_not(model: StepSegmenter, reduction: Reduction) -> str | None:
    """What about a reduction cannot be captured, in words; None: nothing."""
    rule, exit_ = reduction.merge, reduction.exit
    if reduction.inside is not None:
        return f"{reduction.inside.name} acts inside the blocks"
    if model.decoder.among_all:
        return "its decoder answers for all tokens at once"
    if model.decoder.earlier_blocks:
        return "its decoder reads several depths (heads.cascade)"
    if rule is not None and rule.asks_policy and isinstance(model.policy, OraclePolicy):
        return "the oracle policy merges by labels"
    if isinstance(exit_, RandomExit | UniformExit) and exit_.leaving is not None:
        return "its counts are those of another run"
    if not isinstance(exit_, ConfidenceExit | BudgetExit | RandomExit | UniformExit | None):
        return f"nothing is known of the exit rule {type(exit_).__name__}"
    return None


def _kind(images_B3HW: Tensor, reduction: Reduction) -> str:
    """What is compared once, in words for the warning."""
    batch, _, height, width = images_B3HW.shape
    where = f"{images_B3HW.dtype} on {images_B3HW.device}".removeprefix("torch.")
    return f"{batch} x {height} x {width} px, {reduction.label}, {where}"
