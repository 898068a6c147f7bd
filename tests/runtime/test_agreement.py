"""Rounding passes, and nothing else does."""

import copy
import re
from dataclasses import replace

import pytest
import torch

from stepseg.runtime.agreement import Rounding, differ
from toys import SYSTEMS, toy_images, toy_segmenter


@pytest.fixture(scope="module")
def result():
    torch.manual_seed(0)
    with torch.no_grad():
        return toy_segmenter()(toy_images(3, 256, 256), reduction=SYSTEMS["step"])


def changed(result, image, cells, what):
    """The same, but for some cells of one image that are tokens of their own."""
    other = copy.deepcopy(result)
    plain = (other.layout.window_BYX[image].flatten() == 1).nonzero().flatten()[:cells]
    tokens = other.layout.cell_to_token_BYX[image].flatten()[plain]
    assert len(tokens) == cells
    if what == "window":
        other.layout.window_BYX[image].view(-1)[plain] = 4
    elif what == "exit":
        other.exit_T0[tokens] += 1
        other.heads[-1].mask_logits_T0C[tokens] += 9
    else:
        other.heads[-1].mask_logits_T0C[tokens] += what
    return other


NONE, HALF = Rounding(), Rounding(decisions=0.005, scores=0.03)
CASES = [  # of 256 cells
    (2, 5.0, NONE, None),  # one percent may do as it likes
    (4, 1e-5, NONE, None),
    (4, 5.0, NONE, "2% of an image's cells have scores that are off by more than 0.001"),
    (4, float("nan"), HALF, "2% of .* have scores that are off by more than 0.06"),
    (4, 0.05, HALF, None),
    (4, 0.05, NONE, "2% of .* have scores .*"),
    (5, "exit", NONE, None),  # what left otherwise says something else
    (7, "exit", NONE, "3% of an image's cells leave at another exit"),
    (7, "exit", HALF, None),
    (7, "window", NONE, "3% of an image's cells merge otherwise"),
    (7, "window", HALF, None),
    (8, "window", HALF, "3% of .* merge otherwise"),
]


@pytest.mark.parametrize(("cells", "what", "rounding", "said"), CASES)
def test_the_worst_image_counts(cells, what, rounding, said, result):
    found = differ(changed(result, 1, cells, what), result, rounding)
    assert re.fullmatch(said or "None", str(found))


def test_what_overflows_in_both_is_the_same(result):
    broken = replace(result, presence_BC=result.presence_BC * float("nan"))
    assert differ(broken, broken) is None
    assert "scores" in str(differ(broken, result))


def test_rounding_is_measured_between_two_results(result):
    other = changed(changed(result, 1, 8, 0.4), 2, 5, "exit")
    found = Rounding.between(other, result, torch.bfloat16)
    assert found.decisions == pytest.approx(5 / 256)
    apart = (other.cell_scores() - result.cell_scores()).abs().amax(1)[1].flatten()
    assert found.scores == pytest.approx(float(apart.quantile(0.99)))
    assert differ(other, result, found) is None
    same = Rounding.between(result, result, torch.bfloat16)
    assert (same.decisions, same.scores) == (0, 2**-7)  # nobody is righter than the type allows


def test_half_precision_stays_within_what_was_measured():
    """The same weights rounded at other places say the same; other images do not."""
    model = toy_segmenter().prepare_for_inference().bfloat16()
    images, dense = toy_images(2, 128, 128).bfloat16(), SYSTEMS["dense"]
    wide = copy.deepcopy(model).float()
    with torch.no_grad():
        plain, exact = model(images, reduction=dense), wide(images.float(), reduction=dense)
        with torch.autocast("cpu", torch.bfloat16):
            other = wide(images.float(), reduction=dense)
        wrong = model(images.flip(3), reduction=dense)
    rounding = Rounding.between(plain, exact, images.dtype)
    assert differ(other, plain, rounding) is None
    assert differ(other, plain) is not None  # of float32
    assert differ(wrong, plain, rounding) is not None
