"""The fair table in one command: every method on the same model, at equal operations.

    python experiments/fair_table/run.py runs/fair                       # all of it
    python experiments/fair_table/run.py runs/fair accuracy table        # some parts
    python experiments/fair_table/run.py runs/fair time table --threads 2

Parts: ``train`` (3 policies and 27 trainings, 2 to 3 minutes of one core each), ``accuracy``
(plugged in at three points, trained in at the middle one), ``corruptions`` (trained in),
``large`` (plugged in at 1024 x 1024), ``time`` (wants a quiet machine) and ``table`` (results.csv,
figure.png, Markdown). What is there is not done again: remove a file of rows to make it anew.

Every method is a family with one number (`stepseg.tuning.families`), which is set on 24 training
images so that their mean cost is that of the point, for every model anew.
"""

import argparse
import csv
import json
import statistics
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from stepseg.checkpoint import read_checkpoint
from stepseg.evaluation import Evaluator
from stepseg.files.writing import write_json
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.metrics.tokens import TokenMetric
from stepseg.model import Reduction, StepSegmenter
from stepseg.model_config import ReductionConfig
from stepseg.profile.speed import speedup, time_interleaved
from stepseg.tuning.families import families

SEEDS = (0, 1, 2)
POINTS = {75: 0.75, 62: 0.62, 50: 0.50}
"""Shares of the dense operations."""
DRAWN = {"windows": [2], "thresholds": None, "top_k": 100, "top_k_cells": 1024}
METHODS: dict[str, dict[str, Any]] = {
    "smaller": {"input": {"cell": 19}},
    "random": {"merge": {**DRAWN, "by": "random"}},
    "cts": {"merge": {**DRAWN, "by": "policy"}},
    "tome": {"inside": {"rule": "tome", "r": 0.146}},
    "algm": {"inside": {"rule": "algm", "threshold": 0.98}},
    "cropr": {"inside": {"rule": "cropr", "r": 0.253}},
    "dcts": {"merge": {"windows": [2, 4, 8, 16], "thresholds": [0.6, 0.8, 0.9, 0.9]}},
    "step": {
        "merge": {"windows": [2, 4, 8, 16], "thresholds": [0.6, 0.8, 0.9, 0.9]},
        "exit": {"blocks": [3, 4], "rule": "confidence", "threshold": 0.9},
    },
}
BY_IMAGE = ("algm", "dcts", "step")
"""Methods whose cost depends on the image."""
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
CORRUPTIONS = [(kind, strength) for kind in ("noise", "blur", "fog", "jpeg") for strength in (1, 2)]
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


