"""The policy's correction beside a trainer that only says what it is doing."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from commands import write_camvid
from stepseg.dcts.targets import HomogeneityRule
from stepseg.heads.exit import ConfidenceExit
from stepseg.heads.linear import LinearHead
from stepseg.heads.temperature import fit_temperatures
from stepseg.lit.callbacks.calibrate import Calibrate
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.policy_module import PolicyModule
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.metrics.calibration import judge, judge_exits
from stepseg.model_config import ModelConfig
from stepseg.protocol import Protocol, resize
from toys import DIM, SYSTEMS, toy_head, toy_oracle, toy_policy, toy_segmenter

PROTOCOL = Protocol(resize_short=96)


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory):
    root = write_camvid(tmp_path_factory.mktemp("camvid"), size=(64, 128))
    return SegmentationDataModule("camvid", root, crop_size=(32, 32), batch_size=2)


def validate(module, datamodule, images=4, fn="fit", exit_images=0):
    """Whatever happens at the start of a validation; the policy afterwards."""
    plugin = SimpleNamespace(val_step_context=nullcontext)
    trainer = SimpleNamespace(
        datamodule=datamodule, precision_plugin=plugin, state=SimpleNamespace(fn=fn)
    )
    Calibrate(images, exit_images).on_validation_epoch_start(trainer, module)


def segmentation(policy):
    return SegmentationModule(
        config=ModelConfig(num_classes=11), spec=SimpleNamespace(num_classes=11, ignore_index=255),
        model=toy_segmenter(policy=policy, reduction=SYSTEMS["dcts"]), protocol=PROTOCOL,
    )  # fmt: skip


@pytest.mark.parametrize(("alone", "cell"), [(True, None), (False, None), (False, 24)])
def test_scores_are_right_on_average_on_whole_training_images(alone, cell, datamodule):
    """As merging sees them: of 24 px a patch, where a patch shows as many."""
    policy = toy_policy()
    rule = HomogeneityRule(all_ignore_is_homogeneous=False)
    module = PolicyModule(policy=policy, protocol=PROTOCOL) if alone else segmentation(policy)
    if cell:
        module.model.reduction = replace(module.model.reduction, cell=cell)
    module.rule = rule
    kept = {key: value.clone() for key, value in policy.state_dict().items()}
    for _ in range(2):  # what it was before does not matter
        validate(module, datamodule)
    corrections = policy.corrections
    scores, truth = dict.fromkeys(corrections, 0.0), dict.fromkeys(corrections, 0)
    for row in (0, 1, 3, 4):  # of six
        sample = datamodule.dataset("train")[row]
        image, label = sample["image"][None], sample["label"][None]
        seen = judge(policy, image, label, rule, PROTOCOL, cell=cell)
        assert seen[0][2].shape == ((1, 2, 4) if cell else (1, 3, 6))  # of 96 x 192 px
        if cell:
            shown = module.model.show(resize(image.float() / 255, (96, 192)), cell)
            torch.testing.assert_close(seen[0], policy.decide(shown))
        for side in corrections:
            scores[side] += seen[0][side].double().sigmoid().sum().item()
            truth[side] += int(seen[1][side].sum())
    for side, correction in corrections.items():
        assert scores[side] + float(correction) == pytest.approx(truth[side], abs=1e-4)
        assert correction != 0.25
    changed = [key for key, value in policy.state_dict().items() if not value.equal(kept[key])]
    assert changed == ["classifier.2.correction", "classifier.4.correction"]


def test_exit_heads_get_the_temperature_of_whole_training_images(datamodule):
    """Fitted on what an evaluation of the same images says; others stay as they are."""
    heads = {b: LinearHead(dim=DIM, num_classes=11, calibrated=True) for b in (1, 3)}
    model = toy_segmenter(
        policy=toy_policy(training="frozen"), exit_heads=heads, reduction=SYSTEMS["dcts"],
        decoder=toy_head(num_classes=11),
    )  # fmt: skip
    module = SegmentationModule(
        config=ModelConfig(num_classes=11), spec=SimpleNamespace(num_classes=11, ignore_index=255),
        model=model, protocol=PROTOCOL,
    )  # fmt: skip
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(2):  # what they were before does not matter
        module.train()
        validate(module, datamodule, exit_images=4)
        assert model.training
    model.eval()
    fitted = [float(head.get_buffer("temperature")) for head in heads.values()]
    assert all(0.05 < value < 20 and value != 1 for value in fitted)
    for head in heads.values():
        head.get_buffer("temperature").fill_(1)
    reduction = replace(SYSTEMS["dcts"], exit=ConfidenceExit(1.0), exit_blocks=(1, 3))
    parts = []
    for row in (0, 1, 3, 4):  # of six
        sample = datamodule.dataset("train")[row]
        image, label = sample["image"][None], sample["label"][None]
        output = model(resize(image.float() / 255, (96, 192)), reduction=reduction)
        parts.append(judge_exits(output, label, 255))
    whole = [[torch.cat([part[i][b] for part in parts]) for b in heads] for i in (0, 1)]
    assert fitted == pytest.approx(fit_temperatures(*whole).tolist(), rel=1e-5)
    changed = [key for key, value in model.state_dict().items() if not value.equal(kept[key])]
    assert changed == []
    validate(module, datamodule, exit_images=4)
    changed = [key for key, value in model.state_dict().items() if not value.equal(kept[key])]
    assert changed == ["exit_heads.1.temperature", "exit_heads.3.temperature"]


@pytest.mark.parametrize(
    ("policy", "how"),
    [
        (toy_policy(training="frozen"), {}),
        (toy_policy(), {"images": 0}),
        (toy_policy(), {"fn": "test"}),
        (toy_oracle(), {}),
    ],
    ids=["frozen", "off", "no training", "oracle"],
)
def test_nothing_else_is_altered(policy, how, datamodule):
    module = segmentation(policy)
    kept = {key: value.clone() for key, value in module.state_dict().items()}
    validate(module, datamodule, **how)
    assert all(torch.equal(value, kept[key]) for key, value in module.state_dict().items())
