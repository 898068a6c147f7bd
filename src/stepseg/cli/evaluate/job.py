"""An evaluation: every point of a grid on the weights of one checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import lightning as L
from omegaconf import DictConfig

from gpu_pool.guard import check_sweep
from stepseg.checkpoint import Checkpoint, check_data
from stepseg.cli.comparison import print_comparison
from stepseg.cli.config import (
    checkpoint_reduction,
    given_checkpoint,
    make_datamodule,
    make_trainer,
    output_dir,
    overrides,
    plain,
    recorded,
)
from stepseg.cli.evaluate.grid import GridRun
from stepseg.cli.failures import clear_failures
from stepseg.cli.protocol import choose_protocol
from stepseg.cli.result import Result, is_first_process
from stepseg.cli.tracking import make_loggers, tracked_result
from stepseg.dcts.policy import OraclePolicy
from stepseg.dcts.targets import HomogeneityRule
from stepseg.grid.points import Point, grid_points
from stepseg.grid.store import GridStore, data_identity, file_hash
from stepseg.grid.systems import system_points
from stepseg.grid.table import print_grid, write_grid_csv
from stepseg.lit.callbacks.opening import Opening
from stepseg.lit.callbacks.partial_counts import SnapshotCallback
from stepseg.lit.callbacks.progress import progress
from stepseg.lit.callbacks.run_config import RunConfig
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.lit.tracking.final import log_final
from stepseg.model import StepSegmenter
from stepseg.profile.break_even import unpaid
from stepseg.runtime.apply import apply_runtime
from stepseg.runtime.choice import check_runtime, choose_runtime
from stepseg.telling import tell


def evaluate(cfg: DictConfig) -> float | None:
    """Evaluate every point of the grid that has no row yet and write `result.json`."""
    values = plain(cfg)
    with tracked_result("stepseg-eval", recorded(cfg)) as result:
        check_sweep(values)
        check_runtime(values["runtime"])
        L.seed_everything(values["seed"], workers=True, verbose=False)
        checkpoint = given_checkpoint(values)
        datamodule = _make_data(values, checkpoint)
        model = _make_model(checkpoint, values["policy"]["name"])
        result.update({"model": checkpoint.config.to_dict(), "data_name": datamodule.spec.name})
        points = _points(values, checkpoint, model)
        module = SegmentationModule(
            config=checkpoint.config,
            spec=datamodule.spec,
            protocol=datamodule.protocol,
            model=model,
            rule=_rule(checkpoint, datamodule),
        )
        trainer = _make_trainer(values, checkpoint, result)
        device = trainer.strategy.root_device
        runtime = choose_runtime(values["runtime"], device)
        apply_runtime(model.prepare_for_inference(), runtime)
        result.update({"device": str(device), "dtype": trainer.precision, "runtime": runtime})
        grid = GridRun(
            trainer=trainer,
            module=module,
            datamodule=datamodule,
            store=_open_store(values, checkpoint, datamodule, points, runtime),
            points=points,
            output=output_dir(),
            predictions=output_dir() / "predictions" if values["save_predictions"] else None,
        )
        with clear_failures(values, trainer, result.fail):
            rows = grid.run(values["grid"]["points_per_pass"], result)
        if trainer.is_global_zero:
            _show(rows, points, f"{datamodule.spec.name}, {checkpoint.path.name}")
            _publish(rows, trainer, datamodule.spec.classes, result, values["reductions"])
        _check_figures(rows)
    return rows[-1]["mIoU"]


def _make_trainer(values: Mapping[str, Any], checkpoint: Checkpoint, result: Result) -> L.Trainer:
    return make_trainer(
        values,
        callbacks=[
            progress(),
            Opening(output_dir()),
            SnapshotCallback(values["grid"]["snapshot_seconds"]),
            RunConfig(result.described()),
        ],
        logger=make_loggers(values, "eval", tags=[checkpoint.config.backbone.name]),
        default_root_dir=str(output_dir()),
    )


def _make_data(values: Mapping[str, Any], checkpoint: Checkpoint) -> SegmentationDataModule:
    """The data as they are shown to this checkpoint's model, which must know their classes."""
    given = values["data"]["evaluation"] or {}
    protocol = choose_protocol("stepseg-eval", checkpoint, given, "data.evaluation")
    datamodule = make_datamodule(values, evaluation=protocol.as_dict())
    check_data(checkpoint, datamodule.num_classes, datamodule.spec.name)
    return datamodule


