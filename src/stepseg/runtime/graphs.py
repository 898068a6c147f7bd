"""CUDA graphs in place of `StepSegmenter.forward` (`stepseg.runtime.captured`).

Every new kind of batch (number and size of images, reduction) and every new bucket of it is
recorded at its first use, and a result for which something was recorded is compared with that of
the model as it is: what differs, or cannot be recorded, is left to the model for good, with one
warning. That costs a run of the model beside a recording, which takes three of what it records.

What is not captured: reductions that act inside the blocks, decoders that read several depths or
answer for all tokens at once, merging by labels, several reductions at once, autocast. They go
through the model as ever.
"""

import copy
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Any

import torch
from torch import Tensor, cuda, nn

from stepseg.dcts.policy import OraclePolicy
from stepseg.heads.exit import BudgetExit, RandomExit, ThresholdExit, UniformExit
from stepseg.model import StepSegmenter
from stepseg.reduction import Reduction
from stepseg.runtime.agreement import Rounding, differ
from stepseg.runtime.captured import Captured, Recorded, Steps
from stepseg.runtime.lane import Lane
from stepseg.segmentation import Segmentation
from stepseg.telling import tell

MOST_KINDS = 16
"""Kinds of batches that a lane holds tensors and graphs for; the least recently used leave. More
than systems that a benchmark times in turns, or all would be recorded in every round."""
MEASURED = 4
"""Images of a kind on which rounding is measured."""


class _Run:
    """A batch on its way.

    Args:
        images_B3HW: of the caller; nobody changes them meanwhile.

    """

    def __init__(self, steps: Steps, images_B3HW: Tensor) -> None:
        self.images_B3HW, self._steps = images_B3HW, steps
        self._failed: Exception | None = None
        self.event: cuda.Event | None = None
        """What the host waits for before it goes on; None: for nothing more."""
        self._go_on()

    def go_on(self) -> None:
        """Wait, and queue what comes next."""
        if self.event is not None:
            self._go_on()

    def result(self) -> Recorded:
        """What comes out; waits as often as need be."""
        while self.event is not None:
            self._go_on()
        if self._failed is not None:
            raise self._failed
        try:
            next(self._steps)
        except StopIteration as end:
            return end.value
        raise AssertionError("the result comes after None")

    def drop(self) -> None:
        """Hold no tensor any more but the images; an error holds those of where it came from."""
        self._steps.close()
        self._failed = self.event = None

    def _go_on(self) -> None:
        try:
            if self.event is not None:
                self.event.synchronize()
            self.event = next(self._steps)
        except Exception as error:  # of this batch alone: others are on their way
            self._failed, self.event = error, None


