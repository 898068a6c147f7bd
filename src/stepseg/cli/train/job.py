"""A training: fit, evaluate the best weights, compare systems, write a card."""

import copy
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from gpu_pool.guard import check_sweep
from stepseg.build import build_policy
from stepseg.checkpoint import read_checkpoint
from stepseg.cli.check import check_model, check_training
from stepseg.cli.comparison import print_comparison, systems, time_systems
from stepseg.cli.config import (
    make_all,
    model_config,
    output_dir,
    plain,
    recorded,
)
from stepseg.cli.result import Result
from stepseg.cli.resume import (
    COMMAND,
    check_config,
    check_steps,
    check_unused,
    find_point,
    finished_result,
)
from stepseg.cli.share import examples_of, share_best
from stepseg.cli.tracking import make_loggers, tracked_result
from stepseg.cli.train.length import fit_to_length
from stepseg.cli.train.profiler import show_profile
from stepseg.cli.train.start import normalised_alike, read_start, start_from
from stepseg.cli.trainer import clear_failures, make_datamodule, make_trainer
from stepseg.dcts.policy import PolicyNetwork
from stepseg.dcts.targets import HomogeneityRule
from stepseg.files.confusion import write_confusion
from stepseg.lit.callbacks.broken import BrokenImages
from stepseg.lit.callbacks.calibrate import Calibrate
from stepseg.lit.callbacks.non_finite import SkipNonFinite
from stepseg.lit.callbacks.opening import Opening
from stepseg.lit.callbacks.progress import progress
from stepseg.lit.callbacks.randomness import BatchRandomness
from stepseg.lit.callbacks.run_config import RunConfig
from stepseg.lit.checkpoint_io import SafeCheckpointIO
from stepseg.lit.csv_logger import CsvLogger
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.interrupt import StopOnSignal
from stepseg.lit.optim import OptimConfig
from stepseg.lit.policy_module import PolicyModule
from stepseg.lit.resume import ResumePoint, RunRecord, validated
from stepseg.lit.schedule import ReductionSchedule
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.lit.tracking.final import describe, log_final
from stepseg.losses import LossWeights
from stepseg.model_config import ModelConfig
from stepseg.plain_types import from_values
from stepseg.telling import tell


def train(cfg: DictConfig) -> float | None:
    """Carry out one training job and write its `result.json`."""
    values = plain(cfg)
    finished = finished_result(values["ckpt_path"], output_dir())
    if finished is not None:
        return finished.get("mIoU", finished.get("mAP"))
    check_unused(values["ckpt_path"], output_dir())
    with tracked_result(COMMAND, recorded(cfg)) as result:
        check_sweep(values)
        check_training(values)
        for line in fit_to_length(values, result.values["config"]):
            tell(f"stepseg-train: {line}")
        point = _resumed(values, result)
        L.seed_everything(values["seed"], workers=True, verbose=False)
        datamodule = make_datamodule(values)
        config = model_config(values, datamodule.num_classes)
        start = read_start(values) if point is None else None
        if point is not None and point.model is not None:
            config = normalised_alike(config, point.model)
        elif start is not None and "backbone" not in values["init_without"]:
            config = normalised_alike(config, start.config)
        check_model(config, datamodule, values)
        result.update({"data_name": datamodule.spec.name})
        module = _make_module(config, datamodule, values)
        if start is not None:
            line = start_from(start, module, values["init_without"])
            tell(f"stepseg-train: {line}")
            result.update({"init_from": line})
        trainer = _make_trainer(values, config, result, point)
        result.update({"device": str(trainer.strategy.root_device), "dtype": trainer.precision})
        with clear_failures(values, trainer, result.fail):
            trainer.fit(module, datamodule, ckpt_path=point.path if point else None)
            show_profile(trainer)
            result.update(_faults(trainer))
            figures = _finish(trainer, module, datamodule, values["compare"])
            result.update(figures)
            if trainer.is_global_zero:
                if values["card"] and isinstance(module, SegmentationModule):
                    result.update(_share(trainer, datamodule, result))
                _log_final(trainer, module, figures, result)
    return figures.get("mIoU", figures.get("mAP"))


def _resumed(values: dict[str, Any], result: Result) -> ResumePoint | None:
    """Where an earlier training ended, if this one goes on with it."""
    point = find_point(values["ckpt_path"], output_dir())
    if point is not None:
        check_steps(point, values["trainer"]["max_steps"])
        check_config(point, result.values["config"], values["resume"]["on_change"])
        result.update({"resumed_from": {"checkpoint": str(point.path), "step": point.step}})
    return point


def _make_trainer(
    values: dict[str, Any], config: ModelConfig, result: Result, point: ResumePoint | None
) -> L.Trainer:
    return make_trainer(
        values,
        callbacks=[
            *make_all("callbacks", values["callbacks"]),
            progress(values["trainer"]["log_every_n_steps"]),
            BatchRandomness(values["seed"]),
            Calibrate(
                config.policy.calibration_images if config.policy else 0,
                config.heads.temperature_images,
            ),
            RunRecord(result.values["config"]),
            Opening(output_dir()),
            BrokenImages(),
            StopOnSignal(result.grace.moved),
            RunConfig(result.described()),
        ],
        logger=_loggers(values, point),
        plugins=[SafeCheckpointIO()],
        default_root_dir=str(output_dir()),
    )


