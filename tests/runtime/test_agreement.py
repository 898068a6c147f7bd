"""Rounding passes, and nothing else does."""

import copy
import re
from dataclasses import replace

import pytest
import torch

from stepseg.runtime.agreement import differ
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


CASES = [  # of 256 cells
    (2, 5.0, torch.float32, None),  # one percent may do as it likes
    (4, 1e-5, torch.float32, None),
    (4, 5.0, torch.float32, "2% of an image's cells have scores that are off by more than 0.001"),
    (4, float("nan"), torch.bfloat16, "2% of .* have scores that are off by more than 0.05"),
    (4, 0.05, torch.bfloat16, None),
    (5, "exit", torch.float32, None),  # what left otherwise says something else
    (8, "exit", torch.float32, "3% of an image's cells leave at another exit"),
    (8, "window", torch.float32, "3% of an image's cells merge otherwise"),
    (8, "window", torch.bfloat16, None),
]


@pytest.mark.parametrize(("cells", "what", "dtype", "said"), CASES)
def test_the_worst_image_counts(cells, what, dtype, said, result):
    found = differ(changed(result, 1, cells, what), result, dtype)
    assert re.fullmatch(said or "None", str(found))


def test_what_overflows_in_both_is_the_same(result):
    broken = replace(result, presence_BC=result.presence_BC * float("nan"))
    assert differ(broken, broken, torch.float32) is None
    assert "scores" in differ(broken, result, torch.float32)
