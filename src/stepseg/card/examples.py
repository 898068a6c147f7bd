"""The pictures of a card: the curve of the training, and what the model does with an image."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from stepseg.predict.segmenter import Segmenter

Example = tuple[Tensor, Tensor | None]
"""uint8 image [3, H, W] and, if known, training ids [H, W] of uint8."""

WIDTH = 1600
"""Pixels; larger pictures are shrunk: a card is read in a browser."""


def training_curve(metrics: Path) -> Image.Image | None:
    """Loss and validation mIoU over steps from a CSV file of metrics; None: it has neither."""
    loss, accuracy = read_series(metrics, "train/loss"), read_series(metrics, "val/mIoU")
    if not loss and not accuracy:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = [("training loss", loss, "."), ("validation mIoU (%)", accuracy, "o")]
    panels = [panel for panel in panels if panel[1]]
    for axes, (title, series, marker) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        axes.plot(*zip(*series, strict=True), marker=marker, markersize=4, color="#2563a8")
        axes.set(title=title, xlabel="step", xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def read_series(metrics: Path, name: str) -> list[tuple[int, float]]:
    """Steps and values of one column; empty where there is no such file or column."""
    if not metrics.is_file():
        return []
    with open(metrics, newline="") as file:
        rows = [(row.get("step"), row.get(name)) for row in csv.DictReader(file)]
    return [(int(float(step)), float(value)) for step, value in rows if step and value]


def example_picture(segmenter: Segmenter, example: Example) -> Image.Image:
    """Image, superpatches, what remains after each exit, map and, if known, the truth."""
    image, label = example
    truth = None if label is None else label.numpy()
    figure = segmenter.predict(image).picture("exits", truth)
    if figure.width <= WIDTH:
        return figure
    height = round(figure.height * WIDTH / figure.width)
    return figure.resize((WIDTH, height), Image.Resampling.LANCZOS)
