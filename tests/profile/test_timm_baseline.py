import json

import pytest
import torch

from stepseg.model import Reduction
from toys import toy_images, toy_segmenter


@pytest.fixture(scope="module")
def timm_baseline(script):
    return script("timm_baseline")


def test_it_computes_what_the_dense_system_computes(timm_baseline):
    model, images = toy_segmenter(), toy_images(2, 80, 112)
    with torch.no_grad():
        expected = model(images, reduction=Reduction())
        output = timm_baseline.TimmSegmenter(model, (80, 112)).eval()(images)
    torch.testing.assert_close(output.scores(), expected.scores(), rtol=1e-4, atol=1e-5)
    assert (output.prediction() == expected.prediction()).float().mean() > 0.999


def test_the_command_writes_the_ratio(timm_baseline, tmp_path, capsys):
    out = tmp_path / "timm.json"
    arguments = "--backbone vit_tiny --resolution 64 --classes 5 --iterations 1 --warmup 0"
    timm_baseline.main([*arguments.split(), "--batch-sizes", "1", "2", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["batch_size"] for row in rows] == [1, 2]
    for row in rows:
        expected = row["timm_ms_p50"] / row["ours_ms_p50"]
        assert row["timm_over_ours"] == pytest.approx(expected)
    assert "timm / ours" in capsys.readouterr().out
