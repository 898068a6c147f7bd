"""A runtime comes from outside and goes again: keys, copies and gradients know nothing of it."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from stepseg.runtime.apply import apply_runtime, stand_in
from stepseg.runtime.graph import Compiled
from stepseg.runtime.graphs import Graphs
from stepseg.runtime.stages import CompiledStages
from stepseg.runtime.trial import Trial
from toys import SYSTEMS, packed, toy_images, toy_segmenter, toy_vit


def stand_ins(model):
    found = [value for module in model.modules() for value in vars(module).values()]
    return [value for value in found if isinstance(value, Compiled)]


def test_unknown_runtime():
    with pytest.raises(ValueError, match=r"runtime='graph': choose one of auto, eager"):
        apply_runtime(toy_segmenter(), "graph")


def test_the_last_runtime_counts():
    model = toy_segmenter().prepare_for_inference()
    keys = list(model.state_dict())
    parts = 2 + len(model.exit_heads) + 1  # policy and backbone, exit heads, decoder
    for runtime in ("compile", "graphs", "compile", "auto", "eager"):
        assert apply_runtime(model, runtime) is model
        assert len(stand_ins(model)) == (parts if runtime == "compile" else 0)
        instead = vars(model).get("forward")
        assert type(instead) is {"graphs": Graphs, "auto": Trial}.get(runtime, type(None))
        assert list(model.state_dict()) == keys


def test_what_graphs_record_has_the_same_weights_in_compiled_blocks():
    model = apply_runtime(toy_segmenter().prepare_for_inference(), "graphs")
    recorded = model.forward.underneath(model)
    assert len(stand_ins(recorded)) == 1 + len(model.exit_heads) + 1  # the policy stays a module
    assert "forward" not in vars(recorded)
    assert recorded.backbone.run_blocks.module is recorded.backbone is not model.backbone
    tensors = zip(model.state_dict().values(), recorded.state_dict().values(), strict=True)
    assert all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in tensors)


@torch.inference_mode()
def test_a_copy_makes_graphs_of_its_own_weights():
    vit, tokens = toy_vit(depth=2).eval().requires_grad_(False), packed((5, 6))
    counter = CompileCounter()
    stand_in(vit, "run_blocks", CompiledStages(vit, backend=counter))
    before = vit.run_blocks(tokens, 0, 2).values_TD
    other = copy.deepcopy(vit)
    other.load_state_dict({key: -value for key, value in vit.state_dict().items()})
    assert other.run_blocks.module is other
    found = other.run_blocks(tokens, 0, 2).values_TD
    torch.testing.assert_close(found, type(other).run_blocks(other, tokens, 0, 2).values_TD)
    assert not torch.allclose(found, before)


def test_training_goes_on_under_a_runtime():
    model = apply_runtime(toy_segmenter(), "compile")
    model(toy_images(2)).heads[-1].mask_logits_T0C.sum().backward()
    assert model.backbone.blocks[0].attn.qkv.weight.grad is not None
    assert all(not part._graphs for part in stand_ins(model))


@pytest.mark.slow  # runs a C++ compiler
def test_compiled_segmenter_equals_eager():
    reduction = SYSTEMS["step"]
    model = toy_segmenter().prepare_for_inference()
    sizes = [(128, 128), (64, 160), (128, 256)]
    with torch.inference_mode():
        batches = [toy_images(batch, *size) for size in sizes for batch in (1, 3)]
        eager = [model(images, reduction=reduction) for images in batches]
        apply_runtime(model, "compile")
        for images, expected in zip(batches, eager, strict=True):
            found = model(images, reduction=reduction)
            assert found.tokens_per_stage == expected.tokens_per_stage
            torch.testing.assert_close(found.scores(), expected.scores())
