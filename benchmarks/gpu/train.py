"""Part 3: training steps, their time and memory, and how often the host waits in them."""

import warnings
from collections.abc import Callable

import torch
from torch.optim import AdamW
from training_loss import training_loss

from gpu.setting import SYNC, Rows, Setting
from stepseg.losses import LossWeights
from stepseg.model import Reduction, StepSegmenter
from stepseg.profile.memory import peak_memory_mb
from stepseg.profile.speed import speedup, time_interleaved

CROPS = {"vit_base": (512, 8), "vit_large": (1024, 4)}
"""Side and number of a batch."""
WAYS: dict[str, dict] = {"plain": {}, "recomputed": {"checkpoint_blocks": True}}


def training(setting: Setting, rows: Rows) -> None:
    """One optimiser step under bf16 autocast, of every system, plain and with recomputed blocks."""
    for name, (pixels, batch) in CROPS.items():
        images = setting.images(2 if setting.toy else batch, pixels)
        labels = (images[:, 0] * 4).long().clamp(0, 4)
        systems = setting.systems(name, pixels)
        for way, options in WAYS.items():
            model = setting.model(name, 19, **options).train()
            steps = {
                system: _step(model, systems[system], images, labels)
                for system in (("step",) if setting.toy else ("none", "dcts", "step"))
            }
            first, *_ = steps
            timings = time_interleaved(
                steps, warmup=0 if setting.toy else 2, iterations=1 if setting.toy else 8,
                device=setting.device, memory=False,
            )  # fmt: skip
            for system, step in steps.items():
                rows.add(
                    backbone=name, px=pixels, batch=len(images), way=way, system=system,
                    step_ms=timings[system].p50_ms,
                    speedup=speedup(timings[first], timings[system]),
                    peak_memory_mb=None if setting.toy else peak_memory_mb(step, setting.device),
                    host_syncs=_syncs(setting, step),
                    loss=float(step()),
                )  # fmt: skip
            del model, steps, step  # optimisers hold as much memory as models
        if setting.toy:
            return


def _step(
    model: StepSegmenter, reduction: Reduction, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], torch.Tensor]:
    optimizer = AdamW(model.parameters(), lr=1e-5, fused=images.is_cuda)
    weights = LossWeights(label_stride=4)

    def step() -> torch.Tensor:
        with torch.enable_grad():
            with torch.autocast(images.device.type, torch.bfloat16):
                output = model(images, labels, reduction)
                loss = training_loss(output, labels, weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.detach()

    return step


def _syncs(setting: Setting, step: Callable[[], torch.Tensor]) -> int | None:
    if setting.device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(SYNC in str(w.message) for w in told)