class Graphs:
    """Stands in for `StepSegmenter.forward`; several callers take turns.

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
        self._lock = Lock()  # what graphs read and write is there once
        self._weights: list[nn.Parameter] = []
        self._seen: list[tuple[int, int]] | None = None
        self._lanes: list[Lane] = []
        self._captured: dict[tuple[Any, ...], Captured] = {}  # the least recently used first
        self._given_up = False

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
        with self._lock:
            run = _Run(self._steps(images_B3HW, reduction, 0), images_B3HW)
            return self._proved(run, reduction)

    @torch.no_grad()
    def in_flight(
        self, batches: Iterable[Tensor], reduction: Reduction | None = None, lanes: int = 2
    ) -> Iterator[Segmentation]:
        """Segment batches with so many on their way at a time, in their order.

        While the host waits for the numbers of one batch the device works on another.
        """
        reduction, running, count = reduction or self.model.reduction, deque[_Run](), 0
        for images_B3HW in batches:
            takes = self._takes(images_B3HW, reduction)
            while running and (len(running) == lanes or not takes):
                yield self._first_of(running, reduction)
            if not takes or self._given_up:
                yield self._plain(images_B3HW, reduction)
                continue
            steps = self._steps(images_B3HW, reduction, count % lanes)
            running.append(_Run(steps, images_B3HW))
            count += 1
        while running:
            yield self._first_of(running, reduction)

    def _first_of(self, running: deque[_Run], reduction: Reduction) -> Segmentation:
        """Finish the first; the others go on meanwhile."""
        while running[0].event is not None:
            for run in running:
                run.go_on()
        return self._proved(running.popleft(), reduction)

    def _proved(self, run: _Run, reduction: Reduction) -> Segmentation:
        """The result of a run, or of the model where graphs turn out to be wrong."""
        images_B3HW = run.images_B3HW
        if not self._given_up:
            try:
                result, recorded = run.result()
                reason = self._differ(result, images_B3HW, reduction) if recorded else None
                if reason is None:
                    return result
            except torch.OutOfMemoryError:  # without graphs there may be enough
                reason = "graphs of these batches do not fit into the memory"
            except Exception as error:
                reason = "; after ".join(map(_first_line, _causes(error)))
            self._given_up = True
            run.drop()
            self._let_go()
            kind = _kind(images_B3HW, reduction)
            warnings.warn(f"runtime=graphs is not used for {kind}: {reason}", stacklevel=4)
        return self._plain(images_B3HW, reduction)

    def _takes(self, images_B3HW: Tensor, reduction: Reduction) -> bool:
        """Whether a batch is for graphs; says once why not."""
        if self.model.training or torch.is_grad_enabled():
            return False
        if self._versions() != self._seen:
            self._begin()
        if self._given_up:
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
        self._let_go()
        self._given_up = False
        self._rounding: dict[str, Rounding] = {}

    def _let_go(self) -> None:
        """Free what was recorded, at once: by itself it would wait for the garbage collector."""
        for lane in self._lanes:
            lane.close()
        self._captured.clear()
        self._lanes.clear()
        cuda.empty_cache()

    def _plain(self, images_B3HW: Tensor, reduction: Reduction) -> Segmentation:
        return StepSegmenter.forward(self.model, images_B3HW, None, reduction)

    def _differ(self, ours: Segmentation, images_B3HW: Tensor, reduction: Reduction) -> str | None:
        """How a result differs from the model's, in words."""
        kind = _kind(images_B3HW, reduction)
        if kind not in self._rounding:
            self._rounding[kind] = self._measure(images_B3HW[:MEASURED], reduction)
        return differ(ours, self._plain(images_B3HW, reduction), self._rounding[kind])

    def _measure(self, images_B3HW: Tensor, reduction: Reduction) -> Rounding:
        """What rounding changes in the model's results for these images."""
        dtype = self._weights[0].dtype
        if dtype.itemsize >= 4:
            return Rounding()
        exact = copy.deepcopy(self.model).float()
        with_exact = StepSegmenter.forward(exact, images_B3HW.float(), None, reduction)
        return Rounding.between(self._plain(images_B3HW, reduction), with_exact, dtype)

    def _steps(self, images_B3HW: Tensor, reduction: Reduction, lane: int) -> Steps:
        """What a batch does; a generator, so that all that fails does so in its run."""
        key = (lane, images_B3HW.shape, images_B3HW.dtype, reduction)
        captured = self._captured.pop(key, None)
        if captured is None:
            captured = self._capture(images_B3HW, reduction, lane)
        self._captured[key] = captured
        return (yield from captured.walk(images_B3HW))

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
    if not isinstance(exit_, ThresholdExit | BudgetExit | RandomExit | UniformExit | None):
        return f"nothing is known of the exit rule {type(exit_).__name__}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those during which it came up: that of a recording hides what failed in it."""
    while error is not None:
        yield error
        error = error.__context__


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _kind(images_B3HW: Tensor, reduction: Reduction) -> str:
    """A batch in words, for the warning."""
    batch, _, height, width = images_B3HW.shape
    where = f"{images_B3HW.dtype} on {images_B3HW.device}".removeprefix("torch.")
    return f"{batch} x {height} x {width} px, {reduction.label}, {where}"
