"""The position grid: bicubic as written out in the reference, and means over windows."""

import pytest
import torch

from reference import vit
from stepseg.vit.pos_embed import pool_pos_embed, resize_pos_embed


@pytest.mark.parametrize("grid", [(4, 4), (8, 8), (3, 7), (9, 5), (2, 2), (1, 6)], ids=str)
def test_resize_equals_bicubic_by_hand(grid):
    pos_embed = torch.randn(1, 16, 3)
    resized = resize_pos_embed(pos_embed, grid)
    assert resized.shape == (1, *grid, 3)
    expected = vit.position_grid(pos_embed, *grid)[None]
    torch.testing.assert_close(resized.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_grid_of_the_checkpoint_is_left_as_it_is():
    pos_embed = torch.arange(9.0).view(1, 9, 1)
    assert resize_pos_embed(pos_embed, (3, 3)).view(-1).tolist() == list(range(9))


def test_rows_are_not_columns():
    # Position 3 * y + x on a 3 x 3 grid: x grows along the last axis of the grid.
    pos_embed = torch.tensor([0.0, 1.0, 2.0] * 3).view(1, 9, 1)
    wide = resize_pos_embed(pos_embed, (3, 6))[0, :, :, 0]
    assert (wide.diff(dim=1) > 0).all()
    assert wide.diff(dim=0).abs().max() < 1e-5


def test_half_precision_and_autocast_interpolate_in_float32():
    pos_embed = torch.randn(1, 16, 4)
    half = pos_embed.bfloat16()
    expected = resize_pos_embed(half.float(), (7, 5)).bfloat16()
    assert torch.equal(resize_pos_embed(half, (7, 5)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = resize_pos_embed(pos_embed, (7, 5))
    assert torch.equal(under_autocast, resize_pos_embed(pos_embed, (7, 5)))


@pytest.mark.parametrize("window", [1, 2, 3])
def test_pool_is_the_mean_over_the_cells_of_a_window(window):
    grid = torch.randn(1, 7, 5, 3)
    pooled = pool_pos_embed(grid, window)
    assert pooled.shape == (1, 7 // window, 5 // window, 3)
    for y in range(7 // window):
        for x in range(5 // window):
            cells = [
                grid[0, y * window + i, x * window + j]
                for i in range(window)
                for j in range(window)
            ]
            torch.testing.assert_close(pooled[0, y, x], torch.stack(cells).mean(0))
