"""Compiled stages: the same features, one graph a stage whatever the images, no derivative."""

import torch
from torch._dynamo.testing import CompileCounter

from stepseg.runtime.apply import stand_in
from stepseg.runtime.stages import CompiledStages
from toys import packed, toy_vit

RAGGED = [(5, 6), (7,), (1, 1, 1), (0, 3), (9, 9), (4, 0, 2, 8), (30,)]


def compiled(vit):
    counter = CompileCounter()
    stand_in(vit, "run_blocks", CompiledStages(vit, backend=counter))
    return counter


@torch.inference_mode()
def test_one_graph_a_stage_for_all_images():
    model = toy_vit(depth=12).eval().requires_grad_(False)
    batches = [packed(lengths) for lengths in RAGGED]
    reference = [model.run_blocks(tokens, 0, 12).values_TD for tokens in batches]
    counter = compiled(model)
    for index, tokens in enumerate(batches):
        for block in range(12):
            tokens = model.run_blocks(tokens, block, block + 1)
        torch.testing.assert_close(tokens.values_TD, reference[index])
        assert counter.frame_count == 12


@torch.inference_mode()
def test_few_tokens_need_no_graph():
    model = toy_vit(depth=2).eval()
    counter = compiled(model)
    for lengths in [(0,), (0, 0), (1,), (0, 1)]:
        tokens = packed(lengths)
        assert len(model.run_blocks(tokens, 0, 2)) == sum(lengths)
    assert counter.frame_count == 0


def test_gradients_take_the_eager_way():
    model = toy_vit(depth=2)
    counter = compiled(model)
    model.run_blocks(packed((3, 4)), 0, 2).values_TD.sum().backward()
    assert model.blocks[0].attn.qkv.weight.grad is not None
    assert counter.frame_count == 0
