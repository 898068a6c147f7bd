"""The head of a card: what the Hugging Face hub reads, as YAML."""

from typing import Any

import yaml

from stepseg.card.facts import main_figures
from stepseg.checkpoint import Checkpoint

METRICS = {"mIoU": "mean_iou", "mAcc": "mean_accuracy", "aAcc": "accuracy"}


def front_matter(checkpoint: Checkpoint, name: str, license_: str | None = None) -> str:
    """YAML between two lines of dashes.

    Args:
        checkpoint: with facts of its training, if there are any.
        name: of the model.
        license_: an identifier of the hub, such as ``apache-2.0``.

    """
    data = checkpoint.data["name"]
    values: dict[str, Any] = {
        **({"license": license_} if license_ else {}),
        "library_name": "stepseg",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "vision-transformer", "token-reduction", "stepseg"],
        "datasets": [data],
        "metrics": ["mean_iou"],
    }
    figures = main_figures(checkpoint)
    metrics = [
        {"type": kind, "name": key, "value": figures[key]}
        for key, kind in METRICS.items()
        if isinstance(figures.get(key), int | float)
    ]
    if metrics:
        task = {"type": "image-segmentation", "name": "Semantic segmentation"}
        dataset = {"type": data, "name": data}
        results = [{"task": task, "dataset": dataset, "metrics": metrics}]
        values["model-index"] = [{"name": name, "results": results}]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n"
