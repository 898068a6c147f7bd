import copy

import pytest
import torch

import stepseg.macs as macs
from stepseg.build import build_policy, build_segmenter
from stepseg.dcts.fold import fold_batch_norm
from stepseg.macs import (
    block_macs,
    count_macs,
    head_macs,
    macs_of_stages,
    policy_macs,
    total_macs,
)
from stepseg.model_config import BackboneConfig, ModelConfig, PolicyConfig
from toys import SYSTEMS, toy_head, toy_images, toy_oracle, toy_policy, toy_segmenter, toy_vit

PUBLISHED_DENSE = [  # backbone, side, classes, published GMACs, tolerance
    ("vit_base", 512, 150, 109.9, 0.005),
    ("vit_large", 640, 150, 617.0, 0.005),
    ("vit_large", 512, 171, 366.9, 0.005),
    ("vit_base", 512, 19, 110, 0.02),
    ("vit_base", 768, 19, 301, 0.02),
    ("vit_base", 1024, 19, 670, 0.02),
    ("vit_large", 768, 19, 970, 0.02),
    ("vit_large", 1024, 19, 2086, 0.02),
]


def without_memory(backbone, classes, policy=None):
    config = ModelConfig(num_classes=classes, backbone=BackboneConfig(name=backbone), policy=policy)
    with torch.device("meta"):
        return build_segmenter(config)


@pytest.mark.parametrize(("backbone", "side", "classes", "gmacs", "tolerance"), PUBLISHED_DENSE)
def test_dense_equals_the_published_count(backbone, side, classes, gmacs, tolerance):
    model = without_memory(backbone, classes)
    parts = macs_of_stages(model, [(model.backbone.depth, (side // 16) ** 2)])
    assert sum(parts.values()) / 1e9 == pytest.approx(gmacs, rel=tolerance)


def test_cts_equals_the_published_count():
    model = without_memory("vit_large", 171, PolicyConfig())
    total = policy_macs(model.policy, (512, 512))
    total += sum(macs_of_stages(model, [(24, 612 + 103)]).values())
    assert 248e9 * 0.98 < total < 251e9 * 1.02


def test_a_block_by_hand():
    vit = toy_vit()  # 32 channels, MLP of 64
    # 7 tokens: qkv 3 * 32 * 32, projection 32 * 32, MLP 2 * 32 * 64; 2 * 7 * 7 * 32 in attention
    assert block_macs(vit, 7) == 7 * (3 * 1024 + 1024 + 2 * 2048) + 2 * 49 * 32


def test_a_head_by_hand():
    head = toy_head()  # from 32 to 16 channels, 5 classes, 2 layers
    queries = 5 * (3 + 1 + 1 + 1 + 8) * 256  # qkv, two projections, cross query, feed-forward
    pairs = 2 * 5 * 5 * 16 + 2 * 5 * 7 * 16
    keys_and_values = 7 * 2 * 256
    masks_and_presence = 7 * 5 * 16 + 5 * 2 * 16
    expected = 7 * 32 * 16 + 2 * (queries + pairs + keys_and_values) + masks_and_presence
    assert head_macs(head, 7, dim=32) == expected


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_batch_counts_what_its_images_count_alone(system):
    model, images, reduction = toy_segmenter(), toy_images(3), SYSTEMS[system]
    with torch.no_grad():
        together = count_macs(model, model(images, reduction=reduction))
        alone = [count_macs(model, model(i[None], reduction=reduction)) for i in images]
    assert together == {part: [macs[part][0] for macs in alone] for part in together}
    assert all(isinstance(number, int) for numbers in together.values() for number in numbers)


def test_parts_are_named_by_stage_and_sum_to_the_total():
    model = toy_segmenter()
    with torch.no_grad():
        parts = count_macs(model, model(toy_images(2), reduction=SYSTEMS["step_budget"]))
    assert list(parts) == [
        "policy",
        "embedding",
        "blocks_1-1",
        "exit_head_1",
        "blocks_2-3",
        "exit_head_3",
        "blocks_4-4",
        "decoder",
        "norms",
    ]
    assert total_macs(parts) == [sum(p[i] for p in parts.values()) for i in range(2)]
    assert parts["blocks_4-4"] == [block_macs(model.backbone, 4)] * 2
    assert parts["blocks_2-3"] == [2 * block_macs(model.backbone, 9)] * 2


def test_a_policy_counts_only_where_it_is_consulted():
    model, images = toy_segmenter(), toy_images(1)
    with torch.no_grad():
        dtop = count_macs(model, model(images, reduction=SYSTEMS["dtop"]))
        dcts = count_macs(model, model(images, reduction=SYSTEMS["dcts"]))
    assert dtop["policy"] == [0]
    assert dcts["policy"] == [policy_macs(model.policy, (80, 112))] != [0]
    assert policy_macs(toy_oracle(), (80, 112)) == 0
    assert policy_macs(None, (80, 112)) == 0


def test_the_policy_is_counted_once_per_size_and_is_not_touched(monkeypatch):
    policy = toy_policy().train()
    before = copy.deepcopy(policy.state_dict())
    first = policy_macs(policy, (80, 112))
    for key, value in policy.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert policy.training

    monkeypatch.setattr(macs, "network_macs", lambda *_: pytest.fail("counted again"))
    assert policy_macs(policy, (80, 112)) == first


def test_folding_the_batch_norms_of_the_policy_changes_no_count():
    policy = build_policy(PolicyConfig()).eval()
    folded = copy.deepcopy(policy)
    fold_batch_norm(folded.features, torch.zeros(1, 3, 64, 64))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert policy_macs(folded, (96, 160)) == policy_macs(policy, (96, 160))


def test_the_policy_of_the_paper_counts_what_its_convolutions_multiply():
    policy = build_policy(PolicyConfig()).eval()
    counted, total = policy_macs(policy, (128, 96)), 0

    def add(convolution, inputs, output):
        nonlocal total
        total += output[0, 0].numel() * convolution.weight.numel()

    for module in policy.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad():
        policy(torch.rand(1, 3, 128, 96))
    assert counted == total > 60e6
