"""A training that is given secrets, and everything that it leaves behind."""

import json

import torch

from commands import SMALL, compose_config, write_camvid
from stepseg.cli.config import plain, recorded
from stepseg.cli.train.job import train

SECRETS = {"HF_TOKEN": "hf_of-the-environment", "api_key": "typed-in-the-command"}
TYPED = [
    "logger=wandb", "logger.wandb.mode=disabled", "logger.wandb.notes=${oc.env:HF_TOKEN}",
    "+logger.wandb.config={api_key: typed-in-the-command}",
    "logger.wandb.project=${logger.wandb.notes}",
]  # fmt: skip


def test_no_file_of_a_run_holds_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    data, out = write_camvid(tmp_path / "camvid"), tmp_path / "out"
    typed = ["data=camvid", f"data.root={data}", *SMALL, "card=true", "compare=false", *TYPED]
    train(compose_config("train", typed, out))
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert {"result.json", "README.md", "model.safetensors", "hparams.yaml", "config.yaml"} <= names
    for path in out.rglob("*"):
        for secret in SECRETS.values():
            assert path.is_dir() or secret.encode() not in path.read_bytes(), path
    result = json.loads((out / "result.json").read_text())
    assert result["config"]["logger"]["wandb"]["notes"] == "${oc.env:HF_TOKEN}"
    typed = {"logger.wandb.notes=${oc.env:HF_TOKEN}", "+logger.wandb.config={api_key: ***}"}
    assert typed <= set(result["overrides"])
    last = torch.load(out / "checkpoints/last.ckpt", weights_only=True)
    assert last["stepseg_run"]["config"] == result["config"]


def test_what_is_used_is_resolved_and_what_is_recorded_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    monkeypatch.setenv("MANY", "7")
    cfg = compose_config(
        "train",
        [*TYPED, "seed='${oc.decode:${oc.env:MANY}}'", "monitor=a/${oc.env:NONE,val}"],
        tmp_path,
    )
    used, said = plain(cfg), recorded(cfg)
    assert used["logger"]["wandb"]["project"] == SECRETS["HF_TOKEN"]
    assert said["logger"]["wandb"]["project"] == "${oc.env:HF_TOKEN}"
    assert used["logger"]["wandb"]["config"]["api_key"] == SECRETS["api_key"]
    assert (used["seed"], said["seed"]) == (7, "${oc.env:MANY}")
    assert (used["monitor"], said["monitor"]) == ("a/val", "a/${oc.env:NONE,val}")
    assert said["data"]["root"].startswith("${oc.env:STEPSEG_CACHE,")
    assert said["optim"] == used["optim"]
    assert plain(cfg) == used  # the resolver is the usual one again
