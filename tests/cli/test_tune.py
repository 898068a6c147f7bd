"""`stepseg-tune` from configuration to reduction file, on a data set and a model of seconds."""

import json

import pytest
import torch

from commands import compose_config, write_camvid
from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint import KEY, describe
from stepseg.cli.evaluate.job import evaluate
from stepseg.cli.export.job import export
from stepseg.cli.reduction_file import register_reduction_files
from stepseg.cli.tune.job import tune
from stepseg.data.specs import get_spec
from stepseg.evaluation import Evaluator
from stepseg.predict.segmenter import Segmenter
from stepseg.profile.benchmark import measured_cost
from stepseg.reduction_file import read_values
from stepseg.tuning.latency import Clock

MODEL = {
    "num_classes": 11,
    "backbone": {"name": "vit_tiny", "depth": 3},
    "heads": {"num_layers": 1, "dim": 48, "num_heads": 3},
    "policy": {"name": "lcnet_050", "windows": [2, 4]},
    "reduction": {
        "merge": {"windows": [2, 4], "thresholds": [0.5, 0.5]},
        "exit": {"blocks": [1, 2], "threshold": 0.3},
    },
}


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    root = tmp_path_factory.mktemp("tune")
    data = write_camvid(root / "camvid", train=1, val=20)
    torch.manual_seed(0)
    config = ModelConfig.from_dict(MODEL)
    state = build_segmenter(config).state_dict()
    entry = {KEY: describe(config, get_spec("camvid"))}
    torch.save(
        {"state_dict": {f"model.{k}": v for k, v in state.items()}, **entry}, root / "best.ckpt"
    )
    register_reduction_files()
    return [
        f"ckpt_path={root / 'best.ckpt'}", "data=camvid", f"data.root={data}",
        "data.num_workers=0", "data.val_batch_size=1",
    ]  # fmt: skip


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_budget_gives_a_file_that_other_commands_take(common, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"99 GMACs cannot be met: .* are possible"):
        tune(compose_config("tune", [*common, "gmacs=99"], tmp_path / "impossible"))
    told = result_of(tmp_path / "impossible")["error"]
    dense = float(told.rpartition("; ")[2].split()[0])
    budget = round(0.8 * dense, 3)
    typed = [*common, f"gmacs={budget}"]
    tune(compose_config("tune", typed, tmp_path / "tuned"))
    result = result_of(tmp_path / "tuned")
    assert result["status"] == "completed"
    assert result["target"] == {"gmacs": budget}
    assert result["images_by_part"] == {"calibration": 10, "held_out": 10, "scouted": 1}
    assert result["search"]["evaluations"] <= 10
    assert (result["reason"] is None) == (abs(result["gmacs_mean"] / budget - 1) <= 0.02)
    [chosen] = [point for point in result["search"]["tried"] if point["chosen"]]
    assert chosen["gmacs_mean"] <= 1.01 * budget
    assert result["rows"][-1]["name"] == "tuned"
    assert all((tmp_path / "tuned" / row["confusion"]).is_file() for row in result["rows"])
    systems = (tmp_path / "tuned" / "tables" / "final_systems.csv").read_text()
    assert [line.split(",")[1] for line in systems.splitlines()[1:]] == [
        "dense", "given", "tuned"
    ]  # fmt: skip
    assert (tmp_path / "tuned" / "front.png").stat().st_size > 1000
    file = tmp_path / "tuned" / "reduction.yaml"
    evaluate(compose_config("eval", [*common, f"reduction={file}"], tmp_path / "eval"))
    row = result_of(tmp_path / "eval")["rows"][0]
    assert row["merge_thresholds"] == result["rows"][-1]["reduction"]["merge"]["thresholds"]
    ckpt = common[0].partition("=")[2]
    export(compose_config("export", [common[0], f"reduction={file}"], tmp_path / "shared"))
    shared = tmp_path / "shared" / "model.safetensors"
    assert f"stepseg-tune gmacs={budget:g}" in (shared.parent / "README.md").read_text()
    for path in (file, None):
        weights = ckpt if path else shared
        segmenter = Segmenter.from_checkpoint(weights, reduction=path, device="cpu")
        assert list(segmenter.reduction.merge.thresholds) == row["merge_thresholds"]

    # once more in the same folder: nothing is computed again
    monkeypatch.setattr(Evaluator, "update", None)
    tune(compose_config("tune", typed, tmp_path / "tuned"))
    assert result_of(tmp_path / "tuned")["gmacs_mean"] == result["gmacs_mean"]


