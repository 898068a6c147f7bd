"""Parameter groups by hand count, and the schedule's values at its corners."""

import math

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from stepseg.lit.optim import (
    OptimConfig,
    adamw,
    build_optimizer,
    follow_config,
    lr_factor,
    parameter_groups,
)
from stepseg.lit.policy_module import PolicyModule
from toys import toy_segmenter


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = toy_segmenter()
    groups = parameter_groups(model, OptimConfig())
    grouped = [id(p) for group in groups for p in group["params"]]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)


def test_rates_and_decay_by_part():
    model = toy_segmenter()
    config = OptimConfig(
        lr=1e-3, weight_decay=0.1, head_lr_scale=10, policy_lr=2e-3, policy_weight_decay=0.3
    )
    settings = {}
    for group in parameter_groups(model, config):
        for parameter in group["params"]:
            settings[id(parameter)] = (group["lr"], group["weight_decay"])
    block = model.backbone.blocks[0]
    assert settings[id(block.attn.qkv.weight)] == (1e-3, 0.1)
    assert settings[id(block.attn.qkv.bias)] == (1e-3, 0)
    assert settings[id(block.norm1.weight)] == (1e-3, 0)
    assert settings[id(model.backbone.pos_embed)] == (1e-3, 0)
    assert settings[id(model.decoder.query_Cd)] == (1e-2, 0)
    assert settings[id(model.decoder.presence.weight)] == (1e-2, 0.1)
    assert settings[id(model.policy.classifier["2"].weight)] == (2e-3, 0.3)


def test_a_loaded_state_brings_no_rates_of_its_own():
    """Moments and step go on; rates, decays and betas are those of the configuration."""
    model = toy_segmenter()
    old, new = (
        OptimConfig(lr=lr, weight_decay=decay, betas=betas, layer_decay=0.5, warmup_steps=2)
        for lr, decay, betas in ((1e-3, 0.1, (0.9, 0.99)), (1e-4, 0.2, (0.8, 0.9)))
    )
    before, schedule = build_optimizer(model, old, 10)
    for _ in range(4):
        before.step()
        schedule.step()
    states = before.state_dict(), schedule.state_dict()
    after, resumed = build_optimizer(model, new, 10)
    after.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    follow_config(after, resumed, model, new)
    fresh, expected = build_optimizer(model, new, 10)
    for _ in range(4):
        fresh.step()
        expected.step()
    keys = ("lr", "initial_lr", "weight_decay", "betas")
    for _ in range(2):
        for mine, right in zip(after.param_groups, fresh.param_groups, strict=True):
            assert [mine[key] for key in keys] == [right[key] for key in keys]
        for optimizer, rates in ((after, resumed), (fresh, expected)):
            optimizer.step()
            rates.step()


def test_a_policy_alone_has_the_groups_that_it_has_in_a_segmenter():
    model, config = toy_segmenter(), OptimConfig(policy_lr=2e-3, betas=(0.8, 0.9))
    inside = [g for g in parameter_groups(model, config) if g["name"].startswith("policy")]
    optimizer, _ = build_optimizer(PolicyModule(policy=model.policy), config, 10)
    alone = [{key: group[key] for key in inside[0]} for group in optimizer.param_groups]
    assert [{**g, "lr": 0} for g in alone] == [{**g, "lr": 0} for g in inside]
    assert {group["initial_lr"] for group in optimizer.param_groups} == {2e-3}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}


def test_one_kernel_for_all_parameters_steps_as_pytorch_does():
    """Parameters without a gradient, as those of a skipped step, stay."""
    weights = []
    for fused in (True, False):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(size)) for size in (5, 3, 4)]
        options = {"lr": 0.1, "weight_decay": 0.2, "betas": (0.8, 0.9)}
        groups = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.3}]
        optimizer = (adamw if fused else AdamW)(groups, **options)
        assert bool(optimizer.defaults["fused"]) is fused
        assert not getattr(optimizer, "_step_supports_amp_scaling", False)  # or none are clipped
        for step in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            parameters[1].grad = None
            if step == 2:
                optimizer.zero_grad()
            optimizer.step()
        weights.append(parameters)
    torch.testing.assert_close(*weights)


def test_layer_decay_multiplies_per_block():
    model = toy_segmenter()  # 4 blocks
    rates = {}
    for group in parameter_groups(model, OptimConfig(lr=1.0, layer_decay=0.5)):
        for parameter in group["params"]:
            rates[id(parameter)] = group["lr"]
    blocks = model.backbone.blocks
    found = [rates[id(block.mlp.fc1.weight)] for block in blocks]
    assert found == [0.125, 0.25, 0.5, 1.0]
    assert rates[id(model.backbone.patch_embed.proj.weight)] == 0.0625
    assert rates[id(model.decoder.presence.weight)] == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_schedule_corners(schedule):
    config = OptimConfig(
        schedule=schedule, power=0.5, warmup_steps=10, warmup_factor=0.1, min_lr_factor=0.2
    )
    assert lr_factor(0, config, 110) == pytest.approx(0.1)
    assert lr_factor(5, config, 110) == pytest.approx(0.55)
    assert lr_factor(10, config, 110) == pytest.approx(1.0)
    assert lr_factor(110, config, 110) == pytest.approx(0.2)
    middle = {"cosine": 0.5, "poly": math.sqrt(0.5)}[schedule]
    assert lr_factor(60, config, 110) == pytest.approx(0.2 + 0.8 * middle)


def test_a_constant_rate_is_one_after_the_warm_up():
    config = OptimConfig(schedule="constant", warmup_steps=10, warmup_factor=0.1)
    assert lr_factor(5, config, 110) == pytest.approx(0.55)
    assert [lr_factor(step, config, 110) for step in (10, 60, 110)] == [1, 1, 1]


def test_in_two_stages_the_encoder_waits_for_the_heads():
    config = OptimConfig(
        lr=1.0, schedule="poly", power=1, warmup_steps=2, encoder_warmup_steps=4, warmup_factor=0
    )
    optimizer, schedule = build_optimizer(toy_segmenter(), config, 10)
    rates = {"backbone": [], "heads": []}
    for _ in range(10):
        for group in optimizer.param_groups:
            if group["name"] in rates:
                rates[group["name"]].append(group["lr"])
        optimizer.step()
        schedule.step()
    assert rates["heads"] == pytest.approx([0, 0.5, *(1 - n / 8 for n in range(8))])
    assert rates["backbone"] == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])


def test_a_warm_up_of_both_stages_leaves_steps():
    config = OptimConfig(warmup_steps=5, encoder_warmup_steps=5)
    with pytest.raises(ValueError, match=r"a warm-up of 10 steps .* leaves nothing of .*=10"):
        build_optimizer(toy_segmenter(), config, 10)


def test_steps_follow_the_schedule():
    config = OptimConfig(lr=0.5, policy_lr=0.1, betas=(0.8, 0.9))
    optimizer, schedule = build_optimizer(toy_segmenter(), config, 4)
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    start = rates[0]
    assert rates == pytest.approx([start * factor for factor in expected])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "step"}, r"optim.schedule='step': .*cosine, poly.*constant"),
        ({"lr": 0.0}, "optim.lr must be positive"),
        ({"weight_decay": -1.0}, "optim.weight_decay cannot be negative"),
    ],
)
def test_impossible_numbers(changes, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**changes)
