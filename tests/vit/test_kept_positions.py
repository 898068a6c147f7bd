"""Positions are resized once for a grid, and anew whenever the weights have changed."""

import copy

import pytest
import torch
from torch.optim import SGD

from stepseg.packed import TokenLayout
from stepseg.vit import staged
from toys import toy_vit

CHANGES = {
    "in place": lambda vit: vit.pos_embed.mul_(2),
    "loading": lambda vit: vit.load_state_dict({"pos_embed": vit.pos_embed * 2}, strict=False),
    "other data": lambda vit: setattr(vit.pos_embed, "data", vit.pos_embed.data * 2),
    "behind the counter": lambda vit: (vit.train(), vit.pos_embed.data.mul_(2), vit.eval()),
    "another type": lambda vit: vit.bfloat16(),
    "another parameter": lambda vit: setattr(
        vit, "pos_embed", torch.nn.Parameter(vit.pos_embed * 2)
    ),
}


@pytest.fixture
def vit():
    return toy_vit().eval()


@pytest.fixture
def resized(monkeypatch):
    """The grids for which positions were resized."""
    grids, resize = [], staged.resize_pos_embed

    def noted(weights, grid, **options):
        grids.append(grid)
        return resize(weights, grid, **options)

    monkeypatch.setattr(staged, "resize_pos_embed", noted)
    return grids


def embed(vit, height=80, width=112):
    images = torch.full((1, 3, height, width), 0.4, dtype=vit.pos_embed.dtype)
    layout = TokenLayout.full(1, (height // 16, width // 16), "cpu")
    return vit.embed(images, layout, "bilinear").values_TD


@torch.no_grad()
def test_once_for_a_grid(vit, resized):
    for _ in range(3):
        embed(vit)
    embed(vit, 64, 64)
    embed(vit)
    assert resized == [(5, 7), (4, 4)]
    for cells in range(6, 10):  # more grids than are kept
        embed(vit, 16 * cells, 16)
    embed(vit)
    assert resized[2:] == [(6, 1), (7, 1), (8, 1), (9, 1), (5, 7)]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_anew_after_the_weights_have_changed(vit, resized, change):
    embed(vit)
    change(vit)
    after = embed(vit)
    assert len(resized) == 2
    assert torch.equal(after, embed(copy.deepcopy(vit)))
    assert len(resized) == 3  # a copy has weights of its own


def test_training_sees_every_step(vit, resized):
    optimizer = SGD(vit.parameters(), lr=1.0)
    for _ in range(2):
        vit.train()
        embed(vit).square().sum().backward()
        assert vit.pos_embed.grad.abs().sum() > 0
        optimizer.step()
        with torch.inference_mode():
            before = embed(vit.eval())
    assert len(resized) == 4
    with torch.no_grad():
        assert torch.equal(before, embed(copy.deepcopy(vit)))
