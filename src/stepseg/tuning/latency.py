"""What a reduction takes in time on this device: a few are timed, the others follow from a fit.

Time is linear in what each part of the model computes, which rows tell and which is nearly linear
in the tokens of a stage, with a constant for every call and for every exit head: those wait for the
device and launch many small kernels. The fit guides the search; its choice is timed.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import nnls
from torch import Tensor

from stepseg.label_map import predict_map
from stepseg.model import StepSegmenter
from stepseg.model_config import ReductionConfig
from stepseg.profile.speed import Timing, in_turn, speedup, time_interleaved
from stepseg.protocol import Protocol
from stepseg.reduction import Reduction
from stepseg.tuning.search import Search, Tried

Row = Mapping[str, Any]
FITTED = (0.5, 0.2, 0.65, 0.8)
"""Strengths of the first family that are timed; of the others the first of these."""
CORRECTIONS = 2
NEAR = 0.02
"""Relative error of a timed choice at which the fit is good enough."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Times reductions one image at a time, in turns over the same images, map included."""

    model: StepSegmenter
    protocol: Protocol
    images: Sequence[Tensor]
    """uint8 ``[3, H, W]``, where the model is."""
    rounds: int = 3
    """Clocked passes over the images."""
    during: Callable[[], AbstractContextManager[Any]] = nullcontext
    """What is around them: the precision of the evaluation whose figures stand beside."""

    def times(self, reductions: Mapping[str, ReductionConfig]) -> dict[str, dict[str, float]]:
        """Milliseconds per image, and the speed-up over the first, by name.

        The median of the ratios within a round, times the first one's median: what the machine did
        meanwhile cancels.
        """
        calls = {name: self._call(reduction.build()) for name, reduction in reductions.items()}
        count = len(self.images)
        with self.during():
            timings = time_interleaved(
                calls,
                warmup=count,
                iterations=self.rounds * count,
                device=self.images[0].device,
                memory=False,
            )
        first = next(iter(timings.values()))
        return {name: _figures(first, timing, count) for name, timing in timings.items()}

    def _call(self, reduction: Reduction) -> Callable[[], object]:
        segment = partial(self.model, reduction=reduction)
        return in_turn(
            lambda image_3HW: predict_map(segment, image_3HW[None], self.protocol, None),
            self.images,
        )


def _figures(first: Timing, timing: Timing, count: int) -> dict[str, float]:
    gain = speedup(first, timing, count)
    return {
        "latency_ms_p50": first.p50_ms / gain,
        "images_per_s": 1000 * gain / first.p50_ms,
        "speedup": gain,
    }


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Milliseconds by row."""

    weights: tuple[float, ...]
    scale: float = 1.0
    """What a timed choice has corrected."""

    @classmethod
    def fit(cls, rows: Sequence[Row], milliseconds: Sequence[float]) -> "LatencyModel":
        """Weights that are never negative, by least squares of relative errors."""
        features = np.array([_features(row) for row in rows])
        times = np.array(milliseconds)
        weights, _ = nnls(features / times[:, None], np.ones(len(times)))
        return cls(tuple(map(float, weights)))

    def __call__(self, row: Row) -> float:
        """Milliseconds of one image."""
        return self.scale * float(np.dot(self.weights, _features(row)))


def meet_latency(search: Search, budget: float, clock: Clock) -> Tried:
    """The most accurate reduction of a scouted search at so many milliseconds.

    Raises:
        ImpossibleBudgetError: by the fit.
        ValueError: nothing within the budget was found.

    """
    rows, timed = {"dense": search.dense_scouted}, {"dense": ReductionConfig()}
    for number, family in enumerate(search.families):
        for t, row in search.scouted[family.name]:
            if t in (FITTED if number == 0 else FITTED[:1]):
                rows[f"{family.name} {t:g}"], timed[f"{family.name} {t:g}"] = row, family.at(t)
    times = clock.times(timed)
    fit = LatencyModel.fit(list(rows.values()), [times[n]["latency_ms_p50"] for n in rows])
    search.cost = fit
    chosen = _meet(search, budget)
    for _ in range(CORRECTIONS):
        both = {"dense": ReductionConfig(), "chosen": chosen.reduction}
        got = clock.times(both)["chosen"]["latency_ms_p50"]
        if abs(got / budget - 1) <= NEAR:
            break
        fit = replace(fit, scale=fit.scale * got / fit(chosen.row))
        search.cost = fit
        chosen = _meet(search, budget)
    return chosen


def _meet(search: Search, budget: float) -> Tried:
    chosen = search.meet(budget, "ms")
    if chosen is None:
        raise ValueError("no reduction that was tried stays within the budget")
    return chosen


def _features(row: Row) -> list[float]:
    """A call, GMACs of blocks, heads and the rest, and the number of exit heads."""
    parts = row["gmacs_by_part"]
    blocks = sum(macs for part, macs in parts.items() if part.startswith("blocks_"))
    heads = [macs for part, macs in parts.items() if part.startswith("exit_head_")]
    decoder = parts["decoder"]
    rest = sum(parts.values()) - blocks - sum(heads) - decoder
    return [1.0, blocks, sum(heads) + decoder, rest, float(len(heads))]
