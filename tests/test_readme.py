"""The README's examples do what it says."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_python_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {"images": torch.rand(2, 3, 64, 96)}
    with torch.no_grad():
        exec(compile(code, README.name, "exec"), names)
    assert names["dense"].shape == (2, 64, 96)
    assert names["step"].tokens_per_stage[0] == names["step"].layout.segments.lengths
    assert len(names["step"].tokens_per_stage) == 3


def test_commands_and_groups_exist():
    text = README.read_text()
    conf = README.parent / "conf"
    for group, choices in re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE):
        for choice in re.findall(r"`([\w.]+)`", choices):
            known = (conf / group / f"{choice}.yaml").is_file()
            assert known or "." in choice, f"README offers {group}={choice}"


def test_the_quickstart_shows_the_same_figures():
    quickstart = (README.parent / "docs" / "quickstart.md").read_text()
    figures = re.findall(r"^\| ((?:dense|dCTS|STEP\S+) \|.*) \|$", quickstart, re.MULTILINE)
    assert len(figures) == 3
    for line in figures:
        assert f"| {line} |" in README.read_text(), "the main job's figures come from one run"
