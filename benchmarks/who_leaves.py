"""Which tokens should leave? Measures of confidence against chance, at equal numbers per image.

    python benchmarks/who_leaves.py runs/apart/dtop-0 runs/apart/dtop-1 --json rows.json
    python benchmarks/who_leaves.py runs/camvid --data camvid --root data/camvid \\
        --settings '{"evaluation": {"resize_short": 720}}'

At one exit head a share of every image's tokens leaves, chosen in ten ways. Twice: they are gone
from the later blocks (``gone``), or their answers are frozen and they go on as context
(``frozen``). What ``frozen`` loses is the fault of answers that came too early; what ``gone`` loses
beyond that is missed by the tokens that stay. ``last word`` looks ahead: at those whose answer the
decoder will confirm.

Letters: T tokens of one image, C classes, Y x X cells.
"""

import argparse
import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.checkpoint import read_checkpoint
from stepseg.files.writing import write_json
from stepseg.group import Group
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.metrics.calibration import resize_labels
from stepseg.metrics.confusion import SegmentationMetric
from stepseg.model import Reduction, Segmentation, StepSegmenter
from stepseg.packed import PackedTokens
from stepseg.protocol import Protocol, show_first


@dataclass(frozen=True, eq=False)
class Given:
    """An exit rule that was decided before."""

    keep_T: Tensor

    def keep(self, probabilities_TC: Tensor, tokens: PackedTokens, exit_index: int) -> Tensor:
        """As `stepseg.heads.exit.ExitRule`."""
        return self.keep_T


def dense_run(model: StepSegmenter, image_13HW: Tensor) -> Segmentation:
    """Nobody leaves, and every head is asked."""
    layout = model.merge(image_13HW, {}, None)
    group = Group((Reduction(),), tuple(model.exit_head_blocks))
    size = (image_13HW.shape[2], image_13HW.shape[3])
    return model.walk(image_13HW, size, layout, group, {})[Reduction()]


def eagerness(run: Segmentation, index: int, seed: int) -> dict[str, Tensor]:
    """By measure, how early each token may go: the highest leave first, ``[T]``."""
    p_HTC = torch.stack([h.presence_BC[0] * h.mask_logits_T0C.sigmoid() for h in run.heads])
    p_TC, (rows, columns) = p_HTC[index], run.layout.grid
    best_T2, class_T = p_TC.topk(2, dim=1).values, p_TC.argmax(1)
    share_TC = p_TC / p_TC.sum(1, keepdim=True).clamp(min=1e-12)
    confidence_T, order_T = best_T2[:, 0], torch.arange(len(p_TC))
    noise_T = torch.rand(len(p_TC), generator=torch.Generator().manual_seed(seed))
    class_YX, confidence_YX = class_T.view(rows, columns), confidence_T.view(rows, columns)
    measures = {
        "random": noise_T,
        "uniform": -((order_T * 0.6180339887) % 1),  # any first part of them is evenly spread
        "confidence": confidence_T,
        "margin": best_T2[:, 0] - best_T2[:, 1],
        "entropy": (share_TC * share_TC.clamp(min=1e-12).log()).sum(1),
        "boundary": boundary_distance(class_YX).flatten() + confidence_T,
        "per class": -rank_share(confidence_T, class_T),
        "one of four": confidence_T - 2 * least_of_four(confidence_YX).flatten(),
        "last word": p_HTC[-1].gather(1, class_T[:, None])[:, 0],
    }
    if index:
        agrees_T = p_HTC[index - 1].argmax(1) == class_T
        measures["agreement"] = agrees_T + confidence_T
    return measures


def boundary_distance(class_YX: Tensor) -> Tensor:
    """Cells to the next cell of another predicted class, in moves of a king; at most 8."""
    distance_YX = torch.zeros(class_YX.shape)
    for reach in range(1, 9):
        side = 2 * reach + 1
        ids = F.pad(class_YX[None, None].float(), (reach,) * 4, mode="replicate")
        same = F.max_pool2d(ids, side, 1) == -F.max_pool2d(-ids, side, 1)
        distance_YX += same[0, 0]
    return distance_YX


def rank_share(value_T: Tensor, group_T: Tensor) -> Tensor:
    """Where a token stands among those of its group, 0 the highest, below 1."""
    share_T = torch.empty(len(value_T))
    for group in group_T.unique():
        members = (group_T == group).nonzero()[:, 0]
        ranked = members[value_T[members].argsort(descending=True)]
        share_T[ranked] = torch.arange(len(members)) / len(members)
    return share_T


