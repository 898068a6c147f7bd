"""What makes scores probabilities: the fit beside a slow one, and where the correction counts."""

import math

import pytest
import torch

from stepseg.dcts.classifier import ExactConv, WindowClassifier, fit_corrections
from stepseg.dcts.policy import PolicyNetwork
from toys import toy_images, toy_policy


def cost(correction: float, logits: list[float], targets: list[bool]) -> float:
    """Cross-entropy summed over windows, and the prior."""
    signs = [1 if target else -1 for target in targets]
    margins = [s * (x + correction) for x, s in zip(logits, signs, strict=True)]
    return sum(math.log1p(math.exp(-m)) for m in margins) + correction**2 / 2


def slow_fit(logits: list[float], targets: list[bool]) -> float:
    """The least cost between -40 and 40, by cutting thirds off."""
    low, high = -40.0, 40.0
    while high - low > 1e-9:
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if cost(left, logits, targets) < cost(right, logits, targets):
            high = right
        else:
            low = left
    return low


def test_fits_as_the_slow_one_does():
    torch.manual_seed(0)
    logits = [torch.randn(n).double() * 2 - 1 for n in (200, 31, 1, 30, 30)]
    targets = [x + torch.randn(len(x)) > 0.7 for x in logits[:3]]
    targets += [torch.ones(30).bool(), torch.zeros(30).bool()]  # all of them, and none
    fitted = fit_corrections(logits, targets)
    expected = [slow_fit(x.tolist(), t.tolist()) for x, t in zip(logits, targets, strict=True)]
    assert fitted.tolist() == pytest.approx(expected, abs=1e-6)
    assert -5 < fitted[4] < 0 < fitted[3] < 5
    right = (logits[0] + fitted[0]).sigmoid().sum() + fitted[0]
    assert float(right) == pytest.approx(int(targets[0].sum()))
    assert fit_corrections([torch.empty(0)], [torch.empty(0).bool()]).tolist() == [0]


@pytest.mark.parametrize("training", ["joint", "frozen"])
def test_it_decides_and_is_judged_but_never_learned_against(training):
    policy = toy_policy(training=training, windows=(2, 4))
    images = toy_images(2)
    kept, decided = policy(images), policy.decide(images)
    policy.corrections[2].add_(0.5)
    after = policy.eval()(images)
    torch.testing.assert_close(after[2], decided[2] + 0.5)
    assert torch.equal(after[4], decided[4])
    assert torch.equal(policy.train().decide(images)[2], after[2])
    if training == "joint":  # batch statistics moved nothing that a loss reads
        assert torch.equal(policy(images)[2], kept[2])
    assert not any("correction" in name for name, _ in policy.named_parameters())


def test_folded_it_decides_the_same_to_the_last_bit():
    policy = toy_policy().eval()
    features = torch.randn(2, policy.classifier["2"].weight.shape[1], 3, 4)
    expected = [classifier(features) for classifier in policy.classifier.values()]
    logits = policy(toy_images(2))
    policy.fold()
    for classifier, before in zip(policy.classifier.values(), expected, strict=True):
        assert type(classifier) is ExactConv
        assert torch.equal(classifier.train()(features), before)
    for side, folded in policy(toy_images(2)).items():  # other images: only the shapes are alike
        assert folded.shape == logits[side].shape


def test_weights_of_before_have_none_and_everything_else_is_strict():
    state = toy_policy().state_dict()
    older = {key: value for key, value in state.items() if not key.endswith("correction")}
    policy = PolicyNetwork(name="lcnet_050", windows=(2, 4))
    policy.load_state_dict(state)
    assert [float(c) for c in policy.corrections.values()] == [0.25, 0.25]
    policy.load_state_dict(older)
    assert [float(c) for c in policy.corrections.values()] == [0, 0]
    assert len(older) == len(state) - 2
    del older["classifier.2.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*classifier.2.bias"):
        policy.load_state_dict(older)


def test_a_product_of_matrices_decides_as_the_convolution_does():
    """The way of a GPU, where a convolution would be less exact."""
    classifier = WindowClassifier(8)
    x_BFYX = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(0))
    by_product = classifier._by_product(x_BFYX, classifier.bias)
    torch.testing.assert_close(by_product, classifier(x_BFYX))