def _rule(checkpoint: Checkpoint, datamodule: SegmentationDataModule) -> HomogeneityRule | None:
    """What the policy learned, by the ignored id of these data."""
    if checkpoint.rule is None:
        return None
    return replace(checkpoint.rule, ignore_index=datamodule.spec.ignore_index)


def _open_store(
    values: Mapping[str, Any],
    checkpoint: Checkpoint,
    datamodule: SegmentationDataModule,
    points: Sequence[Point],
    runtime: str,
) -> GridStore:
    """The finished rows in the output directory, which must be figures of the same things."""
    datamodule.prepare_data()
    names = [point.name for point in points] if values["save_predictions"] else None
    identity = {
        "checkpoint": file_hash(checkpoint.path),
        "policy": values["policy"]["name"],
        "data": data_identity(datamodule.dataset("test"), str(datamodule.name)),
        "protocol": datamodule.protocol.as_dict(),
        "corruption": asdict(datamodule.corruption),
        "precision": str(values["trainer"]["precision"]),
        "runtime": runtime,
        "list of points with saved predictions": names,
    }
    return GridStore(output_dir() / "grid", identity, writes=is_first_process())


def _check_figures(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to end well where a figure means nothing."""
    problems = {problem: row["name"] for row in rows for problem in row.get("problems", ())}
    if problems:
        raise ValueError("; ".join(f"{name}: {text}" for text, name in problems.items()))


def _publish(
    rows: Sequence[Mapping[str, Any]],
    trainer: L.Trainer,
    classes: Sequence[str],
    result: Result,
    systems: Sequence[str] | None,
) -> None:
    """The rows as a CSV file, and to the loggers."""
    write_grid_csv(output_dir() / "results.csv", rows, classes)
    log_final(
        trainer.loggers,
        output_dir(),
        result.described(),
        {row["name"]: row for row in rows},
        step=0,
        classes=classes,
        each=systems is not None,
    )


def _show(rows: Sequence[Mapping[str, Any]], points: Sequence[Point], title: str) -> None:
    if len(rows) > 1:
        axes = [point.axes for point in points]
        told_apart = len({str(values) for values in axes}) == len(axes) and all(axes)
        print_grid(rows, axes if told_apart else [{"system": p.label} for p in points], title)
    else:
        print_comparison({points[0].label: rows[0]}, title)
    for row in rows:
        if line := unpaid(row.get("exits", ())):
            tell(f"{row['name']}: {line}")


def _points(values: Mapping[str, Any], checkpoint: Checkpoint, model: StepSegmenter) -> list[Point]:
    if values["reductions"] is None:
        base = checkpoint_reduction(values["reduction"], checkpoint.config)
        return grid_points(base, values["sweep"], model.check)
    said = [o for o in overrides() if o.lstrip("+").startswith(("reduction=", "reduction."))]
    if said:
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


def _make_model(checkpoint: Checkpoint, policy: str) -> StepSegmenter:
    model = checkpoint.build()
    if policy == "oracle":
        windows = model.policy.windows if model.policy else (2, 4, 8, 16)
        model.policy = OraclePolicy(windows=windows, patch_size=model.patch_size)
    elif policy != "checkpoint":
        raise ValueError(
            f"policy={policy!r}: stepseg-eval knows 'checkpoint' and 'oracle'; another network "
            f"needs a training"
        )
    return model
