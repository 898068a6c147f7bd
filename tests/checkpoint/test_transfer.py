"""Fine-tuning: what fits of a checkpoint is loaded, the rest is said."""

import torch

from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint.transfer import take_over

CLASSES = ["sky", "road", "car"]


def model(num_classes=3, blocks=(1,), pos_grid=4, depth=3, seed=0, **backbone):
    torch.manual_seed(seed)
    values = {
        "num_classes": num_classes,
        "backbone": {"name": "vit_tiny", "depth": depth, "pos_grid": pos_grid, **backbone},
        "policy": None,
        "heads": {"num_layers": 1},
        "reduction": {"exit": {"blocks": list(blocks)}},
    }
    return build_segmenter(ModelConfig.from_dict(values))


def test_the_same_model_is_taken_over_whole():
    old, new = model(), model(seed=1)
    done = take_over(new, old.state_dict(), CLASSES, CLASSES)
    assert all(torch.equal(v, new.state_dict()[k]) for k, v in old.state_dict().items())
    assert done.line() == f"{done.taken} of {done.taken} weights are taken over"


def test_classes_are_known_by_name_and_heads_by_their_block():
    old, new = model(blocks=(1,)), model(num_classes=4, blocks=(1, 2), seed=1)
    before = new.decoder.query_Cd.detach().clone()
    done = take_over(new, old.state_dict(), CLASSES, ["car", "lake", "sky", "boat"])
    queries = new.decoder.query_Cd.detach()
    assert torch.equal(queries[[0, 2]], old.decoder.query_Cd.detach()[[2, 0]])
    assert torch.equal(queries[[1, 3]], before[[1, 3]])
    assert torch.equal(new.backbone.blocks[2].norm1.weight, old.backbone.blocks[2].norm1.weight)
    assert "queries of lake, boat are new; new: the head after block 2" in done.line()
    back = take_over(old, new.state_dict(), ["car", "lake", "sky", "boat"], CLASSES)
    assert back.line().endswith("not used: the head after block 2")


def test_positions_are_resized_and_deeper_models_keep_their_last_blocks():
    old, new = model(pos_grid=4, depth=2), model(pos_grid=6, depth=3, seed=1)
    done = take_over(new, old.state_dict(), CLASSES, CLASSES)
    assert new.backbone.pos_embed.shape == (1, 36, 192)
    corner = new.backbone.pos_embed[0, 0] - old.backbone.pos_embed[0, 0]
    assert corner.abs().max() < old.backbone.pos_embed.abs().max()
    assert "positions resized from 4 x 4 to 6 x 6" in done.line()
    assert "new: backbone block 3" in done.line()
