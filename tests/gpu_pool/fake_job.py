"""A Hydra application like `stepseg-train`, of half a second: what it does is in its overrides.

It writes a `result.json` and, as rank 0 of a training would, starts a grandchild that outlives it
unless somebody ends it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_sweeper
import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from gpu_pool import slots
from gpu_pool.guard import check_sweep
from hydra_plugins.stepseg_launcher.launcher import register_launchers

register_launchers()
fake_sweeper.register()
if "FAKE_GPUS" in os.environ:
    slots.count_gpus = lambda: int(os.environ["FAKE_GPUS"])


def note(folder: Path, name: str, text: str) -> None:
    with open(folder / name, "a") as file:
        file.write(text + "\n")


@hydra.main(config_path="fake_conf", config_name="fake", version_base="1.3")
def main(cfg):
    values = OmegaConf.to_container(cfg, resolve=True)
    check_sweep(values)
    folder = Path(HydraConfig.get().runtime.output_dir)
    act = cfg.acts.get(cfg.x, cfg.act)
    note(folder, "attempts", f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {cfg.ckpt_path}")
    note(folder, "clock", f"start {time.time()}")
    print(f"hello from {cfg.x}, rank {os.environ.get('LOCAL_RANK')}", flush=True)
    result = {"status": "completed", "overrides": list(HydraConfig.get().overrides.task)}
    if cfg.rank:
        rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        note(folder, "pids", f"{os.getpid()} {rank.pid}")
    if cfg.checkpoint:
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "last.ckpt").touch()
    time.sleep(float(os.environ.get("FAKE_SECONDS", cfg.times.get(cfg.x, cfg.seconds))))
    if act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "raise":
        (folder / "result.json").write_text('{"status": "failed", "error": "ValueError: no luck"}')
        raise ValueError("no luck")
    if act == "die once" and len((folder / "attempts").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "vanish":
        return
    result |= {"mIoU": 100.0 - (cfg.x - 3) ** 2, "gmacs_mean": float(cfg.x)}
    (folder / "result.json").write_text(json.dumps(result))
    note(folder, "clock", f"end {time.time()}")
    if cfg.rank:
        rank.terminate()
        rank.wait()


if __name__ == "__main__":
    main()
