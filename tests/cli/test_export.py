"""`stepseg-export` from checkpoint to file."""

import json

import huggingface_hub
import pytest
import torch
from PIL import Image

from commands import compose_config
from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint import describe, read_checkpoint
from stepseg.cli.export import job as command_job
from stepseg.cli.export.job import export
from stepseg.data.specs import get_spec
from stepseg.export import job
from stepseg.export.agreement import Agreement
from stepseg.export.program import EXTRA_FILE
from stepseg.protocol import Protocol

STATIC = [
    "reduction.merge.windows=[2]", "reduction.merge.top_k=2", "reduction.exit.rule=budget",
    "reduction.exit.tokens=[9]",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A segmenter as `stepseg-train` writes it, untrained."""
    values = {
        "num_classes": 11,
        "backbone": {"name": "vit_tiny", "depth": 2},
        "policy": {"name": "lcnet_050", "windows": [2, 4]},
        "heads": {"num_layers": 1},
        "reduction": {
            "merge": {"windows": [2, 4], "thresholds": [0.3, 0.6]},
            "exit": {"blocks": [1], "threshold": 0.25},
        },
    }
    config = ModelConfig.from_dict(values)
    torch.manual_seed(0)
    state = {f"model.{k}": v for k, v in build_segmenter(config).state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    entry = describe(config, get_spec("camvid"), Protocol(mode="slide", crop=(64, 96)))
    torch.save({"state_dict": state, "stepseg": entry, "global_step": 1}, path)
    return path


def run(output, *overrides):
    export(compose_config("export", list(overrides), output))
    return json.loads((output / "result.json").read_text())


def test_weights_are_the_default(checkpoint, tmp_path):
    result = run(tmp_path / "a", f"ckpt_path={checkpoint}", f"output={tmp_path}/shared")
    path = tmp_path / "shared" / "model.safetensors"
    assert (result["status"], result["file"]) == ("completed", str(path))
    assert result["bytes"] == path.stat().st_size
    assert read_checkpoint(path).config == read_checkpoint(checkpoint).config


def test_a_readme_of_somebody_else_stays(checkpoint, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "README.md").write_text("# my project\n")
    given = [f"ckpt_path={checkpoint}", f"output={shared}"]
    with pytest.raises(ValueError, match="is no model card of stepseg"):
        run(tmp_path / "a", *given)
    assert [file.name for file in shared.iterdir()] == ["README.md"]
    run(tmp_path / "b", *given, "card=false")
    assert (shared / "README.md").read_text() == "# my project\n"
    (shared / "README.md").unlink()
    for name in "cd":  # its own card is brought up to date
        run(tmp_path / name, *given)


def test_a_card_from_the_result_of_the_training(checkpoint, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_bytes(checkpoint.read_bytes())
    row = {"name": "dense", "mIoU": 12.34, "tokens_per_stage": [24]}
    values = {
        "status": "completed", "command": "stepseg-train", "overrides": ["seed=4"], "seed": 4,
        "checkpoint": "/elsewhere/best.ckpt", "mIoU": 12.34, "rows": [row],
    }  # fmt: skip
    (tmp_path / "run" / "result.json").write_text(json.dumps(values))
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (96, 64), "teal").save(tmp_path / "photos" / "a.png")
    arguments = [f"output={tmp_path}/shared", f"images={tmp_path}/photos", "name=pond"]
    run(tmp_path / "a", f"ckpt_path={folder}/best.ckpt", *arguments)
    text = (tmp_path / "shared" / "README.md").read_text()
    assert "# pond\n" in text
    assert "**12.34 mIoU**" in text
    assert "stepseg-train seed=4" in text
    assert "![example 1](pictures/example_1.png)" in text
    assert "example 2" not in text  # one photo
    run(tmp_path / "b", f"ckpt_path={folder}/best.ckpt", f"output={tmp_path}/bare", "card=false")
    assert [path.name for path in (tmp_path / "bare").iterdir()] == ["model.safetensors"]
    assert read_checkpoint(tmp_path / "bare" / "model.safetensors").about["seed"] == 4


def test_a_push_takes_card_and_weights(checkpoint, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(command_job, "check_push", lambda repo: None)
    monkeypatch.setattr(
        command_job,
        "push",
        lambda *args, **options: pushed.append((args, options)) or "hf://ada/pond",
    )
    arguments = [f"ckpt_path={checkpoint}", "push_to=ada/pond", "private=false"]
    result = run(tmp_path, *arguments)
    ((repo, files), options) = pushed[0]
    assert (repo, set(files)) == ("ada/pond", {"README.md", "model.safetensors"})
    assert options["private"] is False
    assert result["pushed_to"] == "hf://ada/pond"
    assert 'from_checkpoint("hf://ada/pond")' in (tmp_path / "README.md").read_text()


def test_a_push_that_cannot_be_is_refused_first(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="push_to='ada/pond' needs a token"):
        run(tmp_path, f"ckpt_path={checkpoint}", "push_to=ada/pond")
    assert {path.name for path in tmp_path.iterdir()} <= {"result.json", ".hydra"}


def test_a_program_of_step(checkpoint, tmp_path, capsys):
    target = tmp_path / "step.pt2"
    arguments = [f"ckpt_path={checkpoint}", "format=torch", f"output={target}", "scores=true"]
    result = run(tmp_path / "a", *arguments, *STATIC, "verify=1")
    assert result["image_size"] == [64, 96]  # the windows of the protocol
    assert result["tokens_per_stage"] == [24 - 2 * 3, 9]
    assert result["agreement"]["equal"] == 1
    assert result["agreement"]["pixels"] == 64 * 96
    assert result["agreement"]["largest_score_difference"] < 1e-5
    assert result["model_ms_p50"] > 0
    assert result["exported_ms_p50"] > 0
    assert "100.0000 %" in capsys.readouterr().out
    torch.export.load(target, extra_files=(extra := {EXTRA_FILE: ""}))
    metadata = json.loads(extra[EXTRA_FILE])
    assert metadata["classes"][0] == "sky"
    assert metadata["palette"][0] == [128, 128, 128]
    assert metadata["model"]["reduction"]["merge"]["top_k"] == 2
    assert metadata["model"]["reduction"]["exit"]["tokens"] == [9]
    assert metadata["batch_size"] == 1
    assert set(metadata["outputs"]) == {"labels", "scores"}


def test_a_file_that_disagrees_is_not_passed_on(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "compare", lambda *args: Agreement(100, 0.5, 0.3, None))
    arguments = [f"ckpt_path={checkpoint}", "format=torch", "reduction=none"]
    with pytest.raises(ValueError, match=r"disagrees with the model.*0\.500000"):
        run(tmp_path, *arguments)
    assert not (tmp_path / "model.pt2").exists()


def test_single_values_become_the_weights_own(checkpoint, tmp_path):
    typed = ["reduction.exit.threshold=0.77", "reduction.merge.thresholds=[0.1,0.2]"]
    run(tmp_path, f"ckpt_path={checkpoint}", *typed, "card=false")
    own = read_checkpoint(tmp_path / "model.safetensors").config.reduction
    assert (own.exit.threshold, own.merge.thresholds) == (0.77, (0.1, 0.2))
    assert own.exit.blocks == (1,)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["format=tflite"], "format='tflite': choose one of safetensors, onnx, torch"),
        (["format=onnx", "output=model.pt2"], r"files of format=onnx end in \.onnx"),
        (["format=onnx"], "cannot be exported with static shapes.*top_k.*rule=budget.*=none"),
        (["format=torch", "reduction=none", "image_size=[64]"], "pixels or .height, width., got"),
        (["format=torch", "reduction=none", "image_size=0"], "must be positive"),
        (["format=torch", "reduction=none", "batch_size=0"], "batch_size=0: at least 1"),
        (["format=torch", "reduction=none", "verify=-1"], "verify=-1 counts images"),
        (["format=onnx", "reduction=none", "opset=11"], "opset=11: the exporter writes opset 18"),
        (["format=torch", "reduction=none", "images=/nowhere"], "'/nowhere' is not a folder"),
        (["format=torch", "reduction=none", "batch_size=two"], "batch_size is 'two', expected"),
        (["batch_size=2"], "batch_size=2 says nothing of format=safetensors"),
        (["format=onnx", "license=mit"], "license=mit says nothing of format=onnx"),
    ],
)
def test_bad_wishes_are_refused(overrides, message, checkpoint, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, f"ckpt_path={checkpoint}", *overrides)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"
    assert {path.name for path in tmp_path.iterdir()} <= {"result.json", ".hydra"}


def test_a_size_is_needed_where_the_protocol_has_none(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    del content["stepseg"]["protocol"]
    torch.save(content, tmp_path / "old.ckpt")
    arguments = [f"ckpt_path={tmp_path}/old.ckpt", "format=torch", "reduction=none"]
    with pytest.raises(ValueError, match=r"image_size= is missing.*image_size=\[512,512\]"):
        run(tmp_path / "out", *arguments)
