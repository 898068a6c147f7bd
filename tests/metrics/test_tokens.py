"""Counts of tokens over images: means, the least, the greatest, and the join of two sets."""

import pytest
import torch

from stepseg.metrics.joining import join, join_ranks
from stepseg.metrics.tokens import TokenMetric
from toys import EXIT_BLOCKS, SYSTEMS, toy_images, toy_segmenter

STAGES = (*EXIT_BLOCKS, 4)


@pytest.fixture(scope="module")
def outputs():
    """A model, and what it says of four images, one at a time."""
    model = toy_segmenter()
    with torch.no_grad():
        return model, [model(image[None], reduction=SYSTEMS["step"]) for image in toy_images(4)]


def metric_of(model, *batches):
    metric = TokenMetric(STAGES, (2, 4))
    for outputs, num_images in batches:
        metric.update(model, outputs, num_images)
    return metric


def test_least_and_greatest_image(outputs):
    model, said = outputs
    figures = metric_of(model, *(([output], 1) for output in said)).compute()
    stages = [[lengths[0] for lengths in output.tokens_per_stage] for output in said]
    assert len({tuple(tokens) for tokens in stages}) > 1
    gone = [[tokens[0] - later for later in tokens[1:]] for tokens in stages]
    for name, each in (("tokens_per_stage", stages), ("exited_until", gone)):
        assert figures[f"{name}_min"] == [min(column) for column in zip(*each, strict=True)]
        assert figures[f"{name}_max"] == [max(column) for column in zip(*each, strict=True)]
    for side in (1, 2, 4):
        each = [int((output.layout.window_T0 == side).sum()) for output in said]
        ends = (figures["superpatches_min"][str(side)], figures["superpatches_max"][str(side)])
        assert ends == (min(each), max(each))
        assert figures["superpatches"][str(side)] == pytest.approx(sum(each) / 4)


def test_windows_of_an_image_count_together(outputs):
    """Two images in two windows each: rows cycle through the images."""
    model, said = outputs
    figures = metric_of(model, (said, 2)).compute()
    tokens = [output.tokens_per_stage[0][0] for output in said]
    images = [tokens[0] + tokens[2], tokens[1] + tokens[3]]
    assert figures["tokens_mean"] == sum(images) / 2
    assert figures["tokens_per_stage_min"][0] == min(images)
    assert figures["tokens_per_stage_max"][0] == max(images)


def test_sets_of_images_join(outputs):
    """As parts of a killed evaluation and as processes, which torchmetrics gathers."""
    model, said = outputs
    first, second = metric_of(model, (said[:1], 1)), metric_of(model, (said[1:], 3))
    whole = metric_of(model, (said[:1], 1), (said[1:], 3))
    for name, expected in whole.metric_state.items():
        parts = [first.metric_state[name], second.metric_state[name]]
        torch.testing.assert_close(join(name, *parts), expected)
        torch.testing.assert_close(whole._reductions[name](torch.stack(parts)), expected)
        torch.testing.assert_close(join_ranks(name, parts[0]), parts[0])


def test_no_image():
    assert "tokens_per_stage_min" not in TokenMetric(STAGES).compute()