def _make_module(
    config: ModelConfig, datamodule: SegmentationDataModule, values: dict[str, Any]
) -> SegmentationModule | PolicyModule:
    optim = from_values(OptimConfig, values["optim"], "optim")
    chosen = {**values["homogeneity"], "ignore_index": datamodule.spec.ignore_index}
    rule = from_values(HomogeneityRule, chosen, "homogeneity")
    loss = from_values(LossWeights, values["loss"], "loss")
    if values["task"] == "policy":
        policy = build_policy(config.policy) if config.policy else None
        if not isinstance(policy, PolicyNetwork):
            raise ValueError("task=policy trains a network: choose policy=efficientnet_lite0")
        return PolicyModule(
            policy=policy, optim=optim, loss=loss, rule=rule, protocol=datamodule.protocol
        )
    return SegmentationModule(
        config=config,
        spec=datamodule.spec,
        protocol=datamodule.protocol,
        optim=optim,
        loss=loss,
        schedule=from_values(ReductionSchedule, values["schedule"], "schedule"),
        rule=rule,
        compile=values["compile"],
    )


def _finish(
    trainer: L.Trainer,
    module: SegmentationModule | PolicyModule,
    datamodule: SegmentationDataModule,
    anew: bool,
) -> dict[str, Any]:
    """The figures of the best checkpoint for `result.json`, evaluated anew or as validated."""
    best = _best_checkpoint(trainer)
    figures: dict[str, Any] = {"steps": trainer.global_step, "checkpoint": best}
    results: Any = module.results  # of the last validation
    if best:
        figures["checkpoint_step"], results = validated(best)
    if isinstance(module, PolicyModule):
        return {**figures, **(results or {})}
    if not anew:
        return {**figures, **(results[-1] if results else {})}
    if best:
        module.model.load_state_dict(read_checkpoint(best).state)
    rows = compare(trainer, module, datamodule)
    last = list(rows.values())[-1]
    return {**figures, **last, "rows": [{"name": name, **row} for name, row in rows.items()]}


def _share(
    trainer: L.Trainer, datamodule: SegmentationDataModule, result: Result
) -> dict[str, Any]:
    best = result.values["checkpoint"]
    if not best:
        return {}
    return share_best(
        Path(best),
        {**result.values, "seconds": result.seconds},
        output_dir(),
        trainer.strategy.root_device,
        lambda: examples_of(datamodule.dataset("test")),
    )


def compare(
    trainer: L.Trainer, module: SegmentationModule, datamodule: SegmentationDataModule
) -> dict[str, dict[str, Any]]:
    """Evaluate dense, dCTS and the full reduction on the same weights, and time them in turns."""
    reductions = systems(module.model.reduction)
    module.evaluate_with(list(reductions.values()))
    trainer.test(module, datamodule, verbose=False)
    rows = {
        name: row | describe(reductions[name])
        for name, row in zip(reductions, module.results, strict=True)
    }
    if trainer.is_global_zero:
        for index, (name, counts) in enumerate(
            zip(rows, module.evaluator.confusions(), strict=True)
        ):
            place = f"confusion/{index}.csv"
            write_confusion(output_dir() / place, counts, datamodule.spec.classes)
            rows[name] |= {"system": name, "confusion": place}
        device = trainer.strategy.root_device
        model = copy.deepcopy(module.model).prepare_for_inference().to(device)
        images = _timing_images(datamodule).to(device)
        with trainer.precision_plugin.val_step_context():  # the type that the figures are of
            timings = time_systems(model, reductions, images)
        for name, timing in timings.items():
            rows[name] |= timing
        size, precision = f"{images.shape[3]} x {images.shape[2]}", trainer.precision
        where = f"{datamodule.spec.name}, {size}, {device}, {precision}"
        print_comparison(rows, f"{where}, batch 1, same weights")
    return rows


def _timing_images(datamodule: SegmentationDataModule, count: int = 12) -> torch.Tensor:
    """Different validation images of one size, float in [0, 1]."""
    dataset = datamodule.dataset("test")
    images = [dataset[i]["image"] for i in range(min(count, len(dataset)))]
    return torch.stack([i for i in images if i.shape == images[0].shape]).float() / 255


def _best_checkpoint(trainer: L.Trainer) -> str | None:
    for callback in trainer.checkpoint_callbacks:
        path = getattr(callback, "best_model_path", "")
        if path and getattr(callback, "monitor", None):
            return str(path)
    return None


def _faults(trainer: L.Trainer) -> dict[str, Any]:
    """What the training left out, for `result.json`."""
    figures: dict[str, Any] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SkipNonFinite | BrokenImages):
            figures |= callback.figures()
    return figures


def _loggers(values: dict[str, Any], point: ResumePoint | None) -> list[Any]:
    job_type = "policy" if values["task"] == "policy" else "train"
    loggers = make_loggers(values, job_type, resumes=point.path if point else None)
    for logger in loggers:
        if isinstance(logger, CsvLogger) and point is not None:
            logger.resume_at(point.step)
    return loggers


def _log_final(
    trainer: L.Trainer,
    module: SegmentationModule | PolicyModule,
    figures: dict[str, Any],
    result: Result,
) -> None:
    """Hand the figures of `result.json` to the loggers."""
    rows = {row["name"]: row for row in figures.get("rows", [])} or {"trained": figures}
    classes = module.spec.classes if isinstance(module, SegmentationModule) else ()
    log_final(
        trainer.loggers,
        output_dir(),
        result.described(),
        rows,
        step=trainer.global_step,
        classes=classes if figures.get("per_class_IoU") else (),
        each="rows" in figures,
    )
