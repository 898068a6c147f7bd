"""Configuration, tables, pictures and final figures, handed to whichever loggers there are.

Tables and pictures always go into the output directory as well, so that nothing depends on a
tracker. Call these on the first process only.
"""

import csv
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from stepseg.files.markdown import table
from stepseg.files.spreadsheet import csv_lines
from stepseg.files.writing import write_png, write_text
from stepseg.pictures.example import Snapshot
from stepseg.plain_types import flat

Row = Sequence[Any]


def log_config(loggers: Iterable[Logger], values: Mapping[str, Any]) -> None:
    """Record what was run: nested plain values."""
    for logger in loggers:
        logger.log_hyperparams(dict(values))


def log_table(
    loggers: Iterable[Logger],
    folder: Path,
    key: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    step: int,
) -> None:
    """Record a table; as a file it is ``tables/<key>.csv``, which grows by these rows.

    Args:
        key: such as ``val/per_class_IoU``.
        rows: numbers, texts and None.

    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(key, list(columns), [list(row) for row in rows], step=step)
        elif isinstance(logger, TensorBoardLogger):
            shown = [columns, *([_shown(value) for value in row] for row in rows)]
            logger.experiment.add_text(key, table(shown), step)
    _append_csv(folder / "tables" / f"{key.replace('/', '_')}.csv", columns, rows, step)


def log_snapshots(
    loggers: Iterable[Logger],
    folder: Path,
    key: str,
    snapshots: Sequence[Snapshot],
    step: int,
    keep: int = 3,
) -> None:
    """Record pictures: masks over the image in W&B, rows of panels elsewhere.

    Args:
        folder: the output directory; the files are ``pictures/step_<step>/<name>.png``.
        key: such as ``val/pictures``.
        snapshots: of the same images each time.
        keep: how many steps stay on disk; the oldest are deleted.

    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            images: dict[str, Any] = {key: [_wandb_image(shot) for shot in snapshots]}
            logger.log_metrics(images, step)
        elif isinstance(logger, TensorBoardLogger):
            for index, shot in enumerate(snapshots):
                logger.experiment.add_image(f"{key}/{index}", shot.row, step, dataformats="HWC")
    pictures = folder / "pictures"
    names = [f"{i}_{shot.name.replace('/', '_')}.png" for i, shot in enumerate(snapshots)]
    paths = [pictures / f"step_{step:07d}" / name for name in names]
    with ThreadPoolExecutor() as pool:  # Pillow compresses without Python's lock
        list(pool.map(write_png, paths, [shot.row for shot in snapshots]))
    for old in sorted(pictures.glob("step_*"))[:-keep]:
        shutil.rmtree(old)


def log_summary(
    loggers: Iterable[Logger], config: Mapping[str, Any], figures: Mapping[str, Any], step: int
) -> None:
    """Record the final figures: W&B's summary, TensorBoard's HPARAMS page, a last row of CSV.

    Args:
        figures: flat; texts and lists go where the logger can hold them.

    """
    numbers = {key: float(v) for key, v in figures.items() if isinstance(v, int | float)}
    for logger in loggers:
        logger.log_metrics(numbers, step)
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(dict(figures))
        elif isinstance(logger, TensorBoardLogger):
            _tensorboard_hparams(logger, config, numbers)
        logger.save()


def _wandb_image(shot: Snapshot) -> Any:
    import wandb

    masks = {
        key: {"mask_data": mask.ids_HW, "class_labels": dict(mask.names)}
        for key, mask in shot.masks.items()
    }
    return wandb.Image(shot.image_HW3, masks=masks, caption=shot.caption)


def _tensorboard_hparams(
    logger: TensorBoardLogger, config: Mapping[str, Any], numbers: Mapping[str, float]
) -> None:
    """The page that compares runs; Lightning's own call would log the figures at step 0 too."""
    from torch.utils.tensorboard.summary import hparams

    told = {k: str(v) if isinstance(v, list) else v for k, v in flat(config, "/").items()}
    told = {key: v for key, v in told.items() if isinstance(v, bool | int | float | str)}
    for summary in hparams(told, dict(numbers)):
        logger.experiment.file_writer.add_summary(summary)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _append_csv(path: Path, columns: Sequence[str], rows: Sequence[Row], step: int) -> None:
    """Rewrite the file with the new rows below the old ones: complete at any moment."""
    header = ["step", *columns]
    old: list[list[str]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            found = list(csv.reader(file))
        rest = found[1:] if found and found[0] == header else []
        old = [row for row in rest if int(row[0]) < step]  # what was killed here tells it again
    write_text(path, csv_lines([header, *old, *([step, *row] for row in rows)]))
