"""Long runs hold on to nothing: resident memory before and after, images of ever other sizes."""

import ctypes
import gc
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stepseg.evaluation import Evaluator
from stepseg.losses import LossWeights, head_loss
from stepseg.protocol import Protocol
from toys import CLASSES, SYSTEMS, toy_images, toy_labels, toy_segmenter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

SPEC = SimpleNamespace(num_classes=CLASSES, ignore_index=255)
SIZES = [(80, 112), (48, 64), (96, 96), (33, 130), (64, 160)]
GROWTH = 10.0
"""MiB; the label maps of these evaluations alone, as bytes, would be 25 MiB."""


def resident() -> float:
    """MiB of this process, after what is free has gone back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(step, steps: int, warm_up: int) -> float:
    for number in range(warm_up):
        step(number)
    before = resident()
    for number in range(warm_up, steps):
        step(number)
    grown = resident() - before
    print(f"{before:.1f} MiB after {warm_up} steps, {grown:+.2f} MiB after {steps}")
    return grown


def sample(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    size = SIZES[number % len(SIZES)]
    batch = 1 + number % 3
    return toy_images(batch, *size), toy_labels(batch, *size)


def test_2000_evaluation_steps():
    model = toy_segmenter()
    protocol = Protocol(mode="slide", crop=(64, 64), window_batch=3)
    evaluators = [
        Evaluator(model, [SYSTEMS["step"], SYSTEMS["dcts"], SYSTEMS["step_random"]], SPEC, shown)
        for shown in (Protocol(), protocol)
    ]

    def step(number: int) -> None:
        images, labels = sample(number)
        evaluators[number % 4 == 0].update((images * 255).to(torch.uint8), labels)
        if number % 100 == 99:
            for evaluator in evaluators:
                evaluator.compute()

    assert growth(step, 2000, 200) < GROWTH


def test_500_training_steps():
    model = toy_segmenter(drop_path=0.1, dropout=0.1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(number: int) -> None:
        images, labels = sample(number)
        height, width = (-(-edge // 16) * 16 for edge in labels.shape[1:])
        pad = (0, width - labels.shape[2], 0, height - labels.shape[1])
        labels = torch.nn.functional.pad(labels, pad, value=255)
        output = model(images, reduction=SYSTEMS[["step", "dcts", "dense"][number % 3]])
        terms = [
            term
            for head in output.heads
            for term in head_loss(
                output.mask_logits(head), head.class_logits_BC2, labels, LossWeights(), 255
            ).values()
        ]
        optimizer.zero_grad()
        torch.stack(terms).sum().backward()
        optimizer.step()

    assert growth(step, 500, 100) < GROWTH
