"""Small runs of the commands: composed configs in this process, or whole commands beside it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image

from stepseg.cli.paths import config_dir, register_own_experiments

SMALL = [
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=2",
    "optim.warmup_steps=1",
    "backbone=vit_tiny_d6",
    "heads.num_layers=1",
    "data.crop_size=[64,64]",
    "data.batch_size=2",
    "data.val_batch_size=1",
    "data.num_workers=0",
    "reduction.merge.windows=[2,4]",
    "reduction.merge.thresholds=[0.5,0.5]",
    "reduction.exit.blocks=[2,4]",
    "reduction.exit.threshold=0.3",
    "policy.windows=[2,4]",
    "schedule.merge_from=0.25",
    "schedule.exit_from=0.25",
    "schedule.dense_share=0",
    "card=false",
]
"""A training of seconds on `write_camvid`."""


def write_camvid(
    root: Path, train: int = 6, val: int = 5, size: tuple[int, int] = (64, 96)
) -> Path:
    """A folder in CamVid's layout with blocks of classes that their colour gives away."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            blocks = generator.integers(0, 11, (size[0] // 32, size[1] // 32))
            label = np.kron(blocks, np.ones((32, 32))).astype(np.uint8)
            label[:2] = 11  # void
            colour = np.stack([label * 20, 255 - label * 20, label * 7], -1)
            noise = generator.integers(-10, 10, colour.shape)
            image = np.clip(colour.astype(int) + noise, 0, 255).astype(np.uint8)
            for folder, array, suffix in (("images", image, "png"), ("annotations", label, "png")):
                path = root / folder / split / f"{index:03d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root


def compose_config(name: str, overrides: list[str], output: Path) -> DictConfig:
    """Compose a command's config as Hydra would for a job that writes to `output`."""
    register_own_experiments()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = compose(name, [*overrides, f"hydra.run.dir={output}"], return_hydra_config=True)
        output.mkdir(parents=True, exist_ok=True)
        cfg.hydra.runtime.output_dir = str(output)
        HydraConfig.instance().set_config(cfg)
        job = cfg.copy()
        job._set_flag("struct", False)
        job.pop("hydra")
    return job


def run_command(module: str, *arguments: str, output: Path, **environment: str) -> dict[str, Any]:
    """Run ``python -m stepseg.cli.<module>`` and return its `result.json`."""
    done = start_command(module, *arguments, output=output, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((output / "result.json").read_text())


def start_command(
    module: str, *arguments: str, output: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever that is."""
    process = open_command(module, *arguments, output=output, **environment)
    try:
        stdout, stderr = process.communicate(timeout=280)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def open_command(
    module: str, *arguments: str, output: Path, **environment: str
) -> subprocess.Popen[str]:
    """Start a command and return at once."""
    command = [sys.executable, "-m", f"stepseg.cli.{module}", *arguments, f"hydra.run.dir={output}"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **environment},
        # a shell that starts the tests in the background lets its children ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    """Read what a command says until a line begins like this."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(beginning):
            return
    raise AssertionError(f"{process.args} never said {beginning!r}")
