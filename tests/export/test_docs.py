"""What docs/export.md and docs/sharing.md tell people to type exists."""

import re
from pathlib import Path

import pytest

from commands import compose_config
from stepseg.export import job
from stepseg.export.agreement import LARGEST_MARGIN, LEAST_AGREEMENT
from stepseg.model_config import ReductionConfig

DOCS = Path(__file__).parents[2] / "docs"


def commands():
    found = []
    for page in ("export.md", "sharing.md"):
        for block in re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("stepseg-export"):
                    found.append(line.replace("'", "").split()[1:])
    return found


@pytest.mark.parametrize("overrides", commands(), ids=" ".join)
def test_commands_compose(overrides, tmp_path):
    cfg = compose_config("export", overrides, tmp_path)
    assert cfg.ckpt_path == "best.ckpt"


def test_options_named_in_the_text_exist(tmp_path):
    cfg = compose_config("export", [], tmp_path)
    text = (DOCS / "export.md").read_text() + (DOCS / "sharing.md").read_text()
    for name, value in re.findall(r"`(\w+)=(\w+)`", text):
        assert name in cfg, f"{name}={value}"
    assert "verify=2" in text
    assert job.StaticExport(reduction=ReductionConfig()).verify == cfg.verify == 2
    assert (LEAST_AGREEMENT, LARGEST_MARGIN) == (0.999, 0.001)
