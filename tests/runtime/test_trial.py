"""`runtime=auto` on a GPU: the fastest on the first batch, and a line that says which."""

import time

import pytest
import torch

from stepseg.runtime.apply import stand_in
from stepseg.runtime.trial import Trial
from toys import toy_images, toy_segmenter


def runtime(seconds, model):
    """The same model, slower; without seconds it fails."""

    def forward(*arguments, **named):
        time.sleep(seconds)
        return type(model).forward(model, *arguments, **named)

    other = toy_segmenter()
    stand_in(other, "forward", forward if seconds is not None else lambda *_: 1 / 0)
    return other


@pytest.mark.parametrize(
    ("seconds", "best", "said"),
    [
        ({"eager": 0.05, "compile": 0.1, "graphs": 0}, "graphs", "eager "),
        ({"eager": 0, "compile": 0.1, "graphs": None}, "eager", "graphs fails (ZeroDivisionError)"),
    ],
)
@torch.inference_mode()
def test_the_fastest_is_taken_and_named(seconds, best, said, capsys):
    model, images = toy_segmenter().prepare_for_inference(), toy_images(1, 32, 32)
    expected = model(images).scores()
    made = {}

    def make(name):
        return lambda model: made.setdefault(name, runtime(seconds[name], model))

    trial = Trial(model, {name: make(name) for name in seconds})
    stand_in(model, "forward", trial)
    for _ in range(2):
        assert torch.equal(model(images).scores(), expected)
    assert trial.chosen is made[best]
    told = capsys.readouterr().err
    assert told.count("runtime=auto") == 1
    assert f"runtime=auto takes {best}: on the first batch, 1 x 3 x 32 x 32, eager " in told
    assert said in told


@torch.inference_mode()
def test_errors_of_the_images_are_nobodys_choice():
    model = toy_segmenter()
    stand_in(model, "forward", Trial(model, {"eager": lambda model: toy_segmenter()}))
    with pytest.raises(ValueError, match="a batch has the shape"):
        model(torch.zeros(3, 32, 32))
