"""What a card tells about a training: the part of `result.json` that is worth passing on.

Plain values, small, without the paths of the machine that trained: they travel in the header of the
shared weights, so that a card can be written from the file alone.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepseg.checkpoint import Checkpoint
from stepseg.masking import masked_text

FIGURES = (
    "mIoU", "mAcc", "aAcc", "fwIoU", "boundary_IoU", "gmacs_mean", "tokens_per_stage",
    "images_per_s", "speedup",
    "validated_at",  # the step of the training whose validation measured this; None: an evaluation
)  # fmt: skip
BEFORE = "figures_before"
"""Of a header: its figures are those of another reduction, which was the model's own before."""
RECIPE = {
    "steps": ("trainer", "max_steps"),
    "images per step and process": ("data", "batch_size"),
    "crop": ("data", "crop_size"),
    "learning rate": ("optim", "lr"),
    "schedule": ("optim", "schedule"),
    "precision": ("trainer", "precision"),
}


def run_facts(result: Mapping[str, Any], hardware: str | None = None) -> dict[str, Any]:
    """The facts of a run.

    Args:
        result: of `stepseg-train` or `stepseg-eval`, finished or about to.
        hardware: in words; None: what the result says of its device.

    """
    rows = result.get("rows") or _validated(result)
    config = result.get("config") or {}
    facts: dict[str, Any] = {
        "command": command_line(result),
        "git_sha": result.get("git_sha"),
        "versions": result.get("versions") or {},
        "seed": result.get("seed"),
        "hardware": hardware or result.get("device"),
        "minutes": _rounded(result["seconds"] / 60, 1) if result.get("seconds") else None,
        "images": result.get("images") if rows else None,
        "timed_on": _timed_on(result),
        "systems": [
            {"name": str(row.get("name")), **{key: _figure(row.get(key)) for key in FIGURES}}
            for row in rows
            if isinstance(row.get("mIoU"), int | float)
        ],
        "per_class_IoU": _figure(result.get("per_class_IoU")) if rows else None,
        "recipe": {name: _at(config, path) for name, path in RECIPE.items()},
    }
    return {key: value for key, value in facts.items() if value not in (None, {}, [])}


def _validated(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The one row of a training without a comparison, if its figures are of its checkpoint."""
    if "checkpoint_step" not in result:
        return []
    return [{**result, "name": "as trained", "validated_at": result["checkpoint_step"]}]


def command_line(result: Mapping[str, Any]) -> str | None:
    """What was typed; of absolute paths only the last part is told."""
    command = result.get("command")
    if not command:
        return None
    words = [
        re.sub(r"(?<![\w.])/[^\s,\]'\"]*", _last_part, o)
        for o in map(masked_text, result.get("overrides", []))
    ]
    quoted = [f"'{word}'" if re.search(r"[\[\]{}$* ]", word) else word for word in words]
    return " ".join([command, *quoted])


def main_figures(checkpoint: Checkpoint) -> dict[str, Any]:
    """The row of the model's own reduction; empty where no evaluation is known."""
    systems = checkpoint.about.get("systems")
    if not isinstance(systems, list) or not systems or checkpoint.about.get(BEFORE):
        return {}
    return systems[-1] if isinstance(systems[-1], dict) else {}


def _last_part(match: re.Match[str]) -> str:
    return Path(match[0]).name


def _timed_on(result: Mapping[str, Any]) -> str | None:
    timed = any("images_per_s" in row for row in result.get("rows") or [])
    return str(result.get("device")) if timed else None


def _at(config: Mapping[str, Any], path: tuple[str, str]) -> Any:
    part = config.get(path[0])
    return part.get(path[1]) if isinstance(part, Mapping) else None


def _figure(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_figure(item) for item in value]
    return _rounded(value, 4) if isinstance(value, float) else value


def _rounded(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
