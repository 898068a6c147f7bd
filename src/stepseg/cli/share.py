"""The end of a training: its best weights to share, with a card; and the same for old ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stepseg.card.examples import Example
from stepseg.card.facts import run_facts
from stepseg.card.files import write_shared
from stepseg.checkpoint import Checkpoint, read_checkpoint
from stepseg.cli.result import read_result
from stepseg.data.dataset import SegmentationDataset
from stepseg.profile.benchmark import hardware
from stepseg.telling import tell

METRICS = ("csv/metrics.csv", "metrics.csv")


def share_best(
    best: Path, result: Mapping[str, Any], folder: Path, device: torch.device, examples: Any
) -> dict[str, Any]:
    """Write `model.safetensors` and its card beside the best checkpoint.

    Whatever goes wrong here is told, in the terminal and in `result.json`, and ends nothing: the
    training is done and its checkpoint is there.

    Args:
        best: the checkpoint.
        result: what `result.json` will hold.
        folder: the output directory, for the curve.
        device: of the training.
        examples: makes the images to show, when called.

    """
    try:
        shared = write_shared(
            best.with_name("model.safetensors"),
            read_checkpoint(best),
            run_facts(result, hardware(device)),
            examples=examples(),
            metrics=metrics_file(folder),
        )
    except Exception as error:
        tell(f"stepseg-train: no card was written: {error}")
        return {"card_error": f"{type(error).__name__}: {error}"}
    values: dict[str, Any] = {"card": str(shared.files["README.md"])}
    if shared.problems:
        tell(f"stepseg-train: the card lacks {'; '.join(shared.problems)}")
        values["card_error"] = "; ".join(shared.problems)
    return values


def known_facts(checkpoint: Checkpoint, result: str | None) -> tuple[dict[str, Any], Path | None]:
    """Facts of a finished training and its file of metrics, as far as they lie around.

    Args:
        checkpoint: from that training.
        result: its `result.json`; None: the one beside the checkpoint or one folder up, if that
            names the checkpoint.

    """
    folder = checkpoint.path.parent
    if result is not None:
        path = Path(result)
        return run_facts(read_result(path)), metrics_file(path.parent)
    for path in (folder / "result.json", folder.parent / "result.json"):
        if not path.is_file():
            continue
        values = read_result(path)
        if Path(values.get("checkpoint") or "").name == checkpoint.path.name and "mIoU" in values:
            return run_facts(values), metrics_file(path.parent)
    return {}, None


def examples_of(dataset: SegmentationDataset, count: int = 2) -> Sequence[Example]:
    """Images with their labels, spread over a data set."""
    step = max(1, len(dataset) // count)
    samples = [dataset[index] for index in range(step // 2, len(dataset), step)[:count]]
    return [(sample["image"], sample["label"]) for sample in samples]


def metrics_file(folder: Path) -> Path | None:
    """Where the CSV logger wrote, if it did."""
    return next((folder / name for name in METRICS if (folder / name).is_file()), None)
