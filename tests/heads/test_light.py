"""Light exit heads, a linear map or one layer, with temperatures: against loops and counters."""

from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from counters import counts_of_all_agree
from reference import atm, merging, step_loop, vit
from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint.transfer import take_over
from stepseg.evaluation import Evaluator
from stepseg.heads.linear import LinearHead
from stepseg.heads.temperature import fit_temperatures, tempered
from stepseg.lit.optim import OptimConfig, build_optimizer
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.losses import LossWeights, distill_loss
from stepseg.protocol import Protocol
from stepseg.runtime.apply import stand_in
from stepseg.runtime.heads import CompiledLinearHead
from toys import (
    CLASSES,
    DIM,
    SYSTEMS,
    light_heads,
    packed,
    toy_head,
    toy_images,
    toy_labels,
    toy_policy,
    toy_segmenter,
)

SPEC = SimpleNamespace(num_classes=CLASSES, ignore_index=255)


def light(**changes):
    return toy_segmenter(exit_heads=light_heads(), **changes)


def test_a_linear_head_equals_a_softmax_in_loops():
    head = light_heads()[1].double()
    tokens = packed([5, 0, 2], dtype=torch.float64)
    masks, classes = head(tokens)
    expected = atm.linear_head(tokens.values_TD, vit.weights_of(head))
    torch.testing.assert_close(masks.sigmoid().double(), expected.sigmoid(), rtol=1e-4, atol=3e-6)
    torch.testing.assert_close(masks.sigmoid().sum(1), torch.ones(7))
    assert classes is None
    head(packed([0]).with_values(torch.zeros(0, DIM, dtype=torch.float64)))[0].sum().backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("class_source", ["final", "own"])
@pytest.mark.parametrize("system", ["step", "step_budget", "step_all_leave"])
@torch.no_grad()
def test_equals_the_method_in_loops(system, class_source):
    """Who leaves follows temperatures, the map does not; and an image knows no neighbours."""
    model, images = light(class_source=class_source).double(), toy_images().double()
    result, left = model(images, reduction=SYSTEMS[system]), []
    for b, image in enumerate(images):
        expected = step_loop.segment(model, image, SYSTEMS[system])
        assert merging.tokens(result.layout.window_BYX[b].tolist()) == expected.windows
        assert [head.tokens_per_image[b] for head in result.heads] == expected.tokens_per_head
        scores = result.cell_scores()[b].double()
        torch.testing.assert_close(scores, expected.cell_scores_CYX, rtol=1e-4, atol=1e-5)
        left.append(expected.tokens_per_head[0] - expected.tokens_per_head[-1])
    assert any(left)


@pytest.mark.parametrize("system", ["dtop", "step"])
def test_analytic_equals_both_counters(system):
    counts_of_all_agree(light(), toy_images(1)[0], SYSTEMS[system])


@torch.inference_mode()
def test_one_graph_for_all_numbers_of_tokens():
    counter, head = CompileCounter(), light_heads()[1].eval().requires_grad_(False)
    batches = [packed(lengths) for lengths in ((5, 6), (7,), (30,), (0,), (1,))]
    expected = [head(tokens)[0] for tokens in batches]
    stand_in(head, "mask_logits", CompiledLinearHead(head, backend=counter))
    for tokens, logits in zip(batches, expected, strict=True):
        torch.testing.assert_close(head(tokens)[0], logits)
    assert counter.frame_count == 1


@pytest.mark.parametrize(("scale", "expected"), [(0.5, 2.0), (1.0, 1.0), (3.0, 1 / 3)])
def test_a_temperature_is_found_again(scale, expected):
    torch.manual_seed(0)
    logits = 2 * torch.randn(4000)
    right = (logits * scale).sigmoid()
    fitted = fit_temperatures([logits, logits[:0]], [right, right[:0]])
    assert fitted.tolist() == pytest.approx([expected, 1.0], rel=2e-2)
    assert tempered(logits.sigmoid(), fitted[0]) == pytest.approx(right, abs=0.01)
    order = tempered(torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]), fitted[0])
    assert order.tolist() == sorted(order.tolist())
    assert order[[0, 2, 4]].tolist() == [0, 0.5, 1]
    extreme = fit_temperatures([logits.abs()] * 2, [torch.ones(4000), torch.zeros(4000)])
    assert extreme.tolist() == pytest.approx([0.05, 20], rel=0.9)


