"""`--help` and `--version`: at once, complete, and about this command alone."""

import re
import subprocess
import sys

import pytest

from stepseg.cli.comments import read_comments
from stepseg.cli.help import answer, help_text

COMMANDS = {
    "stepseg-train": "train", "stepseg-eval": "eval", "stepseg-predict": "predict",
    "stepseg-export": "export", "stepseg-benchmark": "benchmark",
    "stepseg-tune": "tune", "stepseg-accelerate": "accelerate",
}  # fmt: skip
HEAVY = {"torch", "lightning", "timm", "torchvision", "matplotlib", "pandas", "wandb"}

ASK = """
import importlib, sys
for name in "train evaluate predict export benchmark tune data report dashboard accelerate".split():
    for option in ("--help", "--version"):
        sys.argv = [f"stepseg-{name}", option]
        try:
            importlib.import_module(f"stepseg.cli.{name}").main()
        except SystemExit as stop:
            assert not stop.code, name
print("imported:", *(name for name in sys.modules if "." not in name))
"""


def test_no_command_imports_anything_heavy_to_explain_itself():
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.rpartition("imported:")[2].split())
    assert done.stdout.count("\nstepseg 0.") == 10  # --version, of each


@pytest.mark.parametrize("command", COMMANDS)
def test_every_group_and_key_has_a_meaning(command):
    text = help_text(command, COMMANDS[command])
    groups, keys = text.split("Groups (")[1].split("Keys (")
    lines = [*groups.splitlines()[1:], *keys.split("\nAlso:")[0].splitlines()[1:]]
    entries = [index for index, line in enumerate(lines) if re.match(r" +(\* )?[\w/]+", line)]
    mute = [
        lines[i].strip()
        for i in entries
        if "# " not in lines[i] and not (i + 1 < len(lines) and lines[i + 1].strip()[:1] == "#")
    ]
    assert mute == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_its_own_groups_and_no_others(command):
    text = help_text(command, COMMANDS[command])
    assert ("  optim " in text) == (command == "stepseg-train")
    assert ("The checkpoint's own reduction" in text) == (
        command in ("stepseg-eval", "stepseg-predict", "stepseg-export", "stepseg-tune")
    )


def test_what_is_typed_beside_it_is_shown(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("# My lake.\nname: folder\ndepth: 3  # of it\n")
    arguments = ["data=mine", "seed=7", "--config-dir", str(tmp_path), "--help"]
    text = answer("stepseg-train", "train", arguments)
    assert re.search(r"\* mine +# My lake\n", text)
    assert re.search(r"    depth: 3 +# of it\n", text)
    assert "  seed: 7 " in text


def test_who_reads_only_the_first_lines_sees_no_traceback():
    command = f"{sys.executable} -m stepseg.cli.export --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_question_there_is_no_answer():
    assert answer("stepseg-train", "train", ["data=synthetic"]) is None


def test_comments_of_a_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "# @package _global_\n# Head,\n#   indented.\ndefaults:\n  - override /data: x  # a group\n"
        "  - _self_\none: 1  # first\n# not of a key\ntext: 'a # b'  # quoted\n"
        "list: [1,\n  2]  # two\n"
        "part:  # whole\n  inner:\n    deep: null  # far\n    none: 3\n"
    )
    found = read_comments(file)
    assert found.header == ["Head,", "  indented."]
    assert found.groups == {"data": "a group"}
    assert found.keys == {
        "one": "first", "text": "quoted", "list": "two", "part": "whole", "part.inner.deep": "far",
    }  # fmt: skip