@pytest.mark.slow
def test_a_latency_is_met(common, tmp_path, monkeypatch):
    def by_operations(self, reductions):
        """Milliseconds of an invented device; every call is carried out once."""
        found = {}
        for name, reduction in reductions.items():
            assert self._call(reduction.build())().shape == (1, 64, 96)
            images = [image[None] / 255 for image in self.images]
            ms = 1 + 100 * measured_cost(self.model, reduction.build(), images)["gmacs"]
            found[name] = {"latency_ms_p50": ms, "images_per_s": 1000 / ms, "speedup": 1.0}
        return found

    monkeypatch.setattr(Clock, "times", by_operations)
    with pytest.raises(ValueError, match=r"1e-06 ms cannot be met: .* without any reduction"):
        tune(compose_config("tune", [*common, "latency_ms=1e-6"], tmp_path / "impossible"))
    told = result_of(tmp_path / "impossible")["error"]
    dense = float(told.rpartition("; ")[2].split()[0])
    tune(compose_config("tune", [*common, f"latency_ms={0.8 * dense:.3f}"], tmp_path / "tuned"))
    result = result_of(tmp_path / "tuned")
    assert result["latency_ms_p50"] < 0.9 * dense
    assert result["rows"][0]["latency_ms_p50"] == pytest.approx(dense, rel=0.05)
    assert result["search"]["evaluations"] <= 10


def test_a_certificate_needs_images_alone(common, tmp_path):
    images = common[2].partition("=")[2] + "/images/val"
    typed = [common[0], f"images={images}", "certify=0.9", "bound=mean"]
    tune(compose_config("tune", typed, tmp_path))
    result = result_of(tmp_path)
    certificate = result["certificate"]
    assert (certificate["n"], certificate["alpha"], certificate["delta"]) == (20, 0.9, None)
    assert certificate["certified"] == len(result["sequence"]) == 20
    assert certificate["floor"] == pytest.approx(1 / 21)
    cheapest = min(range(20), key=lambda k: result["sequence"][k]["gmacs_mean"])
    assert certificate["chosen"] == cheapest
    assert "In the mean" in (tmp_path / "README.md").read_text()
    assert read_values(tmp_path / "reduction.yaml")["tuned"]["certificate"] == certificate

    typed = [*common, "certify=0.01"]  # those of the data
    with pytest.raises(ValueError, match=r"20 images certify 0\.14 at best.* at least 302 images"):
        tune(compose_config("tune", typed, tmp_path / "too_few"))


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ([], "exactly one target of .*: none is given"),
        (["gmacs=1", "max_drop=1"], "gmacs=1, max_drop=1"),
        (["gmacs=-1"], "gmacs=-1: a number above 0"),
        (["gmacs=1", "reduction=none"], "dense has no number to tune"),
        (["gmacs=1", "calibration=0.9"], "fewer than 10"),
        (["gmacs=1", "images=photos"], "images=photos says nothing of gmacs="),
        (["certify=0.1", "logger=csv"], "logger=csv says nothing of certify="),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(common, tmp_path, target, problem):
    with pytest.raises(ValueError, match=problem):
        tune(compose_config("tune", [*common, *target], tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["algm", "tome", "smaller", "cts", "dtop"])
def test_every_rule_has_a_number(common, tmp_path, rule):
    tune(compose_config("tune", [*common, f"reduction={rule}", "max_drop=99"], tmp_path))
    result = result_of(tmp_path)
    assert result["gmacs_mean"] < result["rows"][0]["gmacs_mean"]
