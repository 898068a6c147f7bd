from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counters import ELEMENTWISE, counts_of_all_agree
from stepseg.macs import count_macs, total_macs
from stepseg.model import Reduction, Segmentation
from stepseg.profile.fvcore import packed_attention_handle, trace_fvcore, trace_torch
from toys import (
    FOUNDATION,
    OTHERS,
    SYSTEMS,
    segmenter_of,
    toy_images,
    toy_policy,
    toy_segmenter,
    toy_vit,
)


def analytic(model, image, reduction):
    with torch.no_grad():
        output = model(image[None], reduction=reduction)
    return count_macs(model, output), output


@pytest.mark.parametrize("system", SYSTEMS)
def test_analytic_equals_fvcore_on_real_traces(system):
    model, image = toy_segmenter(), toy_images(1)[0]
    parts, output = analytic(model, image, SYSTEMS[system])

    trace = trace_fvcore(model, image, SYSTEMS[system])

    besides = sum(trace.by_operator.get(name, 0) for name in ELEMENTWISE)
    # CTS ignores the scores of 4 x 4 windows: run and counted here, dropped from the trace.
    unread = model.policy.classifier["4"].weight.numel() if system == "cts" else 0
    assert total_macs(parts) == [trace.total - besides + unread]
    assert total_macs(parts)[0] == pytest.approx(trace.total - besides, rel=1e-3)
    assert trace.by_module[""] == trace.total
    if output.tokens_per_stage[-1][0]:  # nobody attends where no token is left
        assert trace.by_operator["attention"] > 0


@pytest.mark.parametrize("foundation", [False, True], ids=["plain", "foundation"])
@pytest.mark.parametrize("system", OTHERS)
def test_analytic_equals_both_counters_for_other_methods(system, foundation):
    """Matching and scorers included."""
    model = segmenter_of(system, backbone=toy_vit(**FOUNDATION if foundation else {}))
    counts_of_all_agree(model, toy_images(1)[0], OTHERS[system])


@pytest.mark.parametrize("system", SYSTEMS)
def test_analytic_equals_the_counter_of_pytorch(system):
    model, image = toy_segmenter(), toy_images(1)[0]
    parts, _ = analytic(model, image, SYSTEMS[system])
    assert trace_torch(model, image, SYSTEMS[system]) == total_macs(parts)[0] - parts["norms"][0]


@settings(max_examples=10)
@given(
    height=st.integers(32, 130),
    width=st.integers(32, 130),
    system=st.sampled_from(list(SYSTEMS)),
)
def test_analytic_equals_the_counter_of_pytorch_on_any_size(height, width, system):
    model, image = toy_segmenter(), toy_images(1, height, width)[0]
    parts, _ = analytic(model, image, SYSTEMS[system])
    assert trace_torch(model, image, SYSTEMS[system]) == total_macs(parts)[0] - parts["norms"][0]


def test_the_policy_is_seen_although_its_decision_passes_through_the_host():
    model, image = toy_segmenter(), toy_images(1)[0]
    parts, output = analytic(model, image, SYSTEMS["step"])
    assert output.layout.num_tokens < 35, "something merges"

    trace = trace_fvcore(model, image, SYSTEMS["step"])

    policy = trace.by_module["policy"] - trace.by_operator["batch_norm"]
    assert policy == parts["policy"][0] > 0
    assert trace.by_module["exit_heads.1"] > parts["exit_head_1"][0] > 0
    assert trace.by_module["decoder"] > parts["decoder"][0] > 0


def test_without_the_handle_attention_is_lost():
    """The reason for the adapter: if fvcore learns fused attention, this one can go."""
    from fvcore.nn import FlopCountAnalysis

    class Attend(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    plain = FlopCountAnalysis(Attend(), torch.rand(1, 2, 7, 8)).unsupported_ops_warnings(False)
    assert plain.total() == 0


def test_tracing_leaves_the_model_as_it_was():
    model, image = toy_segmenter(policy=toy_policy()), toy_images(1)[0]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trace_fvcore(model, image, SYSTEMS["step"])
    trace_torch(model, image, SYSTEMS["step"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.backbone.parameters())
    output = model(image[None], reduction=Reduction())
    assert isinstance(output, Segmentation)


def value_of_shape(*sizes):
    return SimpleNamespace(
        isCompleteTensor=lambda: True, type=lambda: SimpleNamespace(sizes=lambda: list(sizes))
    )


@pytest.mark.parametrize("leading", [(), (1,)])
def test_packed_attention_of_one_image_is_exact(leading):
    query, key = value_of_shape(*leading, 5, 2, 8), value_of_shape(*leading, 7, 2, 8)
    offsets = value_of_shape(2)
    handle = packed_attention_handle([query, key, key, offsets, offsets], [])
    assert handle == {"attention": 2 * (5 * 7) * (8 + 8)}


def test_packed_attention_of_several_images_says_what_it_cannot_know():
    x, offsets = value_of_shape(12, 2, 8), value_of_shape(4)
    with pytest.raises(ValueError, match="over 3 images"):
        packed_attention_handle([x, x, x, offsets, offsets], [])