@torch.no_grad()
def test_exits_are_judged_by_the_pixels_of_the_tokens_that_a_head_sees():
    """Error of the second head by hand, of all its tokens in one bin."""
    model, images, labels = light(), (toy_images() * 255).byte(), toy_labels()
    reduction = SYSTEMS["step"]
    evaluator = Evaluator(model, [reduction], SPEC, Protocol())
    evaluator.update(images, labels)
    row = evaluator.compute()[0]
    figures = row["exit_calibration"]
    output = model(images.float() / 255, reduction=reduction)
    head = output.heads[1]
    confidence, klass, _ = output.confidences(head)
    owner, gaps = output.layout.cell_to_token_BYX, torch.zeros(10, 2)
    for token in range(output.layout.num_tokens):
        cells = (owner == token).repeat_interleave(16, 1).repeat_interleave(16, 2)
        own = labels[cells[:, :80, :112]]
        if output.exit_T0[token] >= 1 and (own != 255).any():
            right = (own[own != 255] == klass[token]).float().mean()
            gaps[min(int(confidence[token] * 10), 9)] += torch.stack([right, confidence[token]])
    total = sum(head.tokens_per_image)
    expected = float((gaps[:, 0] - gaps[:, 1]).abs().sum()) / total
    assert figures["3"]["ece"] == pytest.approx(expected, abs=1e-5)
    assert sum(bin_["count"] for bin_ in figures["3"]["bins"]) == total
    assert [e["block"] for e in row["exits"]] == [1, 3]


def test_heads_learn_alone_from_labels_and_decoder():
    """Of a model that is frozen otherwise: no gradient elsewhere, no noise in the loss."""
    parts = {"policy": toy_policy(training="frozen"), "frozen": True}
    model = light(reduction=SYSTEMS["step"], **parts)
    model.decoder.freeze()
    config = ModelConfig.from_dict({"num_classes": CLASSES, "heads": {"exit": "linear"}})
    module = SegmentationModule(
        config=config, spec=SPEC, model=model, protocol=Protocol(), loss=LossWeights(pixel=1.0)
    ).train()
    assert not any(m.training for m in model.decoder.modules())
    assert module.loss.exit_distill == 1
    images, labels = toy_images(), toy_labels()
    terms = module.losses(model(images, labels), labels)
    names = ["focal", "dice", "pixel", "distill"]
    assert list(terms) == [
        *(f"exit_head_1/{t}" for t in names), *(f"exit_head_2/{t}" for t in ["classes", *names]),
        *(f"exit_head_3/{t}" for t in names),
    ]  # fmt: skip
    torch.stack(list(terms.values())).sum().backward()
    learnt = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learnt == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("exit_heads.") for name in learnt)
    groups = build_optimizer(model, OptimConfig(), 10)[0].param_groups
    assert {group["name"].split()[0] for group in groups} == {"heads"}
    module.eval()
    module.val_losses.update(module.losses(model(images, labels), labels), 3)  # knows all terms


def test_the_decoder_teaches_at_the_tokens_that_reach_it():
    p = torch.tensor([[0.2, 0.6], [0.9, 0.1], [0.5, 0.5]], requires_grad=True)
    teacher = torch.tensor([[0.3, 0.1], [0.4, 0.4], [0.0, 1.0]], requires_grad=True)
    loss = distill_loss(p, teacher, torch.tensor([True, False, True]), 2.0)
    first = 0.75 * torch.tensor(3.0).log() + 0.25 * torch.tensor(1 / 3).log()
    assert loss.item() == pytest.approx(float(first) + 0.6931, abs=1e-4)
    loss.backward()
    assert teacher.grad is None
    assert p.grad is not None
    assert p.grad.any(1).tolist() == [True, False, True]


@pytest.mark.parametrize("kind", ["atm", "atm1", "linear"])
def test_weights_go_by_the_kind_and_classes_by_name(kind):
    def build(seed, **heads):
        torch.manual_seed(seed)
        values = {
            "num_classes": 3, "backbone": {"name": "vit_tiny", "depth": 2, "pos_grid": 4},
            "policy": None, "heads": {"exit": kind, "num_layers": 2} | heads,
            "reduction": {"exit": {"blocks": [1]}},
        }  # fmt: skip
        config = ModelConfig.from_dict(values)
        assert ModelConfig.from_dict(config.to_dict()) == config
        return build_segmenter(config)

    old, new = build(0), build(1)
    head = old.exit_heads["1"]
    assert (head.temperature is None) == (kind == "atm")
    assert isinstance(head, LinearHead) or len(head.layers) == {"atm": 2, "atm1": 1}[kind]
    done = take_over(new, old.state_dict(), ["a", "b", "c"], ["c", "d", "a"])
    assert "d are new" in done.line()
    rows = (m.classify.weight if kind == "linear" else m.query_Cd for m in (head, new.head(1)))
    mine, theirs = rows
    assert torch.equal(theirs[[0, 2]], mine[[2, 0]])
    assert build(0, calibration_images=4).head(1).temperature is not None


@pytest.mark.parametrize(
    ("heads", "match"),
    [
        ({"exit": "linea"}, "heads.exit='linea'.*linear"),
        ({"calibration_images": -1}, "calibration_images counts images"),
    ],
)
def test_wrong_heads(heads, match):
    with pytest.raises(ValueError, match=match):
        ModelConfig.from_dict({"num_classes": 3, "heads": heads})
    assert toy_head().freeze().train().training is False
