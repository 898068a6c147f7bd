import pytest
import torch

from stepseg.dcts.edges import edge_density
from stepseg.dcts.merge import MergeRule, merge_windows
from stepseg.model import Reduction
from toys import toy_images, toy_segmenter


def one_striped_window():
    """4 x 4 patches of 4 px, grey, with black and white columns in the top-left 2 x 2 patches."""
    image = torch.full((1, 3, 16, 16), 0.5)
    image[:, :, :8, :8] = torch.tensor([0.0, 1.0]).repeat(4)
    return image


def test_density_of_a_hand_made_image():
    # Inside: 7 columns of steps of 1, and a step of 1/2 to the grey beside, in 8 rows; below the
    # last of them 8 steps of 1/2. Mean over 64 px of the window, and over 256 px of the image.
    inside = (7 * 8 + 8 / 2 + 8 / 2) / 64
    mean = inside / 4

    density = edge_density(one_striped_window(), patch_size=4, windows=(2, 4))

    expected = torch.tensor([[inside / (inside + mean), 0], [0, 0]])
    torch.testing.assert_close(density[2][0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(density[4], torch.full((1, 1, 1), 0.5), atol=1e-4, rtol=0)


def test_flat_images_are_at_their_mean_and_contrast_does_not_matter():
    flat = edge_density(torch.full((1, 3, 32, 32), 0.3), 4, (2,))[2]
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5))
    image = toy_images(1)
    vivid, pale = edge_density(image, 16, (2,))[2], edge_density(0.2 + image / 2, 16, (2,))[2]
    torch.testing.assert_close(vivid, pale, atol=1e-4, rtol=0)


def test_any_size_gives_one_value_per_whole_window():
    density = edge_density(torch.rand(2, 3, 50, 90), 16, (2, 4, 8))  # a grid of 4 x 6
    assert {window: tuple(d.shape) for window, d in density.items()} == {
        2: (2, 2, 3),
        4: (2, 1, 1),
        8: (2, 0, 0),
    }


def test_thresholds_follow_edges_by_the_weight():
    scores = {2: torch.full((1, 2, 2), 0.6)}
    edges = {2: torch.tensor([[[0.9, 0.5], [0.4, 0.1]]])}

    def merged(weight, threshold=0.55):
        rule = MergeRule(windows=(2,), thresholds=(threshold,), edge_weight=weight)
        return (merge_windows(scores, rule, 1, (4, 4), edges)[0, ::2, ::2] == 2).tolist()

    assert merged(0) == [[True, True], [True, True]]
    # thresholds 0.75, 0.55, 0.5, 0.35
    assert merged(0.5) == [[False, True], [True, True]]
    # reversed: 0.35, 0.55, 0.6, 0.75; the score is not strictly greater than 0.6
    assert merged(-0.5) == [[True, True], [False, False]]
    # a threshold of 1 turns a size off, whatever the edges say
    assert merged(2, threshold=1.0) == [[False, False], [False, False]]


def test_the_model_merges_smooth_windows_first():
    model = toy_segmenter()
    images = toy_images(2)

    def smoothness_of_merged(weight):
        rule = MergeRule(windows=(2,), thresholds=(0.5,), edge_weight=weight)
        layout = model(images, reduction=Reduction(merge=rule)).layout
        merged = layout.window_BYX[:, ::2, ::2][:, :2, :3] == 2
        density = edge_density(images, 16, (2,))[2]
        return density[merged].mean()

    with torch.no_grad():
        assert smoothness_of_merged(2) < smoothness_of_merged(0) < smoothness_of_merged(-2)


@pytest.mark.parametrize("arguments", [{"edge_weight": 2.5}, {"top_k": 3, "thresholds": None}])
def test_impossible_weights_are_refused(arguments):
    with pytest.raises(ValueError, match="edge_weight"):
        MergeRule(**{"windows": (2,), "thresholds": (0.5,), "edge_weight": 1.0, **arguments})
