"""What docs/sweeps.md tells people to type is composed here."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from commands import compose_config
from hydra_plugins.stepseg_launcher.launcher import GpuPoolConf, RayConf, register_launchers

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "sweeps.md").read_text(encoding="utf-8")
COMMANDS = [
    line.replace("srun ", "").replace("$SLURM_JOB_ID", "1")
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(srun )?stepseg-|torchrun", line)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command, tmp_path):
    register_launchers()
    words = shlex.split(command.replace("-m stepseg.cli.train", ""))
    name = "eval" if words[0] == "stepseg-eval" else "train"
    overrides = [word for word in words[1:] if not word.startswith("-")]
    hydra = [o for o in overrides if o.startswith("hydra") and "hydra.run.dir" not in o]
    task = OverridesParser.create().parse_overrides([o for o in overrides if o[:5] != "hydra"])
    (jobs,) = BasicSweeper.split_arguments(task, None)
    for job in jobs:
        compose_config(name, [*hydra, *job], tmp_path)
    swept = "-m" in words or "--multirun" in words
    assert (len(jobs) > 1) is swept


def test_commands_were_found():
    assert [shlex.split(command)[0] for command in COMMANDS].count("stepseg-train") >= 4


@pytest.mark.parametrize(("launcher", "conf"), [("pool", GpuPoolConf), ("Ray", RayConf)])
def test_every_option_is_in_the_table(launcher, conf):
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\w+) \|", TEXT, flags=re.MULTILINE)
    listed = [(name, value) for name, value, who in rows if who in ("both", launcher)]
    written = {"null": None, "true": True}
    defaults = {f.name: f.default for f in fields(conf) if f.name != "_target_"}
    assert [name for name, _ in listed] == list(defaults)
    for name, value in listed:
        assert str(written.get(value, value)) == str(defaults[name]).removesuffix(".0")


def test_the_recipe_of_skypilot_runs_commands_of_ours(tmp_path):
    task = yaml.safe_load((DOCS / "skypilot.yaml").read_text())
    words = shlex.split(re.sub(r"\$(\w+)", lambda name: task["envs"][name[1]], task["run"]))
    assert words[0] == "stepseg-train"
    cfg = compose_config("train", words[1:], tmp_path)
    assert cfg.ckpt_path == "last"
    used = set(
        re.findall(r"\$\{?(\w+)", json.dumps([task["file_mounts"], task["setup"], task["run"]]))
    )
    assert used == set(task["envs"])
