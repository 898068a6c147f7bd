"""The fair table in one command: every method on the same model, at equal operations.

    python experiments/fair_table/run.py runs/fair                       # all of it
    python experiments/fair_table/run.py runs/fair accuracy table        # some parts
    python experiments/fair_table/run.py runs/fair time table --threads 2

Parts: ``train`` (3 policies and 27 trainings, 2 to 3 minutes of one core each), ``accuracy``
(plugged in at three points, trained in at the middle one), ``corruptions`` (trained in),
``large`` (plugged in at 1024 x 1024), ``pixels`` (larger inputs at equal operations), ``camvid``
(plugged into models of photographs, where runs of experiments/camvid lie at ``camvid/<seed>`` in
the folder), ``time``, ``pixels_time`` and ``camvid_time`` (want a quiet machine) and ``table``
(results.csv, figures, Markdown). What is there is not done again: remove a file of rows to make
it anew.

Every method is a family with one number (`stepseg.tuning.families`), which is set on 24 training
images so that their mean cost is that of the point, for every model anew.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from points import Scale, cost
from table import CORRUPTIONS, table
from torch import Tensor

from stepseg.checkpoint import read_checkpoint
from stepseg.evaluation import Evaluator
from stepseg.files.writing import write_json
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.model import Reduction, StepSegmenter
from stepseg.profile.speed import speedup, time_interleaved
from stepseg.protocol import show_first

SEEDS = (0, 1, 2)
POINTS = {75: 0.75, 62: 0.62, 50: 0.50}
"""Shares of the dense operations."""
TRAINED = {
    "none": ["reduction=none"],
    "dtop": ["reduction=dtop"],
    "smaller": ["reduction=smaller", "reduction.input.cell=19"],
    "cts": ["reduction=cts", "reduction.merge.top_k=111"],
    "tome": ["reduction=tome", "reduction.inside.r=0.146"],
    "algm": ["reduction=algm", "reduction.inside.threshold=0.985"],
    "cropr": ["reduction=cropr", "reduction.inside.r=0.253"],
    "dcts": ["reduction=dcts", "reduction.merge.thresholds=[0.7,0.85,0.92,0.92]"],
    "step": ["reduction=step", "reduction.merge.thresholds=[0.75,0.87,0.93,0.93]"],
}
"""What each training is told; ``dtop``, trained without merging, is what is plugged into."""
Row = dict[str, Any]


def train(runs: Path) -> None:
    """All trainings, one after the other."""
    for seed in SEEDS:
        policy = runs / "policy" / str(seed)
        _stepseg_train(policy, "experiment=scenes/policy", f"seed={seed}")
        for name, said in TRAINED.items():
            given = f"policy.checkpoint={policy / 'checkpoints' / 'best.ckpt'}"
            _stepseg_train(
                runs / name / str(seed), "experiment=scenes/train", f"seed={seed}", given, *said
            )


def _stepseg_train(folder: Path, *overrides: str) -> None:
    result = folder / "result.json"
    if not result.is_file() or json.loads(result.read_text())["status"] != "completed":
        command = ["stepseg-train", *overrides, f"hydra.run.dir={folder}"]
        subprocess.run(command, check=True)


def load(folder: Path) -> StepSegmenter:
    """The model of a run, at its last step: its only validation."""
    return read_checkpoint(folder).build().prepare_for_inference()


def data(size: int = 512, images: int = 60, **changes: Any) -> SegmentationDataModule:
    """Generated scenes."""
    cache = Path.home() / ".cache" / "stepseg" / "synthetic"
    given = {"image_size": (size, size), "train_images": 400 if size == 512 else 8}
    module = SegmentationDataModule(
        "synthetic", cache, val_images=images, val_batch_size=4, **given, **changes
    )
    module.prepare_data()
    return module


@torch.no_grad()
def accuracy_of(
    model: StepSegmenter, reductions: dict[str, Reduction], module: SegmentationDataModule
) -> list[Row]:
    """A row per reduction: accuracy and cost."""
    evaluator = Evaluator(model, list(reductions.values()), module.spec, module.protocol)
    for batch in module.test_dataloader():
        evaluator.update(batch["image"], batch["label"])
    kept = ("mIoU", "boundary_IoU", "aAcc", "gmacs_mean", "tokens_mean")
    return [
        {"row": name, **{key: figures[key] for key in kept}}
        for name, figures in zip(reductions, evaluator.compute(), strict=True)
    ]


def learned(module: SegmentationDataModule, count: int = 24) -> list[Tensor]:
    """Training images as the model is shown them, to tune on."""
    batches = module.whole_train_images(count)
    return [show_first(batch["image"], module.protocol) for batch in batches]


def accuracy(runs: Path, seed: int) -> list[Row]:
    """Plugged in at three points, trained in at the middle one."""
    module = data()
    scale = scale_of(runs, "dtop", seed, module)
    found = accuracy_of(scale.model, scale.points(POINTS), module)
    rows = [{"how": "plugged in", "seed": seed, **row} for row in found]
    for name in TRAINED:
        model, reduction = middle(runs, name, seed, module)
        found = accuracy_of(model, {name: reduction}, module)
        rows += [{"how": "trained in", "seed": seed, **row} for row in found]
    return rows


def scale_of(
    runs: Path, name: str, seed: int, module: SegmentationDataModule, images: int = 24
) -> Scale:
    """Methods are set on training images, for every model anew."""
    model = load(runs / name / str(seed))
    return Scale(model, name, learned(module, images), runs / f"points-{seed}.json")


def middle(
    runs: Path, name: str, seed: int, module: SegmentationDataModule
) -> tuple[StepSegmenter, Reduction]:
    """A trained method at the middle point."""
    scale = scale_of(runs, name, seed, module)
    dense = name in ("none", "dtop")
    return scale.model, Reduction() if dense else scale.tuned(name, [POINTS[62]])[0]


def corruptions(runs: Path, seed: int) -> list[Row]:
    """Trained in, at the middle point that was tuned on clean images."""
    clean, rows = data(), []
    for name in TRAINED:
        model, reduction = middle(runs, name, seed, clean)
        for kind, strength in product(CORRUPTIONS, (1, 2)):
            module = data(corruption={"kind": kind, "strength": strength})
            row = accuracy_of(model, {name: reduction}, module)[0]
            rows.append({"how": f"{kind} {strength}", "seed": seed, **row})
    return rows


def large(runs: Path, seed: int) -> list[Row]:
    """Plugged in at 1024 x 1024, at the middle point, 20 scenes."""
    module = data(1024, 20)
    scale = replace(scale_of(runs, "dtop", seed, module, 3), name="1024")
    found = accuracy_of(scale.model, scale.points({62: POINTS[62]}), module)
    return [{"how": "1024", "seed": seed, **row} for row in found]


LARGER = {"1x": 32, "1.5x": 21, "2x": None}
"""Pixels of a scene of 1024 x 1024 per side of a patch; None: as many as a patch has."""


def pixels(runs: Path, seed: int) -> list[Row]:
    """Plugged in: a larger input, reduced to the operations of dense on a smaller one."""
    module = data(1024, 20)
    scale = replace(scale_of(runs, "dtop", seed, module, 8), name="pixels")
    found = accuracy_of(scale.model, larger(scale), module)
    return [{"how": "pixels", "seed": seed, **row} for row in found]


def larger(scale: Scale) -> dict[str, Reduction]:
    """Dense at all inputs; the methods at larger inputs, for what dense costs at smaller ones."""
    dense = {name: Reduction(cell=side) for name, side in LARGER.items()}
    first = scale.images[:1]
    costs = {name: cost(scale.model, reduction, first) for name, reduction in dense.items()}
    rows = {f"dense {name}": reduction for name, reduction in dense.items()}
    for method in ("algm", "dcts", "step"):
        for name, side in LARGER.items():
            cheaper = [n for n in LARGER if costs[n] < costs[name]]
            shares = [costs[n] / costs["2x"] for n in cheaper]
            chosen = scale.tuned(method, shares, side)
            rows |= {f"{method} {name} as {n}": r for n, r in zip(cheaper, chosen, strict=True)}
    return rows


def time(runs: Path, seed: int) -> list[Row]:
    """Plugged in and trained in, in turns on one clock, from pixels to class ids; peak memory."""
    module = data()
    scale = scale_of(runs, "dtop", seed, module)
    plugged = {name: (scale.model, r) for name, r in scale.points(POINTS).items()}
    trained = {name: middle(runs, name, seed, module) for name in TRAINED}
    return clocked("time, plugged in", plugged, module, seed, "none") + clocked(
        "time, trained in", trained, module, seed, "none"
    )


def pixels_time(runs: Path, seed: int) -> list[Row]:
    """The larger inputs on one clock."""
    module = data(1024, 20)
    scale = replace(scale_of(runs, "dtop", seed, module, 8), name="pixels")
    rows = {name: (scale.model, r) for name, r in larger(scale).items()}
    return clocked("time, pixels", rows, module, seed, "dense 1x")


def clocked(
    how: str,
    systems: dict[str, tuple[StepSegmenter, Reduction]],
    module: SegmentationDataModule,
    seed: int,
    against: str,
) -> list[Row]:
    """All systems in turns, one image at a time, six images."""
    batches = [show_first(batch["image"], module.protocol) for batch in module.test_dataloader()]
    shown = [images[i : i + 1] for i in range(4) for images in batches][:6]  # of many batches

    def call(model: StepSegmenter, reduction: Reduction) -> Callable[[], object]:
        turn = iter(shown * 99)
        return lambda: model(next(turn), reduction=reduction).prediction()

    calls = {name: call(*system) for name, system in systems.items()}
    with torch.inference_mode():
        clock = time_interleaved(calls, warmup=len(shown), iterations=4 * len(shown))
    return [
        {"how": how, "seed": seed, "row": name, "ms": timing.p50_ms,
         "memory": timing.peak_memory_mb,
         "speedup": speedup(clock[against], timing, group=len(shown))}
        for name, timing in clock.items()
    ]  # fmt: skip


def camvid(runs: Path, seed: int) -> list[Row]:
    """Plugged into a model of photographs at 960 x 720."""
    module, scale = photographs(runs, seed)
    found = accuracy_of(scale.model, scale.points(POINTS), module)
    return [{"how": "camvid", "seed": seed, **row} for row in found]


def camvid_time(runs: Path, seed: int) -> list[Row]:
    """The rows of `camvid` on one clock."""
    module, scale = photographs(runs, seed)
    rows = {name: (scale.model, r) for name, r in scale.points(POINTS).items()}
    return clocked("time, camvid", rows, module, seed, "none")


def photographs(runs: Path, seed: int) -> tuple[SegmentationDataModule, Scale]:
    """CamVid, and a dense run of experiments/camvid with exit heads: `runs`/camvid/`seed`."""
    root = Path(os.environ.get("STEPSEG_DATA", "data")) / "camvid"
    shown = {"mode": "whole", "resize_short": 720}
    module = SegmentationDataModule("camvid", root, val_batch_size=1, evaluation=shown)
    module.prepare_data()
    model = load(runs / "camvid" / str(seed))
    return module, Scale(model, "camvid", learned(module, 6), runs / f"points-{seed}.json")


MEASURED: dict[str, Callable[[Path, int], list[Row]]] = {
    "accuracy": accuracy, "corruptions": corruptions, "large": large, "pixels": pixels,
    "camvid": camvid, "time": time, "pixels_time": pixels_time, "camvid_time": camvid_time,
}  # fmt: skip


def main() -> None:
    """Do the parts that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of everything")
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2; of large, time: 0")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    every = ["train", *MEASURED, "table"]
    if unknown := {*options.parts} - {*every}:
        parser.error(f"no part {sorted(unknown)}: {', '.join(every)}")
    if not options.parts and not (options.runs / "camvid").is_dir():
        print(f"without photographs: no run lies at {options.runs / 'camvid'}")
        every = [part for part in every if not part.startswith("camvid")]
    torch.set_num_threads(options.threads)
    about = {"torch": torch.__version__, "threads": options.threads}
    for name in options.parts or every:
        if name == "train":
            train(options.runs)
        elif name == "table":
            files = [
                f for part in MEASURED for f in sorted(options.runs.glob(f"{part}-[0-9].json"))
            ]
            rows = [row for file in files for row in json.loads(file.read_text())["rows"]]
            table(rows, options.runs)
        else:
            for seed in options.seeds or (SEEDS if name in ("accuracy", "corruptions") else (0,)):
                file = options.runs / f"{name}-{seed}.json"
                if not file.is_file():
                    write_json(file, {**about, "rows": MEASURED[name](options.runs, seed)})


if __name__ == "__main__":
    main()
