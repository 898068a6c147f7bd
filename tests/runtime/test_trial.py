"""`runtime=auto` on a GPU: the fastest on the first batch, and a line that says which."""

import pytest
import torch

from stepseg.runtime.apply import stand_in
from stepseg.runtime.graphs import Graphs
from stepseg.runtime.trial import Trial, _time
from toys import toy_images, toy_segmenter


@pytest.mark.parametrize(
    ("seconds", "best", "said"),
    [
        ({"eager": 0.5, "compile": 1, "graphs": 0.1}, "graphs", "eager 500.0 ms, compile 1000.0"),
        ({"eager": 0.5, "compile": 1, "graphs": None}, "eager", "graphs fails (ZeroDivisionError)"),
    ],
)
@torch.inference_mode()
def test_the_fastest_is_taken_and_named(seconds, best, said, capsys, monkeypatch):
    model, images = toy_segmenter().prepare_for_inference(), toy_images(1, 32, 32)
    made = {name: toy_segmenter() for name in seconds}
    of_model = {id(made[name]): took for name, took in seconds.items()}

    def clock(call):
        assert call().image_size == (32, 32)
        return of_model[id(call.func)] or 1 / 0

    monkeypatch.setattr("stepseg.runtime.trial._time", clock)
    trial = Trial(model, {name: lambda model, n=name: made[n] for name in seconds})
    stand_in(model, "forward", trial)
    for _ in range(2):
        assert torch.equal(model(images).scores(), made[best](images).scores())
    told = capsys.readouterr().err
    assert told.count("runtime=auto") == 1
    assert f"runtime=auto takes {best}: on the first batch, 1 x 3 x 32 x 32, eager " in told
    assert said in told


def test_the_clock_waits_for_results():
    model = toy_segmenter()
    with torch.no_grad():
        assert _time(lambda: model(toy_images(1, 32, 32))) > 0


@torch.inference_mode()
def test_errors_of_the_images_are_nobodys_choice():
    model = toy_segmenter()
    stand_in(model, "forward", Trial(model, {"eager": lambda model: toy_segmenter()}))
    with pytest.raises(ValueError, match="a batch has the shape"):
        model(torch.zeros(3, 32, 32))


def test_several_batches_in_flight_are_for_a_runtime_that_can():
    """Threads would have to take turns with graphs."""
    eager, captured = toy_segmenter(), toy_segmenter()
    stand_in(captured, "forward", Graphs(captured, lambda model: model))
    trial = Trial(eager, {})
    for chosen in (None, eager):
        trial.chosen = chosen
        assert not hasattr(trial, "in_flight")
    trial.chosen = captured
    assert trial.in_flight == captured.forward.in_flight
