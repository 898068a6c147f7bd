"""The checkpoint's protocol is the default; another one is told."""

from pathlib import Path

import pytest

from commands import compose_config
from stepseg.checkpoint import Checkpoint
from stepseg.cli.protocol import choose_protocol
from stepseg.model_config import ModelConfig
from stepseg.protocol import Protocol

SLIDE = Protocol(mode="slide", resize_short=96, crop=(64, 64), stride=(32, 32), flip=True)


def choose(stored, **given):
    checkpoint = Checkpoint(Path("a.ckpt"), ModelConfig(num_classes=2), {}, {}, 1, stored)
    nothing = dict.fromkeys(("mode", "resize_short", "crop", "stride", "flip"))
    return choose_protocol("stepseg-eval", checkpoint, nothing | given, "data.evaluation")


@pytest.mark.parametrize(
    ("stored", "given", "expected"),
    [
        (SLIDE, {}, {}),
        (Protocol(), {}, {}),
        (SLIDE, {"mode": "slide", "crop": [64, 64], "stride": 32}, {}),
        (SLIDE, {"mode": "whole"}, {"mode": "whole", "crop": None, "stride": None}),
        (SLIDE, {"crop": 48}, {"crop": (48, 48), "stride": (32, 32)}),
        (SLIDE, {"flip": False, "resize_short": "none"}, {"flip": False, "resize_short": None}),
        (Protocol("slide", crop=(64, 64), even=True), {"crop": 48}, {"crop": (48, 48)}),
        (Protocol("slide", crop=(64, 64), even=True), {"stride": 48},
         {"stride": (48, 48), "even": False}),
        (Protocol(flip=True), {"crop": [48, 96]},
         {"mode": "slide", "crop": (48, 96), "stride": (32, 64)}),
    ],
)  # fmt: skip
def test_what_is_not_given_is_the_checkpoint_s(stored, given, expected, capsys):
    chosen = choose(stored, **given)
    assert chosen.as_dict() == {
        **stored.as_dict(),
        **{k: list(v) if isinstance(v, tuple) else v for k, v in expected.items()},
    }
    said = capsys.readouterr().err
    assert said.count("\n") == (chosen != stored)


def test_figure_1_shows_images_as_they_are(tmp_path):
    """Its oracle merges by labels in their own size, whatever the checkpoint was evaluated with."""
    command = ["experiment=figure1/eval", "data.root=somewhere", "ckpt_path=a.ckpt"]
    given = compose_config("eval", command, tmp_path).data.evaluation
    stored = Protocol("slide", resize_short=(2048, 512), crop=(512, 512))
    assert choose(stored, **given).is_plain


def test_both_protocols_are_told(capsys):
    choose(SLIDE, mode="whole")
    choose(None)
    assert capsys.readouterr().err.splitlines() == [
        "stepseg-eval: images are shown with mode=whole resize_short=96 flip=True; the checkpoint "
        "says mode=slide resize_short=96 crop=[64, 64] stride=[32, 32] flip=True",
        "stepseg-eval: images are shown with mode=whole; the checkpoint says nothing",
    ]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"unknown key data\.evaluation\.strid"):
        choose(SLIDE, strid=8)
    with pytest.raises(ValueError, match="crop and stride belong to mode 'slide'"):
        choose(Protocol(), mode="whole", crop=[64, 64])
