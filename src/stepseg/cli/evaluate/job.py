"""An evaluation: every point of a grid on the weights of one checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from gpu_pool.guard import check_sweep
from stepseg.checkpoint import Checkpoint
from stepseg.cli.comparison import print_comparison
from stepseg.cli.config import checkpoint_reduction, output_dir, overrides, plain, recorded
from stepseg.cli.evaluate.grid import GridRun
from stepseg.cli.evaluate.setting import Setting
from stepseg.cli.tracking import tracked_result
from stepseg.cli.trainer import clear_failures
from stepseg.cli.typed import typed_of
from stepseg.grid.points import Point, grid_points
from stepseg.grid.systems import system_points
from stepseg.grid.table import print_grid, write_grid_csv
from stepseg.lit.tracking.final import log_final
from stepseg.model import StepSegmenter
from stepseg.profile.break_even import unpaid
from stepseg.telling import tell


def evaluate(cfg: DictConfig) -> float | None:
    """Evaluate every point of the grid that has no row yet and write `result.json`."""
    values = plain(cfg)
    with tracked_result("stepseg-eval", recorded(cfg)) as result:
        check_sweep(values)
        setting = Setting.open("stepseg-eval", values, result, "eval")
        spec, trainer = setting.datamodule.spec, setting.trainer
        points = _points(values, setting.checkpoint, setting.model)
        saves = values["save_predictions"]
        store = setting.store(output_dir() / "grid", [p.name for p in points] if saves else None)
        predictions = output_dir() / "predictions" if saves else None
        grid = GridRun(setting, store, points, output_dir(), predictions)
        with clear_failures(values, trainer, result.fail):
            rows = grid.run(values["grid"]["points_per_pass"], result)
        if trainer.is_global_zero:
            _show(rows, points, f"{spec.name}, {setting.checkpoint.path.name}")
            write_grid_csv(output_dir() / "results.csv", rows, spec.classes)
            log_final(
                trainer.loggers,
                output_dir(),
                result.described(),
                {row["name"]: row for row in rows},
                step=0,
                classes=spec.classes,
                each=values["reductions"] is not None,
            )
        check_figures(rows)
    return rows[-1]["mIoU"]


def check_figures(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to end well where a figure means nothing."""
    problems = {problem: row["name"] for row in rows for problem in row.get("problems", ())}
    if problems:
        raise ValueError("; ".join(f"{name}: {text}" for text, name in problems.items()))


def _show(rows: Sequence[Mapping[str, Any]], points: Sequence[Point], title: str) -> None:
    if len(rows) > 1:
        axes = [point.axes for point in points]
        told_apart = len({str(values) for values in axes}) == len(axes) and all(axes)
        print_grid(rows, axes if told_apart else [{"system": p.label} for p in points], title)
    else:
        print_comparison({points[0].label: rows[0]}, title)
    for row in rows:
        if line := unpaid(row.get("exits", ())):
            tell(f"{row['system']}: {line}")


def _points(values: Mapping[str, Any], checkpoint: Checkpoint, model: StepSegmenter) -> list[Point]:
    if values["reductions"] is None:
        base = checkpoint_reduction(values["reduction"], checkpoint.config)
        return grid_points(base, values["sweep"], model.check)
    if said := typed_of(["reduction"], overrides()):
        raise ValueError(
            f"{', '.join(said)} says nothing of reductions={values['reductions']}: change a system "
            f"by systems.<name>..., for all of them use sweep"
        )
    return system_points(
        values["reductions"],
        values["systems"],
        checkpoint.config.reduction,
        values["sweep"],
        model.check,
        overrides(),
    )
