"""Latency as a target: a fit from a few timed reductions, corrected by the choice's own time."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from stepseg.dcts.merge import MergeRule
from stepseg.model_config import ReductionConfig
from stepseg.protocol import Protocol
from stepseg.tuning.families import families
from stepseg.tuning.latency import Clock, LatencyModel, meet_latency
from stepseg.tuning.search import ImpossibleBudgetError, Search
from toys import toy_segmenter


def row_of(reduction):
    left = reduction.merge.thresholds[0] if reduction.merge else 1.0
    parts = {"policy": 0.5 if reduction.merge else 0.0, "blocks_1-4": 8 * left, "decoder": left}
    total = sum(parts.values())
    figures = {"gmacs_mean": total, "gmacs_by_part": parts, "mIoU": 70 + left, "images": 2}
    return figures | {"tokens_per_stage": [left]}


class FakeClock:
    """A device on which dense takes 10 ms; what was not fitted takes a tenth more."""

    def __init__(self):
        self.asked = []

    def times(self, reductions):
        self.asked.append(list(reductions))
        slower = 1.1 if len(self.asked) > 1 else 1.0
        times = {}
        for name, reduction in reductions.items():
            parts = row_of(reduction)["gmacs_by_part"]
            ms = 1 + parts["policy"] + parts["blocks_1-4"] + parts["decoder"]
            times[name] = {"latency_ms_p50": ms * (slower if name == "chosen" else 1)}
        return times


def search_and_clock():
    found = families(ReductionConfig(merge=MergeRule()), [], 16, 1024)
    search = Search(
        found, lambda part, reductions: list(map(row_of, reductions)), lambda row: 0.0, share=0.1
    )
    search.scout()
    return search, FakeClock()


def test_the_choice_takes_the_time_that_was_asked_for():
    search, clock = search_and_clock()
    chosen = meet_latency(search, 6.0, clock)
    parts = row_of(chosen.reduction)["gmacs_by_part"]
    assert 1.1 * (1 + sum(parts.values())) == pytest.approx(6.0, rel=0.02)
    assert len(clock.asked) == 3  # the fit, a choice that is too slow, and another
    assert search.used <= 10


def test_the_clock_runs_in_the_precision_of_the_figures():
    model, images = toy_segmenter().prepare_for_inference(), [torch.zeros(3, 32, 48).byte()] * 2
    seen = []
    model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    for during in (nullcontext, partial(torch.autocast, "cpu", torch.bfloat16)):
        times = Clock(model, Protocol(), images, during=during).times({"dense": ReductionConfig()})
        assert times["dense"]["speedup"] == 1
    half = len(seen) // 2
    assert seen == [False] * half + [True] * half


def test_an_impossible_time_says_what_is_possible():
    search, clock = search_and_clock()
    with pytest.raises(ImpossibleBudgetError, match=r"0\.3 ms cannot be met: .* ms are possible"):
        meet_latency(search, 0.3, clock)


def test_the_fit_is_linear_and_never_negative():
    rows = [row_of(ReductionConfig(merge=MergeRule(thresholds=(t,) * 4))) for t in (0.2, 0.5, 0.9)]
    times = [3 + row["gmacs_by_part"]["blocks_1-4"] for row in rows]
    fit = LatencyModel.fit(rows, times)
    assert [fit(row) for row in rows] == pytest.approx(times, rel=1e-3)
    assert min(fit.weights) >= 0
