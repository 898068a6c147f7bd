"""SegViT's cascade equals its loops in float64, and serves all systems without exits."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from counters import counts_of_all_agree
from reference import atm, step_loop, vit
from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint import Checkpoint
from stepseg.data.specs import get_spec
from stepseg.export.static import StaticSegmenter
from stepseg.grid import segment_all
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.macs import head_macs
from stepseg.model import Reduction
from stepseg.packed import PackedTokens
from stepseg.protocol import Protocol
from stepseg.runtime.apply import stand_in
from stepseg.runtime.heads import CompiledHead
from toys import (
    CLASSES,
    DIM,
    SYSTEMS,
    packed,
    toy_cascade,
    toy_cascaded_segmenter,
    toy_head,
    toy_images,
    toy_segmenter,
)

WITHOUT_EXITS = [name for name, reduction in SYSTEMS.items() if not reduction.exit_blocks]
LENGTHS = {"ragged": [5, 2, 9], "uniform": [4, 4], "one empty": [3, 0], "all empty": [0, 0]}
CONFIG = {
    "num_classes": 3,
    "backbone": {"name": "vit_tiny", "depth": 4},
    "policy": None,
    "heads": {"num_layers": 1, "cascade": [1, 3]},
}


def at_depths(lengths: list[int], **options: torch.dtype) -> PackedTokens:
    """Random tokens with values of three depths, ``[T, 3 * D]``."""
    tokens = packed(lengths, **options)
    values = [tokens.values_TD, *(torch.randn_like(tokens.values_TD) for _ in range(2))]
    return tokens.with_values(torch.cat(values, 1))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_equals_the_reference_of_each_image(lengths):
    head = toy_cascade().double().eval()
    tokens = at_depths(lengths, dtype=torch.float64)
    mask_logits, class_logits = head(tokens)
    weights = {key: value.requires_grad_() for key, value in vit.weights_of(head).items()}
    images = [
        atm.atm_cascade(list(own.chunk(3, 1)), weights, num_heads=2, num_layers=2)
        for own in tokens.values_TD.split(lengths)
    ]
    expected = torch.cat([masks for masks, _ in images]), torch.stack([c for _, c in images])
    torch.testing.assert_close(mask_logits.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(class_logits.double(), expected[1], rtol=1e-5, atol=1e-5)

    upstream = [torch.randn_like(x) for x in expected]
    ((mask_logits * upstream[0]).sum() + (class_logits * upstream[1]).sum()).backward()
    gradients = torch.autograd.grad(
        expected, list(weights.values()), upstream, materialize_grads=True
    )
    for (name, parameter), gradient in zip(head.named_parameters(), gradients, strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_training_supervises_what_each_module_makes_of_it():
    head = toy_cascade(dropout=0.0)
    tokens = at_depths([5, 3])
    first, second, last = head.answers(tokens)
    alone = toy_head(dropout=0.0)
    alone.load_state_dict({k: v for k, v in head.state_dict().items() if "further" not in k})
    expected = alone(tokens.with_values(tokens.values_TD[:, :DIM]))
    for own, theirs in zip(first, expected, strict=True):
        torch.testing.assert_close(own, theirs)
    assert not torch.equal(first[0], second[0])
    for own, answer in zip(last, head.eval()(tokens), strict=True):
        torch.testing.assert_close(own, answer)
    assert len(head.answers(tokens)) == 1, "evaluation has no use for the others"


def test_every_parameter_learns_from_any_of_the_answers():
    model = toy_cascaded_segmenter().train()
    output = model(toy_images(2), reduction=Reduction())
    answers = output.answers(output.heads[-1])
    assert [m.shape for m, _ in answers] == [(2, CLASSES, 5, 7)] * 3
    sum((m.sum() + c.sum() for m, c in answers), torch.zeros(())).backward()
    own = [(n, p) for n, p in model.named_parameters() if not n.startswith("policy")]
    assert [n for n, p in own if p.grad is None or not p.grad.any()] == []


def test_the_loss_has_the_terms_of_every_module():
    config = ModelConfig.from_dict(CONFIG | {"num_classes": 11})
    module = SegmentationModule(config=config, spec=get_spec("camvid"), protocol=Protocol())
    labels = torch.randint(0, 11, (1, 64, 64))
    terms = module.train().losses(module.model(toy_images(1, 64, 64)), labels)
    assert {name.partition("/")[0] for name in terms} == {"cascade_1", "cascade_2", "decoder"}
    assert len({value.item() for name, value in terms.items() if "focal" in name}) == 3


@torch.no_grad()
@pytest.mark.parametrize("system", WITHOUT_EXITS)
def test_the_whole_model_equals_the_method_in_loops(system):
    model, image = toy_cascaded_segmenter().double(), toy_images(1)[0].double()
    result = model(image[None], reduction=SYSTEMS[system])
    expected = step_loop.segment(model, image, SYSTEMS[system])
    torch.testing.assert_close(
        result.cell_scores()[0].double(), expected.cell_scores_CYX, rtol=1e-4, atol=1e-4
    )
    assert result.tokens_per_stage == [(len(expected.windows),)]


@torch.no_grad()
def test_a_grid_of_reductions_and_inference_give_the_same():
    model, images = toy_cascaded_segmenter(), toy_images(2)
    wanted = [SYSTEMS[name] for name in WITHOUT_EXITS]
    expected = [model(images, reduction=reduction).scores() for reduction in wanted]
    for ready in (model, model.prepare_for_inference()):
        for result, scores in zip(segment_all(ready, wanted, images), expected, strict=True):
            torch.testing.assert_close(result.scores(), scores, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_one_graph_for_all_images():
    counter = CompileCounter()
    head = toy_cascade().eval().requires_grad_(False)
    batches = [at_depths(lengths) for lengths in ([5, 6], [7], [0, 3], [9, 9, 4])]
    expected = [head(tokens) for tokens in batches]
    stand_in(head, "answer", CompiledHead(head, backend=counter))
    for tokens, logits in zip(batches, expected, strict=True):
        torch.testing.assert_close(head(tokens), logits)
        assert counter.frame_count == 1


@pytest.mark.parametrize("system", ["dense", "dcts"])
def test_multiply_accumulates_equal_those_of_traces(system):
    counts_of_all_agree(toy_cascaded_segmenter(), toy_images(1)[0], SYSTEMS[system])
    presence = 2 * CLASSES * 16  # asked once
    single = head_macs(toy_head(), 35, DIM) - presence
    assert head_macs(toy_cascade(), 35, DIM) - presence == 3 * single


def test_a_checkpoint_brings_it_back(tmp_path):
    config = ModelConfig.from_dict(CONFIG)
    trained = build_segmenter(config).eval()
    assert trained.decoder.earlier_blocks == (1, 3)
    again = ModelConfig.from_dict(config.to_dict())
    model = Checkpoint(tmp_path / "best.ckpt", again, {}, trained.state_dict(), step=1).build()
    images = toy_images(1, 64, 64)
    assert torch.equal(model.eval()(images).scores(), trained(images).scores())
    state = {k: v for k, v in trained.state_dict().items() if "further.1" not in k}
    with pytest.raises(ValueError, match=r"counts 2 of decoder\.further\.\*, it holds 1"):
        Checkpoint(tmp_path / "best.ckpt", again, {}, state, step=1).build()


@pytest.mark.parametrize(
    ("cascade", "reduction", "message"),
    [
        ([4], {}, r"cascade=\[4\]: .* within 1\.\.3, ascending .* then block 4, the last"),
        ([0, 2], {}, r"within 1\.\.3"),
        ([3, 1], {}, "ascending without repetition"),
        ([1, 3], {"exit": {"blocks": [2]}}, r"exit heads after blocks \[2\].* without exits"),
        ([1], {"exit": {"heads": [2, 3]}}, r"exit heads after blocks \[2, 3\]"),
    ],
)
def test_what_a_cascade_cannot_be_combined_with(cascade, reduction, message):
    values = CONFIG | {"heads": {"cascade": cascade}, "reduction": reduction}
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(values)


def test_a_model_of_finished_parts_refuses_exits_too():
    with pytest.raises(ValueError, match="let some leave before"):
        toy_segmenter(decoder=toy_cascade())


def test_export_says_that_it_cannot():
    with pytest.raises(ValueError, match=r"blocks \[1, 2\] besides the last .* cannot be exported"):
        StaticSegmenter(toy_cascaded_segmenter(), Reduction(), (64, 64))
