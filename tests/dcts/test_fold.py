"""Folding BatchNorm changes nothing but the speed."""

import pytest
import torch
from torch import nn

from stepseg.dcts.fold import fold_batch_norm
from stepseg.dcts.policy import PolicyNetwork
from toys import randomise_batch_norm, toy_images, toy_policy


def norms_of(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "lcnet_050", "mobilenetv3_small_050"])
@pytest.mark.parametrize("training", ["joint", "frozen"])
def test_folded_equals_unfolded_in_evaluation(name, training):
    policy = PolicyNetwork(name=name, windows=(2, 4), training=training)
    randomise_batch_norm(policy)
    images = toy_images(2, 64, 96)
    expected = policy.eval()(images)
    assert expected[2].std() > 1e-4, "the test needs outputs that depend on their window"
    assert norms_of(policy)

    fold_batch_norm(policy, toy_images(1, 64, 64))
    assert norms_of(policy) == []
    folded = policy(images)
    for window in (2, 4):
        torch.testing.assert_close(folded[window], expected[window], rtol=1e-4, atol=1e-4)


def test_folding_keeps_activations_and_drops_nothing_else():
    policy = toy_policy()
    activations = [type(m) for m in policy.modules() if isinstance(m, nn.Hardswish | nn.ReLU)]
    convolutions = sum(isinstance(m, nn.Conv2d) for m in policy.modules())
    fold_batch_norm(policy, toy_images(1, 64, 64))
    assert [
        type(m) for m in policy.modules() if isinstance(m, nn.Hardswish | nn.ReLU)
    ] == activations
    assert sum(isinstance(m, nn.Conv2d) for m in policy.modules()) == convolutions


def test_a_model_in_training_mode_is_folded_by_its_running_statistics():
    policy = toy_policy(training="joint")
    images = toy_images(2, 64, 96)
    expected = policy.eval()(images)[2]
    policy.train()
    fold_batch_norm(policy, toy_images(1, 64, 64))
    assert policy.training
    torch.testing.assert_close(policy.eval()(images)[2], expected, rtol=1e-4, atol=1e-4)


def test_a_norm_after_something_else_stays():
    class Model(nn.Sequential):
        pass

    model = Model(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    )
    randomise_batch_norm(model)
    images = torch.rand(2, 3, 8, 8)
    expected = model.eval()(images)
    fold_batch_norm(model, images)
    assert norms_of(model) == ["2"]
    torch.testing.assert_close(model(images), expected)
