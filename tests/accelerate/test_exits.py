"""What exit heads learn from: shares of classes, by hand, and a head that finds them again."""

import torch

from stepseg.accelerate.exits import Seen, class_shares, fit_heads, with_untrained_heads
from stepseg.build import build_segmenter
from stepseg.checkpoint import Checkpoint
from stepseg.model_config import BackboneConfig, HeadConfig, ModelConfig
from stepseg.packed import Segments, TokenLayout


def test_shares_of_classes_by_token():
    # two by two cells of 2 px, the image is 3 px high: the last row of pixels is padding
    labels = torch.tensor([[[0, 0, 1, 2], [0, 0, 1, 1], [2, 255, 255, 255]]])
    layout = TokenLayout.full(1, (2, 2), "cpu")
    shares = class_shares(layout, labels, 3, side=2)
    assert shares.tolist() == [[1, 0, 0], [0, 0.75, 0.25], [0, 0, 1], [0, 0, 0]]
    merged = TokenLayout(
        cell_to_token_BYX=torch.zeros(1, 2, 2, dtype=torch.int64),
        window_BYX=torch.full((1, 2, 2), 2),
        anchor_T0=torch.zeros(1, dtype=torch.int64),
        segments=Segments.uniform(1, 1, "cpu"),
        windows=(2,),
    )
    torch.testing.assert_close(
        class_shares(merged, labels, 3, side=2), torch.tensor([[4.0, 3.0, 2.0]]) / 9
    )


def test_heads_have_temperatures_whatever_the_training_said(tmp_path):
    config = ModelConfig(
        num_classes=3,
        backbone=BackboneConfig("vit_tiny", depth=2),
        policy=None,
        heads=HeadConfig(num_layers=1, calibration_images=0),
    )
    state = build_segmenter(config).state_dict()
    checkpoint = Checkpoint(tmp_path / "best.ckpt", config, {}, state, step=1)
    model = with_untrained_heads(checkpoint, [1]).build()
    assert model.exit_head_blocks == [1]
    assert "exit_heads.1.temperature" in model.state_dict()


def test_heads_find_what_can_be_seen_and_doubt_the_rest(monkeypatch):
    """Half of the tokens show their class, the others are a toss-up."""
    monkeypatch.setattr("stepseg.accelerate.exits.STEPS", 300)
    torch.manual_seed(0)
    x_ND, class_N = torch.randn(4000, 8), torch.randint(2, (4000,))
    clear_N = torch.rand(4000) < 0.5
    x_ND[:, 0] = torch.where(clear_N, 6.0 * (2 * class_N - 1), 0.0)
    shares = torch.nn.functional.one_hot(class_N, 2).float()
    head = fit_heads(Seen({3: x_ND}, shares), torch.Generator().manual_seed(0))[3]
    confidence, said = head.mask_logits(x_ND).sigmoid().max(1)
    assert (said == class_N)[clear_N].all()
    assert confidence[clear_N].mean() > 0.95
    assert confidence[~clear_N].mean() < 0.7
