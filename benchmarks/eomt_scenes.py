"""A small EoMT of transformers, trained on generated scenes: what `stepseg-accelerate` starts from.

Minutes on a CPU, from random weights. Not the authors' recipe: without masked attention and without
matching of queries, the loss is the likelihood of the labels under the semantic scores.

    python benchmarks/eomt_scenes.py outputs/eomt --steps 800
    stepseg-accelerate model=outputs/eomt data=PLACE hydra.run.dir=outputs/fast  # it is told
    stepseg-eval ckpt_path=outputs/fast data.root=outputs/eomt/cache 'data.image_size=[256,256]'
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

from stepseg.data.dataset import AugmentedDataset, SegmentationDataset
from stepseg.data.sampler import InfiniteBatchSampler
from stepseg.data.specs import get_spec
from stepseg.data.synthetic import SceneParameters, ensure_scenes, scene_root
from stepseg.data.transforms import Augmentation, TrainTransform
from stepseg.ops.query_masks import QueryMasks

SIDE, CROP = 256, 256


def semantic_loss(masks_BQyx: Tensor, classes_BQC: Tensor, labels_BHW: Tensor) -> Tensor:
    """Negative log-likelihood of the labels, at a quarter of their size."""
    size = (labels_BHW.shape[1] // 4, labels_BHW.shape[2] // 4)
    p_BCyx = QueryMasks(masks_BQyx, classes_BQC).scores(size)
    p_BCyx = p_BCyx / p_BCyx.sum(1, keepdim=True)
    labels = F.interpolate(labels_BHW[:, None].float(), size, mode="nearest-exact")[:, 0].long()
    return F.nll_loss((p_BCyx + 1e-6).log(), labels, ignore_index=255)


def main() -> None:
    """Train and write a folder of transformers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--scenes", type=int, default=400)
    given = parser.parse_args()
    torch.manual_seed(0)
    spec = get_spec("synthetic")
    scenes = SceneParameters(image_size=(SIDE, SIDE), train_images=given.scenes, val_images=60)
    ensure_scenes(given.output / "cache", scenes)
    root = scene_root(given.output / "cache", scenes)
    config = EomtConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, image_size=CROP,
        num_queries=24, num_blocks=2, num_upscale_blocks=1, num_register_tokens=0,
        id2label=dict(enumerate(spec.classes)),
    )  # fmt: skip
    model = EomtForUniversalSegmentation(config)
    model.attn_mask_probs.zero_()
    model.eval()  # in training it would mask attention; nothing else differs
    augmentation = Augmentation(resize_ratio=(0.8, 1.4), photometric=False)
    dataset = AugmentedDataset(
        SegmentationDataset(spec, root, "train"), TrainTransform(augmentation, (CROP, CROP)), 0
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, given.steps, pct_start=0.05)
    own = EomtImageProcessor(
        do_split_image=True, size={"shortest_edge": CROP, "longest_edge": None}
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (own.image_mean, own.image_std))
    start, batches = time.perf_counter(), InfiniteBatchSampler(len(dataset), given.batch_size, 0)
    for step, keys in zip(range(1, given.steps + 1), batches, strict=False):
        samples = [dataset[key] for key in keys]
        images = torch.stack([sample["image"] for sample in samples]).float() / 255
        labels = torch.stack([sample["label"] for sample in samples]).long()
        said = model(pixel_values=(images - mean) / std)
        loss = semantic_loss(said.masks_queries_logits, said.class_queries_logits, labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            seconds = time.perf_counter() - start
            print(f"step {step}/{given.steps}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
    model.save_pretrained(given.output)
    own.save_pretrained(given.output)
    print(f"images for stepseg-accelerate: {root}")


if __name__ == "__main__":
    main()
