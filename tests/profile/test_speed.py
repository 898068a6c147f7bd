import gc
import weakref

import pytest
import torch

import stepseg.profile.speed as speed
from stepseg.profile.memory import peak_memory_mb
from stepseg.profile.speed import Timing, speedup, time_interleaved


def test_calls_alternate_and_only_the_rounds_after_the_warm_up_count():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}

    timings = time_interleaved(calls, warmup=1, iterations=3, memory=False)

    assert order == list("abc") * 4
    assert list(timings) == ["a", "b", "c"]
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3, 3]
    assert all(timing.device_seconds is None for timing in timings.values())


def test_both_clocks_see_the_call(monkeypatch):
    wall, cpu = [0.0], [0.0]  # seconds since the start of this test's time
    monkeypatch.setattr(speed.time, "perf_counter", lambda: wall[0])
    monkeypatch.setattr(speed.time, "process_time", lambda: cpu[0])

    def work(seconds):  # on two threads
        wall[0] += seconds
        cpu[0] += 2 * seconds

    def wait(seconds):
        wall[0] += seconds

    timings = time_interleaved(
        {"work": lambda: work(3), "wait": lambda: wait(5)}, warmup=1, iterations=2, memory=False
    )
    assert (timings["work"].seconds, timings["work"].cpu_seconds) == ((3, 3), (6, 6))
    assert (timings["wait"].seconds, timings["wait"].cpu_seconds) == ((5, 5), (0, 0))


def test_gradients_are_off_and_the_garbage_collector_comes_back():
    modes = []
    assert gc.isenabled()
    time_interleaved(
        {"a": lambda: modes.append((torch.is_grad_enabled(), gc.isenabled()))},
        warmup=0,
        iterations=1,
        memory=False,
    )
    assert modes == [(False, False)]
    assert gc.isenabled()


class Circle:
    """Garbage that only the collector finds."""

    itself: "Circle"


def test_rounds_collect_what_they_left_and_walk_nothing_older():
    walked, left = [], []

    def litter():
        walked.append(len(gc.get_objects()))
        circle = Circle()
        circle.itself = circle
        left.append(weakref.ref(circle))

    time_interleaved({"a": litter}, warmup=0, iterations=2, memory=False)
    assert left[0]() is None, "the second round began with a collection"
    assert max(walked) < 10_000 < len(gc.get_objects()), "what lived before is set aside"
    assert gc.get_freeze_count() == 0


def test_a_failing_call_leaves_the_garbage_collector_on():
    with pytest.raises(ZeroDivisionError):
        time_interleaved({"a": lambda: 1 / 0}, iterations=1)
    assert gc.isenabled()


def test_statistics_of_a_timing():
    timing = Timing(seconds=(0.1, 0.4, 0.2, 0.3, 0.5))
    assert timing.p50_ms == pytest.approx(300)
    assert timing.p95_ms == pytest.approx(480)
    assert timing.images_per_s(batch_size=6) == pytest.approx(20)
    assert timing.device_p50_ms is None


def test_p95_lies_between_its_neighbours():
    assert Timing(seconds=(0.004, 0.001, 0.003)).p95_ms == pytest.approx(3.9)
    assert Timing(seconds=(0.002,)).p95_ms == pytest.approx(2)


def test_speedup_is_the_median_of_ratios_within_rounds():
    # The machine is ten times slower in the last two rounds: the ratio of medians would say 0.75.
    dense = Timing(seconds=(2.0, 2.2, 2.0, 20.0, 20.0))
    step = Timing(seconds=(1.0, 1.0, 10.0, 10.0, 10.0))
    assert speedup(dense, step) == pytest.approx(2.0)


def test_speedup_over_a_set_of_inputs_sums_within_a_pass():
    # Two inputs, one quick and one slow: (1 + 9) / (1 + 4), not the mean of 1 and 9 / 4.
    dense = Timing(seconds=(1.0, 9.0) * 3)
    step = Timing(seconds=(1.0, 4.0) * 3)
    assert speedup(dense, step, group=2) == pytest.approx(2.0)


def test_the_clocks_are_kept_apart():
    dense = Timing(seconds=(4.0,), cpu_seconds=(2.0,))
    step = Timing(seconds=(1.0,), cpu_seconds=(1.0,))
    assert speedup(dense, step) == 4
    assert speedup(dense, step, clock="cpu") == 2
    with pytest.raises(ValueError, match="by cpu clock"):
        speedup(dense, Timing(seconds=(1.0,)), clock="cpu")


def test_speedup_refuses_timings_of_different_runs():
    with pytest.raises(ValueError, match="3 and 2 calls"):
        speedup(Timing(seconds=(1.0,) * 3), Timing(seconds=(1.0,) * 2))


@pytest.mark.parametrize("arguments", [{"iterations": 0}, {"warmup": -1}, {"calls": {}}])
def test_impossible_protocols_are_refused(arguments):
    with pytest.raises(ValueError, match="iterations >= 1"):
        time_interleaved(**{"calls": {"a": lambda: None}, **arguments})


def test_peak_memory_of_known_allocations():
    def two_at_a_time():  # 4 MiB + 4 MiB, then one of them goes before the third comes
        first = torch.zeros(2**20)
        second = torch.zeros(2**20)
        del first
        third = torch.zeros(2**20)
        return second, third

    outside = torch.zeros(2**24)
    assert peak_memory_mb(two_at_a_time) == pytest.approx(8, abs=0.01)
    assert peak_memory_mb(lambda: None) == 0
    assert peak_memory_mb(lambda: outside.add_(1)) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_events_and_wall_clock_agree_on_long_work():
    x = torch.randn(4096, 4096, device="cuda")

    def work():
        for _ in range(20):
            x @ x

    timing = time_interleaved({"a": work}, warmup=2, iterations=3, device="cuda")["a"]
    assert timing.device_seconds is not None
    for wall, events in zip(timing.seconds, timing.device_seconds, strict=True):
        assert events <= wall
    assert timing.peak_memory_mb == pytest.approx(64, abs=1)
