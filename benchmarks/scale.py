"""What a training on many GPUs asks of network, processors and disks; docs/scale.md explains it.

    python benchmarks/scale.py --data ade20k_vit_large@train=/data/ade20k --folder /shared

From the numbers of ViT-L on ADE20K at 640 pixels and a machine that is assumed (options), and from
what is measured here: images per second of one core, and the rate at which a folder takes
checkpoints. Times of the loader are those of the process, so that other work does not count.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stepseg.build import build_segmenter
from stepseg.cli.paths import config_dir
from stepseg.cli.trainer import make_datamodule
from stepseg.data.speed import measure_loader
from stepseg.model_config import ModelConfig

GMACS = {"ade20k_vit_large": 616.6, "cityscapes_vit_large": 964.3}
"""Of one training image, dense (experiments/macs); the first is what the step is timed by."""
BUCKET = 25e6
"""Bytes that DDP gathers before it sends them."""
NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9, "400 Gbit/s": 50e9, "3.2 Tbit/s": 400e9}
"""Bytes per second in and out of a machine."""


def parameters() -> tuple[int, int]:
    """Trained numbers of the segmenter, and those of its frozen policy."""
    config = {
        "num_classes": 150,
        "backbone": {"name": "vit_large"},
        "policy": {"name": "efficientnet_lite0"},
        "reduction": {"merge": {}, "exit": {"blocks": [8, 16]}},
    }
    with torch.device("meta"):
        model = build_segmenter(ModelConfig.from_dict(config), load_weights=False)
    policy = sum(p.numel() for name, p in model.named_parameters() if name.startswith("policy."))
    return sum(p.numel() for p in model.parameters()) - policy, policy


def communication(trained: int, seconds: float, nodes: int) -> str:
    """Seconds of one step that each network adds, as a table."""
    size = trained * 4  # gradients are in fp32, whatever the forward pass is in
    sent = 2 * (nodes - 1) / nodes * size
    backward = seconds * 2 / 3
    rows = ["| network of a machine | all-reduce | not hidden | of a step |", "|---|---|---|---|"]
    for name, rate in NETWORKS.items():
        # the last bucket has no computation to hide behind
        seen = max(sent / rate - backward, sent / rate * BUCKET / size)
        rows.append(
            f"| {name} | {sent / rate * 1e3:.0f} ms | {seen * 1e3:.1f} ms "
            f"| {seen / (seconds + seen):.1%} |"
        )
    return "\n".join(rows)


def images_per_core(experiment: str, root: str, split: str, batches: int) -> float:
    """Training images that one core reads, augments and crops per second."""
    with initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = compose("train", [f"experiment=paper/{experiment}", f"data.root={root}"])
    given = {"num_workers": 0, "train_split": split, "pin_memory": False}
    data = OmegaConf.to_container(cfg.data, resolve=True)
    datamodule = make_datamodule({"data": data}, **given)
    datamodule.setup("fit")
    loader = datamodule.train_dataloader()
    measure_loader(loader, warmup_batches=1, batches=1)
    began = time.process_time()
    images = measure_loader(loader, warmup_batches=0, batches=batches)["images"]
    return images / (time.process_time() - began)


def write_rate(folder: str, size: float = 1e9) -> float:
    """Bytes per second at which a folder takes a checkpoint, to the disk."""
    tensors = {str(index): torch.rand(int(size / 40)) for index in range(10)}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "checkpoint"
        began = time.perf_counter()
        torch.save(tensors, path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        return path.stat().st_size / (time.perf_counter() - began)


def main(arguments: list[str] | None = None) -> int:
    """Print what limits such a training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=8, help="of a node")
    parser.add_argument("--batch", type=int, default=4, help="images of a GPU")
    parser.add_argument("--tflops", type=float, default=400, help="that a GPU reaches")
    kind = f"{' or '.join(GMACS)}, split and folder: experiment@split=folder"
    parser.add_argument("--data", action="append", default=[], help=kind)
    parser.add_argument("--batches", type=int, default=5, help="of 4 images, read from --data")
    parser.add_argument("--folder", help="where checkpoints would be written")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    trained, policy = parameters()
    rates = {name: options.tflops * 1e3 / (6 * macs) for name, macs in GMACS.items()}
    seconds = options.batch / rates["ade20k_vit_large"]
    checkpoint = (trained * 3 + policy) * 4  # weights, two moments of Adam
    print(f"trained parameters: {trained / 1e6:.1f} M, gradients {trained * 4 / 1e9:.2f} GB")
    print(f"step of {options.batch} images of ADE20K: {seconds * 1e3:.0f} ms of a GPU")
    print(communication(trained, seconds, options.nodes))
    for pair in options.data:
        name, _, root = pair.partition("=")
        experiment, _, split = name.partition("@")
        read = images_per_core(experiment, root, split, options.batches)
        needed = rates[experiment] / read
        print(
            f"{experiment}: {read:.1f} images/s of a core, {rates[experiment]:.0f} of a GPU: "
            f"{needed:.1f} cores for a GPU, {options.gpus * needed:.0f} for a node"
        )
    print(f"checkpoint: {checkpoint / 1e9:.2f} GB")
    if options.folder:
        speed = write_rate(options.folder)
        print(f"written at {speed / 1e9:.2f} GB/s: {checkpoint / speed:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
