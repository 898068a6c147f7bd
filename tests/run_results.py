"""Results as the commands write them, with figures that a test can follow by hand."""

import json
from pathlib import Path
from typing import Any

MERGE = {
    "windows": [2, 4, 8, 16],
    "thresholds": [0.6, 0.8, 0.9, 0.9],
    "top_k": None,
    "top_k_cells": None,
    "edge_weight": 0,
    "resize": "bilinear",
}
EXIT = {
    "blocks": [6, 8],
    "heads": None,
    "rule": "confidence",
    "threshold": 0.9,
    "keep_per_class": 5,
    "tokens": [],
    "seed": 0,
}


def accuracy_row(
    mIoU: float | None,
    gmacs: float | None,
    merge: dict | None = None,
    leave: dict | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A row of stepseg-eval on images of 690 patches."""
    tokens = [454.0, 400.0, 390.0] if merge else [690.0, 600.0, 590.0]
    tokens = tokens[: len(leave["blocks"]) + 1 if leave else 1]
    blocks = [*(leave["blocks"] if leave else []), 12]
    starts = [1, *(b + 1 for b in blocks[:-1])]
    counts = {"1": 402.0, "2": 72.0, "4": 0.0} if merge else {"1": 690.0, "2": 0.0, "4": 0.0}
    return {
        "name": "row",
        "reduction": {"merge": merge, "exit": leave},
        "mIoU": mIoU,
        "aAcc": 70.0,
        "per_class_IoU": [50.0, None, 20.0],
        "images": 24,
        "gmacs_mean": gmacs,
        "gmacs_std": 0.1,
        "gmacs_by_part": {f"blocks_{a}-{b}": 1.0 for a, b in zip(starts, blocks, strict=True)},
        "tokens_mean": tokens[0],
        "tokens_per_stage": tokens,
        "superpatches": counts,
        "protocol": {"mode": "whole", "crop": None, "stride": None, "scales": [1.0], "flip": False},
        **changes,
    }


def training(seed: int = 0, lr: float = 0.001, **changes: Any) -> dict[str, Any]:
    """A training without rows; its weights lie in a file named after the seed and the rate."""
    config = {
        "seed": seed,
        "data": {"name": "camvid", "root": f"somewhere/{seed}", "seed": seed},
        "backbone": {"name": "vit_tiny", "depth": None},
        "policy": {"name": "lcnet_050"},
        "reduction": {"name": "step", "merge": MERGE, "exit": EXIT},
        "optim": {"lr": lr},
    }
    values = {
        "status": "completed",
        "command": "stepseg-train",
        "overrides": [f"seed={seed}"],
        "config": config,
        "versions": {"torch": "2.15.0"},
        "git_sha": "a" * 40,
        "seed": seed,
        "device": "cpu",
        "dtype": "32-true",
        "checkpoint": f"weights/{lr}/{seed}/checkpoints/best.ckpt",
        "seconds": 12.5,
        "rows": [],
    }
    return {**values, **changes}


def evaluation(rows: list[dict], seed: int = 0, lr: float = 0.001, **changes: Any) -> dict:
    """An evaluation of the weights of `training`."""
    checkpoint = f"weights/{lr}/{seed}/checkpoints/best.ckpt"
    config = {
        "seed": 0,
        "data": {"name": "camvid", "root": "somewhere"},
        "reduction": {"name": "checkpoint", "merge": None, "exit": None},
        "policy": {"name": "checkpoint"},
        "ckpt_path": checkpoint,
    }
    values = training(seed, lr)
    values |= {"command": "stepseg-eval", "config": config, "seed": 0, "rows": rows}
    del values["checkpoint"]
    return {**values, **changes}


def benchmark(rows: list[dict] | None = None, **changes: Any) -> dict[str, Any]:
    """A benchmark of a ViT-Base at 512 x 512 for 19 classes."""
    rows = rows or [
        benchmark_row("none", 108.38, 10.0, []),
        benchmark_row("dcts", 71.85, 16.0, []),
        benchmark_row("step@6+8", 59.39, 18.0, [6, 8]),
    ]
    systems = {
        "none": {"name": "none", "merge": None, "exit": None},
        "dcts": {"name": "dcts", "merge": MERGE, "exit": None},
        "step": {"name": "step", "merge": MERGE, "exit": EXIT},
    }
    config = {
        "seed": 0,
        "backbone": {"name": "vit_base", "depth": None},
        "policy": {"name": "efficientnet_lite0"},
        "systems": systems,
        "num_classes": 19,
        "batch_sizes": [1],
        "images": None,
        "ckpt_path": None,
    }
    values = training()
    del values["checkpoint"]
    values |= {"command": "stepseg-benchmark", "config": config, "rows": rows}
    return {**values, **changes}


def benchmark_row(name: str, gmacs: float, speed: float, blocks: list[int], **changes: Any) -> dict:
    """A row of a benchmark with the paper's token counts."""
    tokens = [1024.0] if name == "none" else [700.0, 456.0, 432.0][: len(blocks) + 1]
    return {
        "name": name,
        "exit_blocks": blocks,
        "resolution": 512,
        "batch_size": 1,
        "gmacs": gmacs,
        "images_per_s": speed,
        "latency_ms_p50": 1000 / speed,
        "tokens_per_stage": tokens,
        "gmacs_by_part": {},
        "protocol": {
            "tokens": "paper",
            "clock": "images to maps",
            "dtype": "float32",
            "device_name": "a machine",
            "threads": 1,
        },
        **changes,
    }


def write(folder: Path, values: Any) -> Path:
    """Write a `result.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def places(value, path=()):
    """Paths of everything inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))
