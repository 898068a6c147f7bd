"""Compiled stages: the same features, one graph a stage whatever the images, no derivative."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from stepseg.runtime.stages import CompiledStages
from toys import SYSTEMS, packed, toy_images, toy_segmenter, toy_vit

RAGGED = [(5, 6), (7,), (1, 1, 1), (0, 3), (9, 9), (4, 0, 2, 8), (30,)]


@torch.inference_mode()
def test_one_graph_a_stage_for_all_images():
    counter = CompileCounter()
    model = toy_vit(depth=12).eval().requires_grad_(False)
    batches = [packed(lengths) for lengths in RAGGED]
    reference = [model.run_blocks(tokens, 0, 12).values_TD for tokens in batches]
    model.compiled = CompiledStages(list(model.blocks), backend=counter)
    for index, tokens in enumerate(batches):
        for block in range(12):
            tokens = model.run_blocks(tokens, block, block + 1)
        torch.testing.assert_close(tokens.values_TD, reference[index])
        assert counter.frame_count == 12


@torch.inference_mode()
def test_few_tokens_need_no_graph():
    model = toy_vit(depth=2).eval()
    model.compiled = CompiledStages(list(model.blocks), backend=CompileCounter())
    for lengths in [(0,), (0, 0), (1,), (0, 1)]:
        tokens = packed(lengths)
        assert len(model.run_blocks(tokens, 0, 2)) == sum(lengths)
    assert model.compiled.backend.frame_count == 0


def test_gradients_take_the_eager_way():
    model = toy_vit(depth=2)
    model.compiled = CompiledStages(list(model.blocks), backend=CompileCounter())
    model.run_blocks(packed((3, 4)), 0, 2).values_TD.sum().backward()
    assert model.blocks[0].attn.qkv.weight.grad is not None
    assert model.compiled.backend.frame_count == 0


def test_unknown_runtime():
    with pytest.raises(ValueError, match=r"runtime='graph': choose one of eager, compile, graphs"):
        toy_segmenter().prepare_for_inference("graph")


def test_the_last_runtime_counts():
    model = toy_segmenter(reduction=SYSTEMS["step"])

    def special():
        parts = [
            model.policy,
            model.backbone,
            *map(model.head, (*model.exit_head_blocks, model.backbone.depth)),
        ]
        return [part.compiled is not None for part in parts], model.backbone.buffered is not None

    for runtime in ("compile", "graphs", "compile", "eager"):
        model.prepare_for_inference(runtime)
        compiled, buffered = special()
        assert set(compiled) == {runtime == "compile"}
        assert buffered == (runtime == "graphs")


@pytest.mark.slow  # runs a C++ compiler
def test_compiled_segmenter_equals_eager():
    reduction = SYSTEMS["step"]
    model = toy_segmenter().prepare_for_inference()
    sizes = [(128, 128), (64, 160), (128, 256)]
    with torch.inference_mode():
        batches = [toy_images(batch, *size) for size in sizes for batch in (1, 3)]
        eager = [model(images, reduction=reduction) for images in batches]
        model.prepare_for_inference("compile")
        for images, expected in zip(batches, eager, strict=True):
            found = model(images, reduction=reduction)
            assert found.tokens_per_stage == expected.tokens_per_stage
            torch.testing.assert_close(found.scores(), expected.scores())
