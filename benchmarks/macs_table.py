"""Multiply-accumulates of every published system beside the published numbers.

    python benchmarks/macs_table.py --out experiments/macs/results.csv
    python benchmarks/macs_table.py --traced 512 --out experiments/macs/results.csv   # and fvcore

Counts come from the formula of `stepseg.macs`, on models without memory. Nothing is fitted:
dense and CTS follow from the architecture; dCTS, DToP and STEP depend on how many tokens an image
keeps, for which the paper's mean counts are taken (`stepseg.profile.tokens`). `--traced` runs the
systems of up to that resolution on a generated image and lets fvcore count what happened.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from stepseg.build import ModelConfig, build_segmenter
from stepseg.dcts.merge import MergeRule
from stepseg.dcts.policy import PolicyNetwork
from stepseg.heads.exit import ConfidenceExit
from stepseg.macs import head_macs, macs_of_stages, policy_macs
from stepseg.model import Reduction, StepSegmenter
from stepseg.profile.benchmark import prescribed_cost
from stepseg.profile.fvcore import trace_fvcore, trace_torch
from stepseg.profile.images import load_images
from stepseg.profile.tokens import prescribe_paper

BLOCKS = {"vit_tiny": (6, 8), "vit_base": (6, 8), "vit_large": (8, 16)}
"""Where DToP's exits stand, and what SegViT's cascade reads besides the last block."""

CTS = MergeRule(windows=(2,), thresholds=None, top_k=103, top_k_cells=32 * 32)


@dataclass(frozen=True, slots=True)
class Published:
    """One number of a table."""

    system: str
    """A system with the placement of its exits, and the threshold where the table has several;
    ``none`` has one head, ``segvit`` the cascade."""
    backbone: str
    side: int
    classes: int
    gmacs: float
    source: str

    @property
    def reduction(self) -> Reduction:
        """What the system does."""
        name, _, placement = self.system.partition("@")
        merge = None
        if "cts" in name:
            merge = CTS if name.startswith("cts") else MergeRule()
        elif name == "step":
            merge = MergeRule()
        blocks: tuple[int, ...] = ()
        if placement:
            blocks = tuple(int(block) for block in placement.split(" ")[0].split("+"))
        elif "dtop" in name:
            blocks = BLOCKS[self.backbone]
        exits = {"exit": ConfidenceExit(), "exit_blocks": blocks} if blocks else {}
        return Reduction(merge=merge, **exits)


def _table(
    source: str, backbone: str, side: int, classes: int, systems: str, gmacs: Sequence[float]
) -> list[Published]:
    names = [name.strip() for name in systems.split(",")]
    return [
        Published(name, backbone, side, classes, value, source)
        for name, value in zip(names, gmacs, strict=True)
    ]


LARGE = "none, cts, dtop, cts_dtop, step@8+16 6899, step@8+16 4999, step@18 6899, step@18 4999"
BASE = (
    "none, cts, dtop, cts_dtop, dcts 6899, step@6+8 6899, step@6+8 4999, step@8 6899, step@8 4999"
)
LARGE_CITY = "none, cts, dtop, dcts 6899, step@8+16 6899, step@18 6899"

PUBLISHED = [
    Published("segvit", "vit_base", 512, 150, 120.9, "SegViT"),
    Published("segvit", "vit_large", 640, 150, 637.9, "SegViT"),
    Published("segvit", "vit_large", 512, 171, 383.9, "SegViT"),
    Published("segvit", "vit_large", 480, 59, 321.6, "SegViT"),
    Published("none", "vit_base", 512, 150, 109.9, "DToP"),
    Published("none", "vit_large", 640, 150, 617.0, "DToP"),
    Published("none", "vit_large", 512, 171, 366.9, "DToP"),
    Published("cts", "vit_large", 512, 171, 248, "STEP, Table 1"),
    # "512 x 512" in the table; 624 and 410 are those of 640 x 640, as in DToP
    *_table("STEP, Table 3, ADE20K", "vit_large", 640, 150, LARGE,
            (624, 410, 465, 334, 224, 334, 395, 261)),
    *_table("STEP, Table 3, COCO-Stuff", "vit_large", 512, 171, LARGE,
            (373, 251, 290, 210, 173, 150, 201, 177)),
    *_table("STEP, Table 4, ADE20K", "vit_base", 512, 150, BASE,
            (113, 75, 91, 62, 73, 64, 50, 68, 53)),
    *_table("STEP, Table 4, Cityscapes", "vit_base", 512, 19, BASE,
            (110, 73, 82, 59.5, 77, 61, 44, 66, 44)),
    *_table("STEP, Table 5", "vit_base", 768, 19, BASE,
            (301, 190, 198, 135, 182, 131, 95, 149, 105)),
    *_table("STEP, Table 5", "vit_base", 1024, 19, BASE,
            (670, 403, 430, 296, 247, 183, 149, 199, 163)),
    *_table("STEP, Table 6", "vit_large", 768, 19, LARGE_CITY,
            (970, 622, 589, 598, 424, 490)),
    *_table("STEP, Table 6", "vit_large", 1024, 19, LARGE_CITY,
            (2086, 1283, 1176, 802, 514, 655)),
]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Count, write the CSV and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--traced", type=int, default=0, help="run fvcore up to this resolution")
    parser.add_argument("--out", type=Path, help="write a CSV file")
    options = parser.parse_args(arguments)
    rows = []
    for published in PUBLISHED:
        rows.append(count(published))
        # SegViT's cascade is traced in the tests, at a small size.
        if published.side <= options.traced and published.system != "segvit":
            rows[-1] |= trace(published)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    print(markdown(rows))
    return 0


def count(published: Published) -> dict:
    """One row: the published number, ours, and the tokens that the published one implies."""
    cascade = published.system == "segvit"
    model = _without_memory(published.backbone, published.classes, cascade)
    grid = (-(-published.side // 16),) * 2
    reduction = prescribe_paper(published.reduction, grid)
    cost = prescribed_cost(model, reduction, (published.side, published.side))
    implied = None
    if reduction.merge and not reduction.exit_blocks:
        implied = _implied_tokens(model, published)
    surplus = None
    if not reduction.merge and not reduction.exit_blocks:
        module = head_macs(model.decoder, grid[0] * grid[1], model.backbone.dim) / 1e9
        surplus = (published.gmacs - cost["gmacs"]) / (module / 3 if cascade else module)
    return {
        "source": published.source,
        "system": published.system,
        "backbone": published.backbone,
        "side": published.side,
        "classes": published.classes,
        "published": published.gmacs,
        "ours": round(cost["gmacs"], 2),
        "difference_percent": round(100 * (cost["gmacs"] / published.gmacs - 1), 2),
        "tokens": " ".join(f"{tokens:.0f}" for tokens in cost["tokens_per_stage"]),
        "policy": round(cost["gmacs_by_part"]["policy"], 2),
        "published_implies_tokens": implied,
        "surplus_in_heads": None if surplus is None else round(surplus, 2),
        "with_classes_in_pixels": round(cost["gmacs"] + _in_pixels(published), 2)
        if cascade
        else None,
    }


def trace(published: Published) -> dict:
    """fvcore's and PyTorch's count of a real run, relative to the formula."""
    # one trace per architecture and system, not per threshold: the counts are the same
    system = published.system.split(" ")[0]
    key = (system, published.backbone, published.side, published.classes)
    return dict(_traced(key))


@cache
def _traced(key: tuple[str, str, int, int]) -> tuple[tuple[str, float], ...]:
    system, backbone, side, classes = key
    published = Published(system, backbone, side, classes, 1, "")
    torch.manual_seed(0)
    config = _config(backbone, classes, cascade=False)
    model = build_segmenter(config).eval().requires_grad_(False)
    if isinstance(model.policy, PolicyNetwork):  # nothing else is prepared: caches would hide work
        model.policy.fold()
    reduction = prescribe_paper(published.reduction, (-(-side // 16),) * 2)
    image = load_images(None, (side, side), 1)[0]
    formula = prescribed_cost(model, reduction, (side, side))
    macs, norms = formula["gmacs"] * 1e9, formula["gmacs_by_part"]["norms"] * 1e9
    fvcore, pytorch = trace_fvcore(model, image, reduction), trace_torch(model, image, reduction)
    return (
        ("fvcore", round(fvcore.total / 1e9, 2)),
        ("formula_over_fvcore_percent", round(100 * (macs / fvcore.total - 1), 4)),
        ("formula_over_flop_counter_percent", round(100 * ((macs - norms) / pytorch - 1), 4)),
    )


def markdown(rows: list[dict]) -> str:
    """The rows as a table."""
    columns = {
        "source": "source",
        "system": "system",
        "backbone": "backbone",
        "side": "px",
        "classes": "classes",
        "published": "published",
        "ours": "ours",
        "difference_percent": "difference, %",
        "tokens": "tokens per stage",
        "published_implies_tokens": "published implies",
        "surplus_in_heads": "surplus, heads",
        "with_classes_in_pixels": "with classes in pixels",
    }
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = ["" if row[key] is None else str(row[key]) for key in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _in_pixels(published: Published) -> float:
    """GMACs of SegViT's last step: masks resized to the image, times the classes of the queries."""
    masks = published.classes * published.side**2
    return (4 * masks + published.classes * masks) / 1e9  # fvcore counts 4 for a resized value


def _config(backbone: str, classes: int, cascade: bool) -> ModelConfig:
    heads = (8, 16, 18) if backbone == "vit_large" else (6, 8)
    return ModelConfig.from_dict(
        {
            "num_classes": classes,
            "backbone": {"name": backbone},
            "heads": {"cascade": BLOCKS[backbone] if cascade else None},
            "reduction": {"exit": None if cascade else {"heads": heads}},
        }
    )


@cache
def _without_memory(backbone: str, classes: int, cascade: bool) -> StepSegmenter:
    with torch.device("meta"):
        return build_segmenter(_config(backbone, classes, cascade))


def _implied_tokens(model: StepSegmenter, published: Published) -> int:
    """The tokens with which a merging system would cost what was published."""
    policy = policy_macs(model.policy, (published.side, published.side))
    tokens = range((published.side // 16) ** 2 + 1)
    costs = (
        policy + sum(macs_of_stages(model, [(model.backbone.depth, t)]).values()) for t in tokens
    )
    return min(zip((abs(c - published.gmacs * 1e9) for c in costs), tokens, strict=True))[1]


if __name__ == "__main__":
    sys.exit(main())
