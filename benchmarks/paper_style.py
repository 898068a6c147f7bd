"""The control flow of the published implementations, on the same weights: what it costs.

    python benchmarks/paper_style.py --backbone vit_base --resolution 512 --batch-sizes 1 2
    python benchmarks/paper_style.py --device cuda --dtype bf16 --resolution 1024 --images FOLDER

DToP, and STEP on top of it, keep a rectangular tensor of all tokens and a mask of finished ones.
Every block asks whether anything is left to do (a host synchronisation), loops over the images,
picks the unfinished rows of each by a boolean index, and scatters the result back. Every exit loops
over images and over the classes found in each, with several synchronisations per class. The map
upsamples all classes before the argmax. This file does the same, written from that description, and
otherwise calls the very modules of the model: policy, merging, blocks, heads and attention kernels
are shared, so that what differs in time is the control flow alone.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from stepseg.build import ModelConfig, build_segmenter
from stepseg.dcts.merge import MergeRule, build_layout, merge_windows
from stepseg.heads.atm import AtmHead, presence_probability
from stepseg.heads.exit import BudgetExit, ConfidenceExit
from stepseg.model import Reduction, StepSegmenter
from stepseg.ops.padding import pad_to_multiple
from stepseg.packed import PackedTokens, Segments, TokenLayout
from stepseg.profile.benchmark import environment
from stepseg.profile.images import load_images
from stepseg.profile.speed import speedup, time_interleaved
from stepseg.profile.tokens import prescribe_paper
from stepseg.runtime.choice import DTYPES

PAPER_STYLE = ", paper style"


class PaperStyle:
    """`StepSegmenter` with the class probabilities of the decoder, walked in the published way.

    Args:
        model: in evaluation mode, with `class_source="final"`.

    """

    def __init__(self, model: StepSegmenter) -> None:
        if model.class_source != "final":
            raise ValueError("the published map uses the decoder's class probabilities only")
        self.model = model

    @torch.no_grad()
    def prediction(self, images_B3HW: Tensor, reduction: Reduction) -> Tensor:
        """The class of every pixel, int64 ``[B, H, W]``."""
        model = self.model
        layout, x_BND, finished_BN = self._tokens(images_B3HW, reduction)
        canvas_BNC = x_BND.new_zeros(*finished_BN.shape, model.num_classes, dtype=torch.float32)
        presence_BC = canvas_BNC.new_zeros(len(x_BND), model.num_classes)
        start = 0
        for block in (*reduction.exit_blocks, model.backbone.depth):
            for index in range(start, block):
                x_BND = self._masked_block(model.backbone.blocks[index], x_BND, finished_BN)
            is_last = block == model.backbone.depth
            head = model.decoder if is_last else model.exit_heads[str(block)]
            assert isinstance(head, AtmHead)
            for b in range(len(x_BND)):
                active_N = ~finished_BN[b]
                if active_N.sum() == 0:
                    continue
                mask_logits_TC, class_logits_1C2 = head(_one_image(x_BND[b][active_N]))
                canvas_BNC[b][active_N] = mask_logits_TC
                presence_BC[b] = presence_probability(class_logits_1C2)[0]
                if not is_last:
                    p_TC = mask_logits_TC.sigmoid() * presence_BC[b]
                    leaves_T = _leave(p_TC, reduction, reduction.exit_blocks.index(block))
                    finished_BN[b][active_N] = leaves_T
            start = block
        return self._map(canvas_BNC, presence_BC, layout, images_B3HW)

    def _tokens(
        self, images_B3HW: Tensor, reduction: Reduction
    ) -> tuple[TokenLayout, Tensor, Tensor]:
        """Embedded tokens of all images in a rectangle; what pads it is finished from the start."""
        model, rule = self.model, reduction.merge
        images = pad_to_multiple(images_B3HW, model.patch_size, 0.5)
        batch, _, height, width = images.shape
        grid = (height // model.patch_size, width // model.patch_size)
        if rule is None:
            layout = TokenLayout.full(batch, grid, images.device)
        else:
            assert model.policy is not None
            scores = {w: logits.sigmoid() for w, logits in model.policy(images_B3HW).items()}
            layout = build_layout(merge_windows(scores, rule, batch, grid), rule.windows)
        tokens = model.backbone.embed(images, layout, rule.resize if rule else "bilinear")
        rows = max(layout.segments.lengths)
        x_BND = tokens.values_TD.new_zeros(batch, rows, tokens.values_TD.shape[1])
        finished_BN = torch.ones(batch, rows, dtype=torch.bool, device=images.device)
        for b, values_TD in enumerate(tokens.values_TD.split(layout.segments.lengths)):
            x_BND[b, : len(values_TD)] = values_TD
            finished_BN[b, : len(values_TD)] = False
        return layout, x_BND, finished_BN

    @staticmethod
    def _masked_block(
        block: Callable[[PackedTokens], PackedTokens], x_BND: Tensor, finished_BN: Tensor
    ) -> Tensor:
        """One block on the unfinished tokens of one image after the other."""
        if (~finished_BN).sum() == 0:
            return x_BND
        out_BND = x_BND.clone()
        for b in range(len(x_BND)):
            active_N = ~finished_BN[b]
            if active_N.sum() == 0:
                continue
            values_TD = block(_one_image(x_BND[b][active_N])).values_TD
            scattered_ND = torch.zeros_like(x_BND[b])
            scattered_ND[active_N] = values_TD
            out_BND[b] = torch.where(active_N[:, None], scattered_ND, x_BND[b])
        return out_BND

    def _map(
        self, canvas_BNC: Tensor, presence_BC: Tensor, layout: TokenLayout, images_B3HW: Tensor
    ) -> Tensor:
        """Unshare tokens, upsample all classes, take the best."""
        maps = []
        first = 0
        for b, length in enumerate(layout.segments.lengths):
            p_NC = canvas_BNC[b].sigmoid() * presence_BC[b]
            p_YXC = p_NC[layout.cell_to_token_BYX[b] - first]
            maps.append(p_YXC.permute(2, 0, 1))
            first += length
        p_BCYX = torch.stack(maps)
        size = [side * self.model.patch_size for side in layout.grid]
        p_BCHW = F.interpolate(p_BCYX, size=size, mode="bilinear", align_corners=False)
        height, width = images_B3HW.shape[2:]
        return p_BCHW[:, :, :height, :width].argmax(1)


def _one_image(values_TD: Tensor) -> PackedTokens:
    segments = Segments.from_lengths([len(values_TD)], values_TD.device)
    ids = torch.arange(len(values_TD), device=values_TD.device)
    return PackedTokens(values_TD, segments, ids, torch.zeros_like(ids))


def _leave(p_TC: Tensor, reduction: Reduction, exit_index: int) -> Tensor:
    """Which tokens of an image are finished: the confident ones, but for k of every class."""
    confidence_T, class_T = p_TC.max(dim=1)
    rule = reduction.exit
    if isinstance(rule, BudgetExit):  # prescribed counts: the same loop, and then the count decides
        stay = rule.tokens[min(exit_index, len(rule.tokens) - 1)]
        order = confidence_T.argsort()
        leaves_T = torch.zeros_like(confidence_T, dtype=torch.bool)
        leaves_T[order[stay:]] = True
        _keep_per_class(leaves_T.clone(), confidence_T, class_T, 5)
        return leaves_T
    assert isinstance(rule, ConfidenceExit)
    leaves_T = confidence_T > rule.threshold
    return _keep_per_class(leaves_T, confidence_T, class_T, rule.keep_per_class)


def _keep_per_class(leaves_T: Tensor, confidence_T: Tensor, class_T: Tensor, k: int) -> Tensor:
    """Take the k most confident tokens of every class out of those that leave."""
    confident_T = leaves_T.clone()
    for label in class_T[confident_T].unique():
        of_class = (confident_T & (class_T == label)).nonzero().squeeze(1)
        best = confidence_T[of_class].topk(min(k, len(of_class))).indices
        leaves_T[of_class[best]] = False
    return leaves_T


def systems(blocks: tuple[int, ...]) -> dict[str, Reduction]:
    """The baseline and the systems of the paper that loop."""
    exits = {"exit": ConfidenceExit(), "exit_blocks": blocks}
    return {
        "dense": Reduction(),
        "dcts": Reduction(merge=MergeRule()),
        "dtop": Reduction(**exits),
        "step": Reduction(merge=MergeRule(), **exits),
    }


def compare(
    model: StepSegmenter,
    reductions: dict[str, Reduction],
    images_B3HW: Tensor,
    options: argparse.Namespace,
) -> list[dict]:
    """Time both styles in turns; where nobody leaves early there is nothing to loop over."""
    paper = PaperStyle(model)
    calls: dict[str, Callable[[], object]] = {}
    for name, reduction in reductions.items():
        calls[name] = lambda r=reduction: model(images_B3HW, reduction=r).prediction()
        if reduction.exit is not None:
            calls[name + PAPER_STYLE] = lambda r=reduction: paper.prediction(images_B3HW, r)
    timings = time_interleaved(
        calls, warmup=options.warmup, iterations=options.iterations, device=images_B3HW.device
    )
    return [
        {
            "name": name,
            "batch_size": len(images_B3HW),
            "latency_ms_p50": timing.p50_ms,
            "latency_ms_p95": timing.p95_ms,
            "peak_memory_mb": timing.peak_memory_mb,
            "speedup": speedup(timings["dense"], timing),
            "times_ours": speedup(timing, timings[name.removesuffix(PAPER_STYLE)]),
            "times_ours_cpu": speedup(timing, timings[name.removesuffix(PAPER_STYLE)], clock="cpu"),
        }
        for name, timing in timings.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    """Time both styles in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--backbone", default="vit_base")
    parser.add_argument("--blocks", type=int, nargs="*", help="exits after these (6 8 or 8 16)")
    parser.add_argument("--policy", default="efficientnet_lite0")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--images", help="folder; without it, generated scenes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", choices=tuple(DTYPES))
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device here")
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    blocks = tuple(options.blocks or ((8, 16) if options.backbone == "vit_large" else (6, 8)))
    config = {
        "num_classes": options.classes,
        "backbone": {"name": options.backbone},
        "policy": {"name": options.policy},
        "reduction": {"exit": {"blocks": blocks}},
    }
    dtype = DTYPES[options.dtype]
    model = build_segmenter(ModelConfig.from_dict(config)).prepare_for_inference()
    model = model.to(device, dtype)
    grid = (-(-options.resolution // model.patch_size),) * 2
    reductions = {name: prescribe_paper(r, grid) for name, r in systems(blocks).items()}
    rows = []
    for batch_size in options.batch_sizes:
        images = load_images(options.images, (options.resolution,) * 2, batch_size)
        if len(images) < batch_size:
            parser.error(f"--images holds {len(images)} images, fewer than a batch of {batch_size}")
        rows += compare(model, reductions, images.to(device, dtype), options)
    place = environment(device, model, dtype)
    _print(rows, options, place)
    if options.out:
        figures = {"arguments": vars(options) | {"out": str(options.out)}, "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures | place, indent=1) + "\n")
    return 0


def _print(rows: list[dict], options: argparse.Namespace, place: dict) -> None:
    table = Table(
        title=f"{options.backbone}, {options.resolution} px, {options.classes} classes, "
        f"{options.dtype}, {place['device_name']}: the paper's mean token counts"
    )
    for column in (
        "system",
        "batch",
        "p50 ms",
        "p95 ms",
        "memory MiB",
        "speed-up",
        "time / ours",
        "CPU time / ours",
    ):
        is_name = column == "system"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for row in rows:
        table.add_row(
            row["name"],
            str(row["batch_size"]),
            f"{row['latency_ms_p50']:.1f}",
            f"{row['latency_ms_p95']:.1f}",
            f"{row['peak_memory_mb']:.0f}",
            f"{row['speedup']:.2f}",
            f"{row['times_ours']:.2f}",
            f"{row['times_ours_cpu']:.2f}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
