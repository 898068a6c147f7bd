"""Several batches in flight: all are carried out, by as many threads, and systems take turns."""

import threading
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from stepseg.model import Reduction
from stepseg.profile.throughput import throughput
from toys import SYSTEMS, toy_images, toy_segmenter


@pytest.mark.parametrize("in_flight", [1, 3])
def test_every_batch_flies_and_nobody_waits_for_a_turn(in_flight, monkeypatch):
    model = toy_segmenter().prepare_for_inference()
    batches, seen = toy_images(4).split(2), []
    meet, arrivals = threading.Barrier(in_flight), count()

    def note(_, inputs, __):
        if next(arrivals) < in_flight:
            meet.wait(timeout=60)  # so many are in flight at the same time
        seen.append((threading.get_ident(), inputs[0].data_ptr()))

    monkeypatch.setattr("time.perf_counter", iter(range(100)).__next__)
    model.register_forward_hook(note)
    figures = throughput(model, {"none": Reduction()}, batches, in_flight=in_flight, rounds=2)
    calls = 4 * in_flight
    assert figures == {"none": 2 * calls}  # images in a second of this clock
    assert len({thread for thread, _ in seen}) == in_flight, "the same threads in every round"
    tries = in_flight if in_flight > 1 else 0
    assert len(seen) == 3 * calls + tries
    counts = [sum(at == b.data_ptr() for _, at in seen) for b in batches]
    assert counts == [3 * calls / 2 + tries, 3 * calls / 2]


def test_everyone_tries_every_system_before_the_clock_starts(monkeypatch):
    """What a thread or its stream does for the first time is not in the time of any system."""
    model = toy_segmenter().prepare_for_inference()
    seen, before = {}, []

    def note(_, inputs, given, __):
        seen.setdefault(given["reduction"], set()).add(threading.get_ident())

    def clock(call, device):
        before.append({reduction: set(threads) for reduction, threads in seen.items()})
        call()
        return SimpleNamespace(wall=1.0)

    monkeypatch.setattr("stepseg.profile.throughput.clock", clock)
    model.register_forward_hook(note, with_kwargs=True)
    systems = {"none": Reduction(), "step": SYSTEMS["step"]}
    throughput(model, systems, toy_images(2).split(1), in_flight=3, rounds=1)
    clocked = before[len(systems) :]  # after a round that is not
    for tried, reduction in zip(clocked, systems.values(), strict=True):
        assert len(tried[reduction]) == 3


def test_a_runtime_that_keeps_several_in_flight_is_asked_itself(monkeypatch):
    asked = []

    class Forward:
        def in_flight(self, batches, reduction, lanes):
            asked.append((len(batches), reduction, lanes))
            yield from (model_forward(batch, None, reduction) for batch in batches)

    model = toy_segmenter().prepare_for_inference()
    model_forward = model.forward
    monkeypatch.setattr(model, "forward", Forward())
    batches = toy_images(2).split(1)
    figures = throughput(model, {"step": SYSTEMS["step"]}, batches, in_flight=2, rounds=1)
    assert asked == [(8, SYSTEMS["step"], 2)] * 2
    assert figures["step"] > 0


def test_what_fails_in_a_thread_is_told(monkeypatch):
    model = toy_segmenter().prepare_for_inference()
    with pytest.raises(ValueError, match="a batch has the shape"):
        throughput(model, {"none": Reduction()}, [torch.zeros(3, 4, 4)] * 2, in_flight=2)
