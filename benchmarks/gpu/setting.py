"""What the sections share: the device, models of a name, images, and where rows go."""

import copy
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from stepseg.build import ModelConfig, build_segmenter
from stepseg.dcts.merge import MergeRule
from stepseg.heads.exit import ConfidenceExit
from stepseg.model import Reduction, StepSegmenter
from stepseg.profile.benchmark import cpu_name
from stepseg.profile.images import load_images
from stepseg.profile.spread import spread_tokens
from stepseg.profile.tokens import prescribe_paper

Row = dict[str, Any]
ROOT = Path(__file__).parents[2]
EXITS = {"vit_large": (8, 16), "vit_base": (6, 8), "vit_base_patch16_dinov3": (6, 8)}
CLASSES = {512: 150, 768: 19, 1024: 19}
"""Of the data sets on which the paper uses these resolutions."""
SPREAD = 0.3
"""Of token counts, where they are ragged."""
SYNC = "called a synchronizing CUDA operation"
"""What PyTorch warns of where the host waits; once it also warns that it may not see all."""


@dataclass(frozen=True)
class Setting:
    """Where the sections run, and how large.

    Args:
        device: of everything that is measured.
        toy: smallest models and images and one round of each: to see that all of it runs.
        photos: folder of images; None: generated scenes.

    """

    device: torch.device
    toy: bool = False
    photos: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and images."""
        return torch.bfloat16

    @property
    def rounds(self) -> int:
        """Clocked calls of what takes milliseconds."""
        return 1 if self.toy else 20

    def size(self, pixels: int) -> int:
        """A resolution, or the toy one."""
        return 64 if self.toy else pixels

    def exits(self, name: str) -> tuple[int, ...]:
        """After which blocks tokens leave."""
        return (1, 2) if self.toy else EXITS[name]

    def model(self, name: str, classes: int, **backbone: Any) -> StepSegmenter:
        """Untrained, in evaluation mode but not prepared, float32, on the device."""
        numbers: Row = {"name": name, **backbone}
        if self.toy:
            numbers |= {"name": "vit_tiny", "depth": 3}
        config = {
            "num_classes": 5 if self.toy else classes,
            "backbone": numbers,
            "policy": {"name": "lcnet_050" if self.toy else "efficientnet_lite0"},
            "reduction": {"exit": {"blocks": list(self.exits(name))}},
        }
        return copy.deepcopy(_built(json.dumps(config), self.device))

    def systems(self, name: str, pixels: int, *, ragged: bool = False) -> dict[str, Reduction]:
        """The systems of the paper with its mean counts, as `none`, `cts`, `dcts`, ..."""
        exits: Row = {"exit": ConfidenceExit(), "exit_blocks": self.exits(name)}
        cts = MergeRule(windows=(2,), thresholds=None, top_k=103, top_k_cells=32 * 32)
        systems = {
            "none": Reduction(),
            "cts": Reduction(merge=cts),
            "dcts": Reduction(merge=MergeRule()),
            "dtop": Reduction(**exits),
            "step": Reduction(merge=MergeRule(), **exits),
        }
        grid = (-(-self.size(pixels) // 16),) * 2
        spread = SPREAD if ragged else 0
        return {
            n: spread_tokens(prescribe_paper(r, grid), grid, spread) for n, r in systems.items()
        }

    def images(self, count: int, pixels: int) -> Tensor:
        """Different ones, ``[N, 3, H, W]`` float32 in [0, 1]; a few come again in large batches."""
        side = self.size(pixels)
        images = load_images(self.photos, (side, side), min(count, 2 if self.toy else 8))
        times = -(-count // len(images))
        return images.repeat(times, 1, 1, 1)[:count].to(self.device)

    def seconds(self, call: Any, warm_up: int = 3) -> float:
        """Of one call among many, without a wait between them."""
        rounds = self.rounds
        for _ in range(1 if self.toy else warm_up):
            call()
        self.wait()
        start = time.perf_counter()
        for _ in range(rounds):
            call()
        self.wait()
        return (time.perf_counter() - start) / rounds

    def device_seconds(self, call: Any, warm_up: int = 3) -> float:
        """Of one call on a GPU alone, the median: the device is kept waiting while it is queued.

        Short work is done before the host has queued the next; `seconds` would tell the host's.
        """
        if self.device.type != "cuda":
            return self.seconds(call, warm_up)
        for _ in range(warm_up):
            call()
        self.wait()
        start = time.perf_counter()
        call()
        queued = time.perf_counter() - start
        clocks = []
        for _ in range(self.rounds):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(100_000 + int(4e9 * queued))  # cycles, of two GHz: twice as long
            begin.record()
            call()
            end.record()
            clocks.append((begin, end))
        self.wait()
        return median(begin.elapsed_time(end) for begin, end in clocks) / 1000

    def wait(self) -> None:
        """Until the device has done all that was queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def place(self) -> Row:
        """What every row says about where it comes from."""
        on_cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if on_cuda else cpu_name()
        return {
            "commit": _commit(),
            "device": name,
            "toy": self.toy,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda if on_cuda else None,
            "cudnn": torch.backends.cudnn.version() if on_cuda else None,
            "triton": _version("triton"),
            "timm": _version("timm"),
        }


class Rows:
    """A file of rows, one JSON object a line; each is on the disk before the next is measured."""

    def __init__(self, path: Path, section: str, place: Row) -> None:
        self.path, self.common = path, {"section": section, **place}

    def add(self, **figures: Any) -> None:
        """Write a row and show it."""
        row = {**self.common, "time": round(time.time()), **figures}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        shown = " ".join(f"{k}={_short(v)}" for k, v in figures.items())
        print(f"{self.common['section']}: {shown}"[:400], flush=True)


def read_rows(path: Path) -> Iterator[Row]:
    """All whole rows; a killed section may leave half of one."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


@cache
def _built(config: str, device: torch.device) -> StepSegmenter:
    """Sections of one process ask for the same model again."""
    torch.manual_seed(0)
    with device:  # where drawing weights takes no time
        return build_segmenter(ModelConfig.from_dict(json.loads(config))).to(device).eval()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """Of the checkout, or what was written into a file `COMMIT` of a copy without one."""
    noted = ROOT / "COMMIT"
    if noted.is_file():
        return noted.read_text().strip()
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "unknown"
    return done.stdout.strip() or "unknown"
