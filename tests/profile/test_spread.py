"""Prescribed counts that differ between the images of a batch."""

import pytest
import torch

from stepseg.profile.spread import spread_tokens
from stepseg.profile.tokens import prescribe, stage_tokens
from toys import OTHERS, SYSTEMS, toy_images, toy_segmenter


@pytest.mark.parametrize("system", ["dense", "cts", "dcts", "dtop", "step", "step_random"])
def test_images_differ_around_the_prescribed_counts(system):
    reduction = prescribe(SYSTEMS[system], (5, 7), [20, 11, 4])
    spread = spread_tokens(reduction, (5, 7), 0.4)
    with torch.no_grad():
        stages = toy_segmenter()(toy_images(4), reduction=spread).tokens_per_stage
    means = stage_tokens(reduction, (5, 7))
    assert tuple(stage[0] for stage in stages) == means  # the first image has the means
    assert stage_tokens(spread, (5, 7)) == means
    for index, (stage, mean) in enumerate(zip(stages, means, strict=True)):
        assert (len(set(stage)) > 1) == (mean < 35), (system, index)
        assert all(0.6 * mean - 1.5 <= count <= 1.4 * mean + 1.5 for count in stage)


def test_nothing_is_spread_where_nothing_is_prescribed():
    for reduction in (*OTHERS.values(), SYSTEMS["step"]):
        if reduction.merge is None or reduction.merge.top_k is None:
            assert spread_tokens(reduction, (5, 7), 0.3) == reduction
    prescribed = prescribe(SYSTEMS["step"], (5, 7), [20, 11, 4])
    assert spread_tokens(prescribed, (5, 7), 0) is prescribed


@pytest.mark.parametrize("spread", [-0.1, 1])
def test_a_spread_is_a_share(spread):
    with pytest.raises(ValueError, match=r"share in \[0, 1\)"):
        spread_tokens(SYSTEMS["dense"], (5, 7), spread)
