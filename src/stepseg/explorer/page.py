"""The page: recordings of a model, with the files of ``static/``, in one HTML file."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from stepseg.dcts.merge import MergeRule
from stepseg.explorer.costs import cost_constants
from stepseg.explorer.encoding import THUMBNAIL, json_in_html, pack
from stepseg.explorer.plan import (
    EXIT_THRESHOLDS,
    PAPER_EXIT,
    PAPER_MERGE,
    Plan,
    make_plan,
)
from stepseg.explorer.recording import ExactRun, Listening, Recording, record
from stepseg.files.page import render
from stepseg.files.writing import write_text
from stepseg.model import Reduction, StepSegmenter
from stepseg.pictures.drawing import Palette, Picture
from stepseg.pictures.looks import DIFFERENCE, window_colour
from stepseg.pictures.uri import picture_uri

STATIC = Path(__file__).parent / "static"
SCRIPTS = """
merge exits macs store estimate text layers canvas state panel results legend app
""".split()
"""Files of ``static/`` in the order in which the page runs them."""
MAX_PIXELS = 2**21
"""Pictures and maps beyond this are shown at every second (third ...) pixel."""


def write_explorer(
    model: StepSegmenter,
    images: Mapping[str, Picture],
    path: Path,
    class_names: Sequence[str],
    palette: Palette,
    *,
    reduction: Reduction | None = None,
    title: str = "stepseg",
    notes: Sequence[str] = (),
    command: str = "",
    typed: Sequence[str] = (),
    exit_thresholds: Sequence[float] = EXIT_THRESHOLDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Run a model on some images and write the page.

    The model sees every image whole and in its own size; some 20 runs per image.

    Args:
        model: in evaluation mode, on any device.
        images: uint8 RGB ``[H, W, 3]`` by name.
        path: the file.
        class_names: in the order of the class ids.
        palette: a colour per class.
        reduction: where the page starts; None: the model's own.
        title: names the model to readers.
        notes: sentences to show, such as how images were resized.
        command: what overrides can be appended to, such as ``stepseg-predict ckpt_path=...``.
        typed: overrides that make the reduction, quoted for a shell, where it is not the
            checkpoint's; the page's own follow them.
        exit_thresholds: of the exact runs, besides that of the reduction.
        progress: told the number of runs that are done, and of all.

    Raises:
        ValueError: no images, names or colours that do not fit the model, a model in training.

    """
    _check(model, images, class_names, palette)
    plan = make_plan(model, exit_thresholds, reduction)
    total, done = len(plan) * len(images), count(1)
    pages = [  # packed one by one: recordings are large
        describe_image(record(model, name, pixels, plan, lambda: progress(next(done), total)), plan)
        for name, pixels in images.items()
    ]
    common = {
        "title": title,
        "notes": list(notes),
        "command": command,
        "typed": list(typed),
        "classes": list(class_names),
        "palette": [[int(value) for value in colour] for colour in palette],
        "costs": cost_constants(model),
        **describe_plan(plan),
    }
    write_text(path, assemble(common, pages))
    return path


def assemble(common: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> str:
    """Fill the template; nothing in the result refers to anything outside."""
    scripts = [(STATIC / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    listed = [{"name": image["name"], "thumbnail": image["thumbnail"]} for image in images]
    data = {f"image-{index}": json_in_html(image) for index, image in enumerate(images)}
    data["common"] = json_in_html({**common, "images": listed})
    return render(
        STATIC / "page.html",
        script='"use strict";\n(() => {\n' + "\n".join(scripts) + "\n})();\n",
        style=(STATIC / "style.css").read_text(encoding="utf-8"),
        data=data,
    )


def describe_plan(plan: Plan) -> dict[str, Any]:
    """What is common to all images, as plain values."""
    own = plan.own_merge
    return {
        "windows": list(plan.windows),
        "windowColours": [list(window_colour(window)) for window in plan.windows],
        "differenceColour": list(DIFFERENCE),
        "edgeWeight": own.edge_weight if own else 0,
        "resize": own.resize if own else "bilinear",
        "levels": [{"name": lv.name, "rule": describe_rule(lv.rule)} for lv in plan.levels],
        "heads": list(plan.heads),
        "exitBlocks": list(plan.exit_blocks),
        "ownExits": plan.own_exits,
        "otherExits": plan.other_exits,
        "own": {
            "merge": describe_rule(own),
            "threshold": plan.exit.threshold,
            "keep": plan.exit.keep_per_class,
        },
        "paper": {
            "thresholds": [PAPER_MERGE.get(window, 1) for window in plan.windows],
            "threshold": PAPER_EXIT,
        },
    }


def describe_rule(rule: MergeRule | None) -> dict[str, Any] | None:
    """A rule of merging as plain values: thresholds, or counts and the cells they are meant for."""
    if rule is None:
        return None
    if rule.thresholds is not None:
        return {"thresholds": list(rule.thresholds)}
    return {"counts": list(rule.counts), "cells": rule.top_k_cells}


def describe_image(recording: Recording, plan: Plan) -> dict[str, Any]:
    """One image and its runs as plain values."""
    height, width = recording.pixels.shape[:2]
    step = int(np.ceil((height * width / MAX_PIXELS) ** 0.5))
    shown = (-(-height // step), -(-width // step))
    return {
        "name": recording.name,
        "height": height,
        "width": width,
        "shown": list(shown),
        "rows": recording.grid[0],
        "columns": recording.grid[1],
        "picture": picture_uri(recording.pixels, max(shown) if step > 1 else None),
        "thumbnail": picture_uri(recording.pixels, THUMBNAIL),
        "policyMacs": recording.policy_macs,
        "scores": [pack(recording.scores[window]) for window in plan.windows],
        "edges": [pack(recording.edges[window]) for window in plan.windows]
        if recording.edges
        else None,
        "listening": [_describe_listening(listening) for listening in recording.listening],
        "runs": [
            _describe_run(run, step) | {"agreement": recording.agreement(run)}
            for run in recording.runs
        ],
    }


def _describe_listening(listening: Listening) -> dict[str, str]:
    return {
        "confidence": pack(listening.confidence_hT0),
        "classes": pack(listening.classes_hT0K),
        "others": pack(listening.others_hT0K),
    }


def _describe_run(run: ExactRun, step: int) -> dict[str, Any]:
    return {
        "level": run.level,
        "threshold": run.threshold,
        "tokens": run.tokens,
        "macs": run.macs,
        "exit": pack(run.exit_T0),
        "map": pack(run.map_HW[::step, ::step]),
    }


def _check(
    model: StepSegmenter,
    images: Mapping[str, Picture],
    class_names: Sequence[str],
    palette: Palette,
) -> None:
    if model.training:
        raise ValueError("the explorer needs a model in evaluation mode: call model.eval() before")
    if not images:
        raise ValueError("the explorer needs at least one image, got none")
    if not len(class_names) == len(palette) == model.num_classes:
        raise ValueError(
            f"the model has {model.num_classes} classes, got {len(class_names)} class names and "
            f"{len(palette)} colours: give one of each per class"
        )
    for name, pixels in images.items():
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(
                f"image {name!r} must be uint8 RGB [H, W, 3], got {pixels.dtype} {pixels.shape}"
            )