def least_of_four(value_YX: Tensor) -> Tensor:
    """Whether a cell has the lowest value of its window of 2 x 2, float ``[Y, X]``."""
    rows, columns = value_YX.shape
    padded = F.pad(value_YX[None, None], (0, columns % 2, 0, rows % 2), value=2.0)
    lowest = -F.max_pool2d(-padded, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return (value_YX == lowest[0, 0, :rows, :columns]).float()


def gone(model: StepSegmenter, image_13HW: Tensor, block: int, keep_T: Tensor) -> Segmentation:
    """Those leave at the head after `block`."""
    return model(image_13HW, reduction=Reduction(exit=Given(keep_T), exit_blocks=(block,)))


def frozen(run: Segmentation, index: int, keep_T: Tensor) -> Segmentation:
    """Those keep the answers of a head, and have gone on all the same."""
    early, last = run.heads[index].mask_logits_T0C, run.heads[-1]
    mixed = replace(last, mask_logits_T0C=torch.where(keep_T[:, None], last.mask_logits_T0C, early))
    return replace(run, heads=[*run.heads[:-1], mixed])


def shown(image_13HW: Tensor, label_1HW: Tensor, protocol: Protocol) -> tuple[Tensor, Tensor]:
    """The image as an evaluation shows it, and its label in that size."""
    image = show_first(image_13HW, protocol)
    return image, resize_labels(label_1HW, (image.shape[2], image.shape[3]))


@torch.no_grad()
def measure(run: Path, options: argparse.Namespace) -> list[dict]:
    """All rows of one checkpoint."""
    model = read_checkpoint(str(run)).build().prepare_for_inference()
    heads = model.exit_head_blocks
    block = options.block or heads[-1]
    index = heads.index(block)
    data = SegmentationDataModule(options.data, options.root, **json.loads(options.settings))
    data.prepare_data()
    data.setup("test")
    counts: dict[tuple, SegmentationMetric] = {}

    def count(key: tuple, result: Segmentation, label_1HW: Tensor) -> None:
        metric = SegmentationMetric(data.spec.num_classes, data.spec.ignore_index, 0)
        counts.setdefault(key, metric).update(result.prediction(), label_1HW)

    for number, batch in enumerate(data.test_dataloader()):
        image, label = shown(batch["image"], batch["label"], data.protocol)
        dense = dense_run(model, image)
        count(("nobody", 0.0, "gone"), dense, label)
        for name, eager_T in eagerness(dense, index, number).items():
            rank_T = eager_T.argsort(descending=True, stable=True).argsort()
            for share in options.shares:
                keep_T = rank_T >= round(share * len(rank_T))
                count((name, share, "gone"), gone(model, image, block, keep_T), label)
                count((name, share, "frozen"), frozen(dense, index, keep_T), label)
    return [
        {"run": str(run), "block": block, "measure": name, "share": share, "context": context,
         "mIoU": float(metric.compute()["mIoU"]), "aAcc": float(metric.compute()["aAcc"])}
        for (name, share, context), metric in counts.items()
    ]  # fmt: skip


def table(rows: list[dict], value: str = "mIoU") -> str:
    """Means over runs, and the difference to random exits of the same run with its deviation."""
    by = {(r["run"], r["measure"], r["share"], r["context"]): r[value] for r in rows}
    runs = sorted({row["run"] for row in rows})
    columns = sorted({(r["context"], r["share"]) for r in rows if r["share"]}, reverse=True)
    lines = ["| who leaves | " + " | ".join(f"{c} {s:.0%}" for c, s in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name in dict.fromkeys(row["measure"] for row in rows if row["share"]):
        cells = []
        for context, share in columns:
            values = [by[run, name, share, context] for run in runs]
            over = [
                by[run, name, share, context] - by[run, "random", share, context] for run in runs
            ]
            deviation = f" ± {statistics.stdev(over):.2f}" if len(runs) > 1 else ""
            gain = "" if name == "random" else f" ({statistics.fmean(over):+.2f}{deviation})"
            cells.append(f"{statistics.fmean(values):.2f}{gain}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    nobody = statistics.fmean(by[run, "nobody", 0.0, "gone"] for run in runs)
    return "\n".join([f"nobody leaves: {nobody:.2f} {value}", "", *lines])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--block", type=int, help="of the exit head; default: the last one")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--root", default=str(Path.home() / ".cache/stepseg/synthetic"))
    parser.add_argument(
        "--settings", default='{"image_size": [512, 512], "train_images": 400, "val_images": 60}',
        help="further arguments of the data module, JSON",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="where all rows go")
    options = parser.parse_args()
    rows = [row for run in options.runs for row in measure(run, options)]
    if options.json:
        write_json(options.json, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
