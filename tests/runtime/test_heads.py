"""Compiled heads: the same logits, one graph whatever the images, no derivative."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from stepseg.runtime.apply import stand_in
from stepseg.runtime.heads import CompiledHead
from toys import packed, toy_head

RAGGED = [(5, 6), (7,), (1, 1, 1), (0, 3), (9, 9), (4, 0, 2, 8), (30,)]


@torch.inference_mode()
def test_one_graph_for_all_images():
    counter = CompileCounter()
    head = toy_head().eval().requires_grad_(False)
    batches = [packed(lengths) for lengths in RAGGED]
    expected = [head(tokens) for tokens in batches]
    stand_in(head, "answer", CompiledHead(head, backend=counter))
    for tokens, logits in zip(batches, expected, strict=True):
        torch.testing.assert_close(head(tokens), logits)
        assert counter.frame_count == 1


@torch.inference_mode()
@torch._dynamo.config.patch(recompile_limit=1)
def test_several_heads_have_a_graph_each():
    """However few graphs PyTorch allows for one piece of code: 8, here 1."""
    counter = CompileCounter()
    heads = [toy_head(num_layers=1).eval().requires_grad_(False) for _ in range(2)]
    tokens = packed((3, 4))
    expected = [head(tokens) for head in heads]
    for head in heads:
        stand_in(head, "answer", CompiledHead(head, backend=counter))
    for _ in range(2):
        for head, logits in zip(heads, expected, strict=True):
            torch.testing.assert_close(head(tokens), logits)
    assert counter.frame_count == 2


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [(0,), (0, 0), (1,), (0, 1)])
def test_few_tokens_need_no_graph(lengths):
    counter = CompileCounter()
    head = toy_head().eval()
    stand_in(head, "answer", CompiledHead(head, backend=counter))
    assert len(head(packed(lengths))[0]) == sum(lengths)
    assert counter.frame_count == 0


def test_gradients_take_the_eager_way():
    counter = CompileCounter()
    head = toy_head()
    stand_in(head, "answer", CompiledHead(head, backend=counter))
    head(packed((3, 4)))[0].sum().backward()
    assert head.cross_kv.weight.grad is not None
    assert counter.frame_count == 0
