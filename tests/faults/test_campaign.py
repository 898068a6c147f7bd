"""The campaign in small; the whole one is a command (see `campaign.py`)."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_nothing_is_lost(tmp_path):
    script = Path(__file__).with_name("campaign.py")
    command = [sys.executable, str(script), "--kills=4", "--sweep-kills=2"]
    done = subprocess.run(
        [*command, f"--work={tmp_path / 'work'}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "kill -9 in training\t4" in done.stdout
