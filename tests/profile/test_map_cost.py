import pytest
import torch


@pytest.fixture(scope="module")
def map_cost(script):
    return script("map_cost")


def test_both_ways_give_the_same_map_on_a_scene(map_cost):
    scores = map_cost.scene_scores(128, 9)
    assert scores.shape == (1, 8, 8, 9)
    torch.testing.assert_close(scores.sum(-1), torch.ones(1, 8, 8))
    ours = map_cost.upsampled_argmax(scores, 16)
    plain = map_cost.plain_argmax(scores)
    pixels = torch.nn.functional.interpolate(
        scores.permute(0, 3, 1, 2), scale_factor=16, mode="bilinear"
    )
    # shares tie often, and then either class is right
    torch.testing.assert_close(pixels.gather(1, ours[:, None])[:, 0], pixels.amax(1))
    assert (ours == plain).float().mean() > 0.9


def test_share_of_disputed_quads(map_cost):
    leaders = torch.tensor([[[0, 0, 0], [0, 0, 1], [0, 0, 1]]])
    assert map_cost.disputed_share(torch.nn.functional.one_hot(leaders).float()) == 0.5
    assert map_cost.disputed_share(torch.ones(1, 4, 4, 3)) == 0


def test_the_command_prints_three_lines(map_cost, capsys):
    map_cost.main(["--resolution", "64", "--classes", "9", "--iterations", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:12].strip() for line in lines] == ["street scene", "all disputed", "plain"]
