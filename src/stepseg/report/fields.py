"""What was set in a run, read from its configuration and that of the training behind it.

Not here: which images it saw (`stepseg.report.images`).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepseg.plain_types import flat
from stepseg.report.runs import NAME, Run, read_run
from stepseg.report.values import mapping, number, plain
from stepseg.weights.place import NAMES

PLACES = {"root", "save_dir", "dirpath", "default_root_dir", "num_workers", "val_batch_size"}
PLACES |= {"logger", "callbacks", "compare", "ckpt_path", "monitor", "best_by", "seed"}
"""Keys of a training's configuration that say where and how it ran, not what was trained."""

PATCH_SIZE = 16
"""Pixels; of results that do not say it."""

PARTS = ("merge", "exit", "inside", "input", "budget")
"""Of a reduction."""
COLUMNS = {
    "merge_by": ("merge", "by"),
    "inside": ("inside", "rule"),
    "inside_r": ("inside", "r"),
    "inside_threshold": ("inside", "threshold"),
    "cell": ("input", "cell"),
    "budget": ("budget", "gmacs_per_image"),
    "merge_windows": ("merge", "windows"),
    "merge_thresholds": ("merge", "thresholds"),
    "top_k": ("merge", "top_k"),
    "top_k_cells": ("merge", "top_k_cells"),
    "edge_weight": ("merge", "edge_weight"),
    "resize": ("merge", "resize"),
    "exit_blocks": ("exit", "blocks"),
    "exit_threshold": ("exit", "threshold"),
    "exit_rule": ("exit", "rule"),
    "keep_per_class": ("exit", "keep_per_class"),
    "exit_tokens": ("exit", "tokens"),
}
"""What rows of results call a reduction's numbers, and where these stand in a configuration."""
SEEDS = {"merge_seed": ("merge", "seed"), "exit_seed": ("exit", "seed")}
"""What they call the seeds of its random rules, which tell repetitions apart."""