def tuned(
    model: StepSegmenter, name: str, shares: Iterable[float], images: list[Tensor]
) -> list[Reduction]:
    """A method at shares of the dense operations, in the mean of images ``[1, 3, H, W]``."""
    images = [image.float() / 255 for image in images[: len(images) if name in BY_IMAGE else 1]]
    cells = (images[0].shape[2] // 16) * (images[0].shape[3] // 16)
    base = ReductionConfig.from_dict(METHODS[name])
    found = families(base, model.exit_head_blocks, model.patch_size, cells)
    family = next(f for f in found if f.name.startswith("exits after 3+4") or not base.exit)

    known: dict[float, float] = {}

    def at(number: float) -> float:
        """The family's cost, which takes forward passes, once per number."""
        if number not in known:
            known[number] = cost(family.at(number).build())
        return known[number]

    @torch.no_grad()
    def cost(reduction: Reduction) -> float:
        inside = reduction.inside is not None
        metric = TokenMetric((*reduction.exit_blocks, model.backbone.depth), inside=inside)
        for image in images:
            metric.update(model, [model(image, reduction=reduction)], 1)
        return float(metric.compute()["gmacs_mean"])

    for number in (0.1, 0.3, 0.5, 0.7, 0.9):
        at(number)
    dense, chosen = cost(Reduction()), []
    for target in (share * dense for share in shares):
        for turn in range(10):
            dearer = max((t for t, c in known.items() if c >= target), default=0.0)
            cheaper = min((t for t, c in known.items() if c < target), default=1.0)
            ends = [at(dearer), at(cheaper)]
            if min(abs(end - target) for end in ends) < 0.01 * target:
                break
            # The straight line between the two; every third time the middle, where it is bent.
            way = 0.5 if turn % 3 == 2 else (ends[0] - target) / max(ends[0] - ends[1], 1e-9)
            middle = dearer + (cheaper - dearer) * way
            if middle in known:
                break
            at(middle)
        nearest = min(known, key=lambda t: abs(known[t] - target))
        chosen.append(family.at(nearest).build())
    return chosen


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


def points(model: StepSegmenter, images: list[Tensor], shares: dict[int, float]) -> dict:
    """Every method but Cropr, whose scorers need a training, at the points."""
    every = {"windows": [2], "thresholds": None, "by": "uniform"}
    rows = {"none": Reduction(), "uniform": ReductionConfig.from_dict({"merge": every}).build()}
    for name in METHODS:
        if name != "cropr":
            chosen = tuned(model, name, shares.values(), images)
            rows |= {f"{name} {p}": r for p, r in zip(shares, chosen, strict=True)}
    return rows


def learned(module: SegmentationDataModule, count: int = 24) -> list[Tensor]:
    """Training images, to tune on."""
    return [batch["image"] for batch in module.whole_train_images(count)]


def accuracy(runs: Path, seed: int) -> list[Row]:
    """Plugged in at three points, trained in at the middle one."""
    module = data()
    images = learned(module)
    model = load(runs / "dtop" / str(seed))
    found = accuracy_of(model, points(model, images, POINTS), module)
    rows = [{"how": "plugged in", "seed": seed, **row} for row in found]
    for name in TRAINED:
        model = load(runs / name / str(seed))
        found = accuracy_of(model, {name: middle(model, name, images)}, module)
        rows += [{"how": "trained in", "seed": seed, **row} for row in found]
    return rows


def middle(model: StepSegmenter, name: str, images: list[Tensor]) -> Reduction:
    """A trained method at the middle point."""
    if name in ("none", "dtop"):
        return Reduction()
    return tuned(model, name, [POINTS[62]], images)[0]


def corruptions(runs: Path, seed: int) -> list[Row]:
    """Trained in, at the middle point that was tuned on clean images."""
    images, rows = learned(data()), []
    for name in TRAINED:
        model = load(runs / name / str(seed))
        reduction = middle(model, name, images)
        for kind, strength in CORRUPTIONS:
            module = data(corruption={"kind": kind, "strength": strength})
            row = accuracy_of(model, {name: reduction}, module)[0]
            rows.append({"how": f"{kind} {strength}", "seed": seed, **row})
    return rows


def large(runs: Path, seed: int) -> list[Row]:
    """Plugged in at 1024 x 1024, at the middle point, 20 scenes."""
    module, model = data(1024, 20), load(runs / "dtop" / str(seed))
    found = points(model, learned(module, 3), {62: POINTS[62]})
    return [{"how": "1024", "seed": seed, **row} for row in accuracy_of(model, found, module)]


def time(runs: Path, seed: int) -> list[Row]:
    """Plugged in, in turns on one clock, from pixels to class ids; with peak memory."""
    module, model = data(), load(runs / "dtop" / str(seed))
    found = points(model, learned(module), POINTS)
    loader = iter(module.test_dataloader())
    shown = [next(loader)["image"][:1].float() / 255 for _ in range(6)]

    def call(reduction: Reduction) -> Callable[[], object]:
        turn = iter(shown * 99)
        return lambda: model(next(turn), reduction=reduction).prediction()

    calls = {name: call(reduction) for name, reduction in found.items()}
    with torch.inference_mode():
        clock = time_interleaved(calls, warmup=len(shown), iterations=4 * len(shown))
    return [
        {"how": "time", "seed": seed, "row": name, "ms": timing.p50_ms,
         "memory": timing.peak_memory_mb,
         "speedup": speedup(clock["none"], timing, group=len(shown))}
        for name, timing in clock.items()
    ]  # fmt: skip


def table(runs: Path) -> None:
    """results.csv, figure.png and Markdown of all rows that are there."""
    rows = [
        row
        for part in MEASURED
        for file in sorted(runs.glob(f"{part}-[0-9].json"))
        for row in json.loads(file.read_text())["rows"]
    ]
    with (runs / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
    clock = {row["row"]: row for row in rows if row["how"] == "time"}
    for how in ("plugged in", "trained in", "1024"):
        print(f"\n{how}\n\n{markdown([row for row in rows if row['how'] == how], clock)}")
    print(f"\ncorrupted\n\n{by_corruption(rows)}")
    draw([row for row in rows if row["how"] == "plugged in"], clock, runs / "figure.png")


def markdown(rows: list[Row], clock: dict[str, Row]) -> str:
    """Means and deviations over seeds, and differences to dense of the same seed."""
    lines = ["| method | mIoU | over dense | boundary IoU | GMACs | speed-up | realised |"]
    lines.append("|---|---|---|---|---|---|---|")
    dense = {row["seed"]: row for row in rows if row["row"] == "none"}
    for name in dict.fromkeys(row["row"] for row in rows):
        own = [row for row in rows if row["row"] == name]
        over = spread([row["mIoU"] - dense[row["seed"]]["mIoU"] for row in own], "+")
        cost = statistics.fmean(row["gmacs_mean"] for row in own)
        saved = statistics.fmean(row["gmacs_mean"] for row in dense.values()) / cost
        fast = clock[name]["speedup"] if name in clock else None
        shown = f"{fast:.2f}x | {fast / saved:.2f}" if fast else "| "
        accuracy, edges = (spread([row[k] for row in own]) for k in ("mIoU", "boundary_IoU"))
        gmacs = spread([row["gmacs_mean"] for row in own])
        lines.append(f"| {name} | {accuracy} | {over} | {edges} | {gmacs} | {shown} |")
    return "\n".join(lines)


def by_corruption(rows: list[Row]) -> str:
    """mIoU by method and corruption, and the mean of all eight."""
    kinds = [f"{kind} {strength}" for kind, strength in CORRUPTIONS]
    lines = [f"| method | {' | '.join(kinds)} | mean |", "|---" * (len(kinds) + 2) + "|"]
    found = {(row["row"], row["how"]): row["mIoU"] for row in rows if row["how"] in kinds}
    for name in dict.fromkeys(name for name, _ in found):
        values = [found[name, kind] for kind in kinds]
        shown = " | ".join(f"{v:.1f}" for v in (*values, statistics.fmean(values)))
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


def spread(values: list[float], sign: str = "") -> str:
    """Mean ± sample deviation."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.2f}{deviation}"


def draw(rows: list[Row], clock: dict[str, Row], path: Path) -> None:
    """Accuracy against time, or against operations where nothing was timed; bars: deviations.

    Of the difference to dense of the same seed: seeds differ by more than methods.
    """
    dense = {row["seed"]: row["mIoU"] for row in rows if row["row"] == "none"}
    figure = Figure((7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlabel("ms an image" if clock else "GMACs")
    axes.set_ylabel("mIoU over dense of the same seed")
    for method in dict.fromkeys(row["row"].split()[0] for row in rows):
        xs, ys, bars = [], [], []
        for name in dict.fromkeys(r["row"] for r in rows if r["row"].split()[0] == method):
            own = [row for row in rows if row["row"] == name]
            values = [row["mIoU"] - dense[row["seed"]] for row in own]
            cost = statistics.fmean(row["gmacs_mean"] for row in own)
            xs.append(clock[name]["ms"] if clock else cost)
            ys.append(statistics.fmean(values))
            bars.append(statistics.stdev(values) if len(values) > 1 else 0)
        axes.errorbar(xs, ys, bars, marker="o", markersize=4, capsize=2, linewidth=1, label=method)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


MEASURED: dict[str, Callable[[Path, int], list[Row]]] = {
    "accuracy": accuracy, "corruptions": corruptions, "large": large, "time": time,
}  # fmt: skip


def main() -> None:
    """Do the parts that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of everything")
    parser.add_argument("parts", nargs="*", default=["train", *MEASURED, "table"], metavar="PART")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2; of large, time: 0")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if unknown := {*options.parts} - {"train", *MEASURED, "table"}:
        parser.error(f"no part {sorted(unknown)}: train, {', '.join(MEASURED)}, table")
    torch.set_num_threads(options.threads)
    about = {"torch": torch.__version__, "threads": options.threads}
    for name in options.parts:
        if name == "train":
            train(options.runs)
        elif name == "table":
            table(options.runs)
        else:
            for seed in options.seeds or (SEEDS if name in ("accuracy", "corruptions") else (0,)):
                file = options.runs / f"{name}-{seed}.json"
                if not file.is_file():
                    write_json(file, {**about, "rows": MEASURED[name](options.runs, seed)})


if __name__ == "__main__":
    main()
