"""BatchNorm over two processes and in one; processes are started by spawning."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.dcts.batch_norm import share_batch_norm
from toys import randomise_batch_norm

SHAPES = [(2, 3, 8, 12), (1, 3, 6, 4)]
"""Of the images on two ranks."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=0.3)
    norm.add_module("act", nn.ReLU(inplace=True))  # as in timm
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    randomise_batch_norm(model)
    return model


def batches() -> tuple[list[Tensor], list[Tensor]]:
    """Images far from the running mean, where squares cancel; and weights of the outputs."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(shape, generator=generator) + 30 for shape in SHAPES]
    with torch.no_grad():
        return images, [torch.randn(network()(x).shape, generator=generator) for x in images]


def in_one_process(model: nn.Sequential, images: list[Tensor]) -> list[Tensor]:
    """Layer by layer; a norm sees the cells of all images as one row."""
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            rows = [x.movedim(1, 0).flatten(1) for x in images]
            joined = torch.cat(rows, 1)[None, :, None]
            joined = F.batch_norm(
                joined, layer.running_mean, layer.running_var, layer.weight, layer.bias,
                training=True, momentum=layer.momentum,
            )  # fmt: skip
            for child in layer.children():
                joined = child(joined)
            parts = joined[0, :, 0].split([row.shape[1] for row in rows], 1)
            images = [
                part.unflatten(1, (len(x), *x.shape[2:])).movedim(0, 1)
                for part, x in zip(parts, images, strict=True)
            ]
        else:
            images = [layer(x) for x in images]
    return images


def state(model: nn.Module) -> dict[str, Tensor]:
    return {**model.state_dict(), **{f"d {n}": p.grad for n, p in model.named_parameters()}}


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        model = network()
        share_batch_norm(model)
        images, upstream = batches()
        (model(images[rank]) * upstream[rank]).sum().backward()
        torch.save(state(model), Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()
