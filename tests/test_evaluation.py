"""The evaluator beside what it wraps."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from stepseg.dcts.targets import HomogeneityRule
from stepseg.evaluation import NO_LABELS, Evaluator
from stepseg.heads.exit import ConfidenceExit, RandomExit, UniformExit
from stepseg.macs import count_macs, total_macs
from stepseg.metrics.calibration import CalibrationMetric
from stepseg.model import Reduction
from stepseg.protocol import Protocol
from stepseg.segmentation import NonFiniteScoresError
from toys import CLASSES, CONFIDENCE, SYSTEMS, toy_images, toy_labels, toy_oracle, toy_segmenter

SPEC = SimpleNamespace(num_classes=CLASSES, ignore_index=255)


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(5)
    images = (toy_images(4, 80, 112) * 255).to(torch.uint8)
    return images, toy_labels(4, 80, 112)


def evaluate(model, reduction, batch, protocol=None):
    evaluator = Evaluator(model, [reduction], SPEC, protocol or Protocol())
    predictions = []
    [outputs] = evaluator.update(*batch, lambda index, prediction: predictions.append(prediction))
    return predictions[0], outputs, evaluator.compute()[0]


EAGER = ConfidenceExit(threshold=0.7, keep_per_class=0)
"""Lets tokens leave at every head."""


@pytest.mark.parametrize("rule", [RandomExit(EAGER, seed=1), UniformExit(EAGER)])
def test_controls_release_what_confidence_releases_at_every_exit(rule, batch):
    model = toy_segmenter()
    step = replace(SYSTEMS["step"], exit=EAGER)
    _, confident, figures = evaluate(model, step, batch)
    _, control, control_figures = evaluate(model, replace(step, exit=rule), batch)
    assert control[0].tokens_per_stage == confident[0].tokens_per_stage
    assert min(figures["exited_per_head"]) > 0  # otherwise this shows nothing
    assert control_figures["gmacs_mean"] == figures["gmacs_mean"]
    assert not torch.equal(control[0].exit_T0, confident[0].exit_T0)


def test_scores_that_are_no_numbers_are_told_and_never_written(batch):
    """Finite weights, absurdly large: the map would be class 0 everywhere."""
    model = toy_segmenter()
    model.backbone.blocks[0].mlp.fc2.weight.data.fill_(3e38)
    evaluator = Evaluator(model, [SYSTEMS["step"], SYSTEMS["dense"]], SPEC, Protocol())
    evaluator.update(*batch)
    for figures in evaluator.compute():
        assert "1 batch(es) are not finite numbers" in figures["problems"][0]
    written = []
    with pytest.raises(NonFiniteScoresError, match="a batch of images"):
        evaluator.update(*batch, lambda *taken: written.append(taken))
    assert not written


def test_labels_that_are_all_ignored_are_no_accuracy(batch):
    images, labels = batch
    _, _, figures = evaluate(
        toy_segmenter(), SYSTEMS["step"], (images, torch.full_like(labels, 255))
    )
    assert figures["problems"] == [NO_LABELS]
    _, _, figures = evaluate(toy_segmenter(), SYSTEMS["step"], (images, torch.ones_like(labels)))
    assert "problems" not in figures


def test_plain_protocols_give_the_map_of_the_scores(batch):
    model = toy_segmenter()
    prediction, outputs, _ = evaluate(model, SYSTEMS["step"], batch)
    assert len(outputs) == 1
    scores = outputs[0].scores()
    best = scores.gather(1, prediction[:, None])[:, 0]
    torch.testing.assert_close(best, scores.amax(1))


def test_all_windows_of_an_image_count(batch):
    model = toy_segmenter()
    slide = Protocol(mode="slide", crop=(48, 64), stride=(32, 48), window_batch=3)
    _, outputs, figures = evaluate(model, SYSTEMS["step"], batch, slide)
    assert sum(output.layout.segments.num_images for output in outputs) == 4 * 2 * 2
    parts = [count_macs(model, output) for output in outputs]
    macs = sum(sum(total_macs(part)) for part in parts)
    assert figures["gmacs_mean"] == pytest.approx(macs / 4 / 1e9)
    tokens = sum(sum(output.tokens_per_stage[0]) for output in outputs)
    assert figures["tokens_mean"] == pytest.approx(tokens / 4)


def test_deviation_between_images(batch):
    model = toy_segmenter()
    _, outputs, figures = evaluate(model, SYSTEMS["step"], batch)
    macs = torch.tensor(total_macs(count_macs(model, outputs[0])), dtype=torch.float64) / 1e9
    assert figures["gmacs_std"] == pytest.approx(macs.std(correction=0).item())
    assert figures["gmacs_std"] > 0
    assert figures["gmacs_max"] == pytest.approx(macs.max().item())


SLIDE = Protocol(mode="slide", crop=(48, 64), stride=(32, 48), window_batch=3)


@pytest.mark.parametrize(
    "protocol",
    [Protocol(), SLIDE, Protocol(scales=(1.0, 0.75), flip=True), Protocol(resize_short=64)],
    ids=["whole", "slide", "scales", "resized"],
)
def test_a_grid_gives_every_point_what_it_gets_alone(protocol, batch):
    """Same maps and same figures, one by one."""
    model = toy_segmenter()
    step = SYSTEMS["step"]
    points = [
        step, SYSTEMS["dense"], replace(step, exit=RandomExit(CONFIDENCE, seed=1)),
        replace(step, exit=replace(CONFIDENCE, threshold=0.8)), SYSTEMS["dcts"], step,
        Reduction(step.merge, CONFIDENCE, (3,)),
    ]  # fmt: skip
    evaluator = Evaluator(model, points, SPEC, protocol)
    maps = {}
    evaluator.update(*batch, maps.__setitem__)
    figures = evaluator.compute()
    for index, point in enumerate(points):
        prediction, _, alone = evaluate(model, point, batch, protocol)
        assert torch.equal(maps[index], prediction)
        assert figures[index] == alone
    assert len({(f["mIoU"], f["gmacs_mean"]) for f in figures}) == 6  # `step` is there twice


@torch.no_grad()
@pytest.mark.parametrize("system", ["dense", "step"])
@pytest.mark.parametrize(
    ("protocol", "size"),
    [(Protocol(), (80, 112)), (SLIDE, (80, 112)), (Protocol(resize_short=160), (160, 224))],
    ids=["whole", "slide", "resized"],
)
def test_scores_of_every_window_are_compared_with_its_labels_once(protocol, size, system, batch):
    model = toy_segmenter()
    images, labels = batch
    _, _, figures = evaluate(model, SYSTEMS[system], batch, protocol)
    shown = torch.nn.functional.interpolate(images / 255, size, mode="bilinear")
    factor = size[0] // 80
    labels = labels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    expected = CalibrationMetric((2, 4))
    expected.update(model.policy(shown), HomogeneityRule().windows(labels, 16, (2, 4)))
    assert figures["policy_calibration"] == expected.compute()
    counts = [b["count"] for b in figures["policy_calibration"]["2"]["bins"]]
    assert sum(counts) == 4 * (size[0] // 32) * (size[1] // 32)
    assert sum(count > 0 for count in counts) > 1


def test_scores_of_a_smaller_input_are_those_by_which_it_merges(batch):
    """Windows are of as many pixels as its patches show."""
    model = toy_segmenter()
    small = replace(SYSTEMS["step"], cell=32)
    evaluator = Evaluator(model, [SYSTEMS["step"], small], SPEC, Protocol())
    evaluator.update(*batch)
    figures = evaluator.compute()
    assert figures[0] == evaluate(model, SYSTEMS["step"], batch)[2]
    images, labels = batch
    shown = model.show(images / 255, 32)
    labels = torch.nn.functional.pad(labels, (0, -112 % 32, 0, -80 % 32), value=255)
    expected = CalibrationMetric((2, 4))
    expected.update(model.policy.decide(shown), HomogeneityRule().windows(labels, 32, (2, 4)))
    assert figures[1]["policy_calibration"] == expected.compute()
    assert sum(b["count"] for b in figures[1]["policy_calibration"]["2"]["bins"]) == 4 * 1 * 2


def test_labels_as_scores_need_no_calibration(batch):
    model = toy_segmenter(policy=toy_oracle())
    assert "policy_calibration" not in evaluate(model, SYSTEMS["dcts"], batch)[2]


def test_labels_merge_images_as_large_as_they_are_shown(batch):
    model, (images, labels) = toy_segmenter(policy=toy_oracle()), batch
    _, [output], figures = evaluate(model, SYSTEMS["dcts"], batch, Protocol(resize_short=160))
    doubled = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    shown = torch.nn.functional.interpolate(images / 255, (160, 224), mode="bilinear")
    expected = model(shown, labels_BHW=doubled, reduction=SYSTEMS["dcts"]).layout
    assert torch.equal(output.layout.cell_to_token_BYX, expected.cell_to_token_BYX)
    assert figures["tokens_mean"] < 10 * 14
    for protocol in (Protocol("slide", crop=(64, 64), stride=(32, 32)), Protocol(flip=True)):
        with pytest.raises(ValueError, match=r"data\.evaluation\.mode=whole and without flip"):
            evaluate(model, SYSTEMS["dcts"], batch, protocol)