def reduction_of_entry(entry: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """What was reduced in an evaluation: from the row, else from its name and the configuration."""
    given = entry.get("reduction")
    configured = mapping(run.config.get("reduction"))
    if isinstance(given, Mapping):
        reduction = {part: given.get(part) for part in PARTS}
    else:
        reduction = {part: configured.get(part) for part in PARTS}
        stayed = entry.get("exit_blocks", ()) is None
        if stayed or entry.get("name") in ("dense", "CTS", "dCTS"):
            reduction["exit"] = None
        if entry.get("name") == "dense":
            reduction |= dict.fromkeys(("merge", "inside", "input", "budget"))
    for column, (part, key) in COLUMNS.items():
        if entry.get(column) not in (None, []):
            reduction[part] = {**(reduction[part] or {}), key: entry[column]}
    if not mapping(reduction["exit"]).get("blocks"):
        reduction["exit"] = None
    return reduction


def reduction_of_system(entry: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What was reduced in a benchmark: as its row says, else the system that the row is named by.

    ``step@6+8`` is the system ``step`` with other exits.
    """
    base = str(entry.get("name", "")).partition("@")[0]
    configured = mapping(config.get("systems")).get(base)
    values = mapping(entry.get("reduction")) or mapping(configured)
    if not values and base != "none":
        raise ValueError(f"row {entry.get('name')!r} names no system of the run's configuration")
    blocks = entry.get("exit_blocks")
    leave = {**mapping(values.get("exit")), "blocks": blocks} if blocks else None
    return {part: values.get(part) for part in PARTS} | {"exit": leave}


def without_thresholds(reduction: Mapping[str, Any]) -> dict[str, Any]:
    """Where counts are prescribed, thresholds and rules decide nothing."""
    merge, leave = reduction.get("merge"), reduction.get("exit")
    return {
        **reduction,
        "merge": merge and {k: v for k, v in merge.items() if k in ("windows", "top_k", "by")},
        "exit": leave and {"blocks": leave.get("blocks")},
    }


def reduction_fields(reduction: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a reduction, one by one."""
    fields = {
        column: mapping(reduction.get(part)).get(key) for column, (part, key) in COLUMNS.items()
    }
    fields |= {name: fields[name] or None for name in ("edge_weight", "exit_tokens")}
    if fields["merge_by"] == "policy":
        fields["merge_by"] = None
    if fields["exit_rule"] == "budget":
        fields |= {"exit_threshold": None, "keep_per_class": None}
    return fields


def place_fields(run: Run, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Machine, commit and versions."""
    versions = mapping(run.values.get("versions"))
    return {
        "device": run.values.get("device"),
        "dtype": mapping(entry.get("protocol")).get("dtype") or run.values.get("dtype"),
        "runtime": mapping(entry.get("protocol")).get("runtime") or run.values.get("runtime"),
        "commit": run.commit,
        "versions": " ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    }


def training_of(run: Run, trainings: Mapping[str, Run]) -> Run | None:
    """The training whose weights a run used: itself, one of the collection, or on disk."""
    if run.command == "stepseg-train":
        return run
    path = run.config.get("ckpt_path")
    if not path:
        return None
    if str(path) in trainings:
        return trainings[str(path)]
    try:
        place = Path(path)  # of a file in checkpoints/, or of the run
        return read_run((place if place.is_dir() else place.parent.parent) / "result.json")
    except ValueError:
        return None


def weights_of(run: Run, training: Run | None) -> tuple[dict[str, Any], str]:
    """What tells the weights apart but for the seed, and the seed."""
    if training is None:
        fields = {"checkpoint": run.config.get("ckpt_path")}
        model = mapping(mapping(run.values.get("model")).get("backbone"))
        return fields | ({"backbone": backbone_name(model)} if model else {}), str(
            run.values.get("seed")
        )
    config = training.config
    recipe = {
        f"train.{key}": plain(value)
        for key, value in flat(config).items()
        if PLACES.isdisjoint(key.split("."))
    }
    text = json.dumps([str(item) for item in sorted(recipe.items())])
    backbone = backbone_name(mapping(config.get("backbone")))
    fields = {"backbone": backbone, "recipe": hashlib.sha1(text.encode()).hexdigest()[:8], **recipe}
    other = other_checkpoint(run, training)
    return fields | ({"checkpoint": other} if other else {}), str(training.values.get("seed"))


def other_checkpoint(run: Run, training: Run) -> str | None:
    """The file of a training that was used, such as ``checkpoints/last.ckpt``.

    None of the one that the training gives as its result. Folders do not count, as runs are moved
    and as seeds have folders of their own.
    """
    used, own = run.config.get("ckpt_path"), training.values.get("checkpoint")
    if training is run or not used or str(used) == str(own):
        return None
    file = Path(str(used))
    if file / NAME == training.path:  # the folder of a run means its best
        file = next((file / name for name in NAMES if (file / name).is_file()), file / NAMES[0])
    parts = file.parts[-2:]
    return None if own and parts == Path(str(own)).parts[-2:] else "/".join(parts)


def model_of(run: Run, training: Run | None) -> Mapping[str, Any]:
    """The model's numbers, where the run or its training knows better than the configuration."""
    if isinstance(run.values.get("model"), Mapping):
        return run.values["model"]
    if training is None or not run.config.get("ckpt_path"):
        return {}
    classes = training.values.get("per_class_IoU")
    known = {"num_classes": len(classes)} if classes else {}
    return {**training.config, **known}


def policy_name(run: Run, training: Run | None) -> str | None:
    """The network that decided about merging; an evaluation may replace it by the oracle."""
    own = mapping(run.config.get("policy")).get("name")
    if own == "oracle" or training is run:
        return own
    config = training.config if training else mapping(run.values.get("model"))
    return mapping(config.get("policy")).get("name")


def cell_of(reduction: Mapping[str, Any], run: Run, training: Run | None) -> float:
    """Pixels, per side, that a patch shows: its own size, unless the input was made smaller."""
    model = mapping(run.values.get("model")) or (training.config if training else run.config)
    shown = number(mapping(reduction.get("input")), "cell")
    return shown or number(mapping(model.get("backbone")), "patch_size") or PATCH_SIZE


def backbone_name(values: Mapping[str, Any]) -> str | None:
    """``vit_tiny, 6 blocks``."""
    name, depth = values.get("name"), values.get("depth")
    return f"{name}, {depth} blocks" if name and depth else name
