"""The compiled policy: the same logits, a graph a size, and no more than a few."""

import torch
from torch._dynamo.testing import CompileCounter

from stepseg.macs import network_macs
from stepseg.runtime import policy as module
from stepseg.runtime.apply import stand_in
from stepseg.runtime.policy import CompiledFeatures
from toys import toy_images, toy_policy

SIZES = [(64, 64), (80, 112), (64, 64), (75, 101), (160, 33), (80, 112)]


def test_the_first_sizes_have_graphs(monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    counter = CompileCounter()
    policy = toy_policy().eval().requires_grad_(False)
    images = [toy_images(2, *size) for size in SIZES]
    with torch.inference_mode():
        expected = [policy(batch) for batch in images]
        stand_in(policy, "last_features", CompiledFeatures(policy, backend=counter))
        for _ in range(2):
            for batch, logits in zip(images, expected, strict=True):
                torch.testing.assert_close(policy(batch), logits)
    assert counter.frame_count == 2 < len(set(SIZES))


def test_gradients_and_counting_take_the_eager_way():
    counter = CompileCounter()
    policy = toy_policy()
    macs = network_macs(policy.eval(), (1, 3, 64, 64))
    policy.train()
    stand_in(policy, "last_features", CompiledFeatures(policy, backend=counter))
    sum(logit.sum() for logit in policy(toy_images(2, 64, 64)).values()).backward()
    with torch.inference_mode():
        assert network_macs(policy.eval(), (1, 3, 64, 64)) == macs > 0
    assert counter.frame_count == 0
