"""Is the dense path a fair baseline? timm's encoder with the same head, on the same weights.

    python benchmarks/timm_baseline.py --backbone vit_base --resolution 512 --batch-sizes 1 2

A speed-up over a slow dense path would say nothing. This times, in turns, the dense system of this
project and timm's own VisionTransformer (its blocks, attention and position embedding) followed by
the same ATM head and the same map.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stepseg.build import ModelConfig, build_segmenter
from stepseg.heads.atm import presence_probability
from stepseg.model import HeadOutput, Reduction, Segmentation, StepSegmenter
from stepseg.packed import PackedTokens, TokenLayout
from stepseg.profile.benchmark import environment
from stepseg.profile.images import load_images
from stepseg.profile.speed import speedup, time_interleaved
from stepseg.runtime.choice import DTYPES
from stepseg.vit.pos_embed import resize_pos_embed


class TimmSegmenter(nn.Module):
    """The dense baseline with timm's encoder in place of ours, for one image size.

    Args:
        model: gives all weights, and the head.
        image_size: height and width, multiples of the patch.

    """

    def __init__(self, model: StepSegmenter, image_size: tuple[int, int]) -> None:
        super().__init__()
        ours = model.backbone
        assert ours.pos_embed is not None, "the baseline is a plain ViT"
        grid = (image_size[0] // ours.patch_size, image_size[1] // ours.patch_size)
        self.encoder = VisionTransformer(
            img_size=image_size,
            patch_size=ours.patch_size,
            embed_dim=ours.dim,
            depth=ours.depth,
            num_heads=ours.numbers.num_heads,
            mlp_ratio=ours.numbers.hidden_dim / ours.dim,
            num_classes=0,
            global_pool="",
            class_token=False,
        )
        self.encoder.norm = nn.Identity()  # plain: no final norm, as in SegViT and DToP
        state = {key: value for key, value in ours.state_dict().items() if key != "pos_embed"}
        state["pos_embed"] = resize_pos_embed(ours.pos_embed, grid).flatten(1, 2)
        self.encoder.load_state_dict(state)
        self.decoder, self.mean, self.std = model.decoder, ours.mean, ours.std
        self.patch_size, self.grid = ours.patch_size, grid

    def forward(self, images_B3HW: Tensor) -> Segmentation:
        x_BND = self.encoder.forward_features((images_B3HW - self.mean) / self.std)
        layout = TokenLayout.full(len(x_BND), self.grid, x_BND.device)
        tokens = PackedTokens.from_layout(x_BND.flatten(0, 1), layout)
        mask_logits_TC, class_logits_BC2 = self.decoder(tokens)
        lengths = layout.segments.lengths
        head = HeadOutput(len(self.encoder.blocks), mask_logits_TC, class_logits_BC2, lengths)
        return Segmentation(
            image_size=(images_B3HW.shape[2], images_B3HW.shape[3]),
            patch_size=self.patch_size,
            layout=layout,
            heads=[head],
            exit_T0=torch.zeros_like(layout.anchor_T0),
            presence_T0C=None,
            presence_BC=presence_probability(class_logits_BC2),
        )


def main(arguments: list[str] | None = None) -> int:
    """Time both in turns and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--backbone", default="vit_base")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--images", help="folder; without it, generated scenes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", choices=tuple(DTYPES))
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    config = {"num_classes": options.classes, "backbone": {"name": options.backbone}}
    model = build_segmenter(ModelConfig.from_dict({**config, "policy": None}))
    model = model.prepare_for_inference().to(device, dtype)
    size = (options.resolution, options.resolution)
    timm = TimmSegmenter(model, size).to(device, dtype).eval()
    rows = []
    for batch_size in options.batch_sizes:
        images = load_images(options.images, size, batch_size).to(device, dtype)
        timings = time_interleaved(
            {
                "timm": lambda images=images: timm(images).prediction(),
                "ours": lambda images=images: model(images, reduction=Reduction()).prediction(),
            },
            warmup=options.warmup,
            iterations=options.iterations,
            device=device,
        )
        row = {
            "batch_size": batch_size,
            "timm_ms_p50": timings["timm"].p50_ms,
            "ours_ms_p50": timings["ours"].p50_ms,
            "timm_over_ours": speedup(timings["timm"], timings["ours"]),
            "timm_over_ours_cpu": speedup(timings["timm"], timings["ours"], clock="cpu"),
            "timm_peak_memory_mb": timings["timm"].peak_memory_mb,
            "ours_peak_memory_mb": timings["ours"].peak_memory_mb,
        }
        rows.append(row)
        print(
            f"{options.backbone} {options.resolution} px batch {batch_size}: timm "
            f"{row['timm_ms_p50']:.1f} ms, ours {row['ours_ms_p50']:.1f} ms, timm / ours "
            f"{row['timm_over_ours']:.3f} (by CPU time {row['timm_over_ours_cpu']:.3f})"
        )
    if options.out:
        figures = {"arguments": vars(options) | {"out": str(options.out)}, "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        place = environment(device, model, dtype)
        options.out.write_text(json.dumps(figures | place, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
