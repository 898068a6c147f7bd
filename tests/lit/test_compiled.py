"""Compiled blocks learn what eager ones learn, whatever the number of tokens."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from stepseg.lit.compiled import compile_blocks
from toys import FOUNDATION, SYSTEMS, toy_images, toy_policy, toy_segmenter, toy_vit


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(model, images, dtype=None):
    torch.manual_seed(1)  # of drop-path and dropout
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        output = model(images, reduction=SYSTEMS["step_budget"])
        sum(head.mask_logits_T0C.sigmoid().mean() for head in output.heads).backward()
    return {name: p.grad.clone() for name, p in model.backbone.named_parameters()}


@pytest.mark.parametrize(
    ("foundation", "backend"),
    [(True, "eager"), pytest.param(False, "aot_eager", marks=pytest.mark.slow)],
)
def test_gradients_equal_those_of_eager_blocks(foundation, backend):
    changes = FOUNDATION if foundation else {}
    frozen = toy_policy(training="frozen")  # one that learns decides otherwise after every batch
    model = toy_segmenter(backbone=toy_vit(**changes, drop_path=0.3), policy=frozen).train()
    compiled = copy.deepcopy(model)
    counter = CompileCounterWithBackend(backend)
    compile_blocks(compiled.backbone, counter)
    graphs = []
    for height in (80, 128, 64, 96):  # other numbers of tokens
        images = toy_images(2, height, 112)
        found = gradients(compiled, images)
        graphs.append(counter.frame_count)
    # What attention returns is a view of as many rows or of more: a graph for either.
    assert graphs[3] == graphs[2] < 2 * model.backbone.depth
    for name, gradient in gradients(model, images).items():
        error = (found[name] - gradient).norm() / gradient.norm().clamp(1e-9)
        assert error < 1e-3, name


@pytest.mark.slow
def test_under_autocast_and_with_recomputed_blocks():
    model = toy_segmenter(backbone=toy_vit(checkpoint_blocks=2)).train()
    compiled = copy.deepcopy(model)
    compile_blocks(compiled.backbone, "aot_eager")
    images = toy_images(2, 80, 112)
    expected = gradients(model, images, torch.bfloat16)
    found = gradients(compiled, images, torch.bfloat16)
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm() / gradient.norm().clamp(1e-9)
        assert error < 0.05, name


def test_evaluation_and_copies_for_inference_are_eager():
    model = toy_segmenter()
    images = toy_images(2)
    with torch.no_grad():
        expected = model(images).scores()
    counter = CompileCounterWithBackend("eager")
    compile_blocks(model.backbone, counter)
    with torch.no_grad():
        assert torch.equal(model(images).scores(), expected)
        copied = copy.deepcopy(model)
        for block in copied.backbone.blocks:
            assert block.residuals.block is block
        copied.backbone.blocks[0].mlp.fc2.weight.zero_()
        assert not torch.equal(copied(images).scores(), expected)
        assert torch.equal(model(images).scores(), expected)
    assert counter.frame_count == 0
