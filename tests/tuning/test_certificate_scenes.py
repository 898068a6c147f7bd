"""The promise on generated scenes: losses of a model cached once, then split a thousand times."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from stepseg.build import ModelConfig, build_segmenter
from stepseg.data.scenes.street import draw_scene
from stepseg.protocol import Protocol
from stepseg.tuning.certificate import Promise, certify
from stepseg.tuning.changes import changes_of
from stepseg.tuning.families import together

MODEL = {
    "num_classes": 8,
    "backbone": {"name": "vit_tiny", "depth": 2},
    "heads": {"num_layers": 1, "dim": 48, "num_heads": 3},
    "policy": {"name": "lcnet_050", "windows": [2]},
    "reduction": {"merge": {"windows": [2], "thresholds": [0.5]}},
}
IMAGES, CALIBRATED, SPLITS, DELTA = 400, 200, 1000, 0.1


@pytest.fixture(scope="module")
def losses():
    """Of scenes under a sequence; any model will do, as nothing is said of its accuracy."""
    torch.manual_seed(0)
    config = ModelConfig.from_dict(MODEL)
    model = build_segmenter(config).prepare_for_inference()
    with torch.no_grad():  # scores that differ between windows, as those of a trained policy do
        for parameter in model.policy.parameters():
            parameter.mul_(1.3)
    path = together(config.reduction, 16, 16)
    sequence = [path.at(t / 40).build() for t in range(14, 28)]
    rows = []
    for index in range(IMAGES):
        image = torch.from_numpy(draw_scene(64, 64, (3, index))[0]).permute(2, 0, 1)
        rows.append(changes_of(model, sequence, image, Protocol()).shares)
    return np.array(rows)


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["betting", "hb", "mean"])
def test_a_thousand_splits(losses, bound):
    risks = losses.mean(0)
    alpha = float((risks.min() + risks.max()) / 2)
    assert risks.max() > risks.min()
    rng = np.random.default_rng(0)
    taken = []
    for _ in range(SPLITS):
        chosen = rng.permutation(IMAGES)[:CALIBRATED]
        certified = certify(losses[chosen], Promise(alpha, DELTA, bound)).certified
        taken.append(risks[:certified].max(initial=0.0))
    if bound == "mean":
        assert np.mean(taken) <= alpha
    else:
        assert np.sum(np.array(taken) > alpha) <= binom.ppf(0.999, SPLITS, DELTA)
