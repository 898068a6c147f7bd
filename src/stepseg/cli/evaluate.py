"""`stepseg-eval`: evaluate a checkpoint under one or many reductions, model and data loaded once.

stepseg-eval ckpt_path=best.ckpt data=camvid
stepseg-eval ckpt_path=best.ckpt reduction=none
stepseg-eval ckpt_path=best.ckpt 'reductions=[none,cts,dcts,step@6,step@6+8]'
stepseg-eval ckpt_path=best.ckpt 'sweep.exit_thresholds=[0.8,0.9,0.95]'
"""

import sys
from collections.abc import Mapping
from typing import Any

import hydra
import lightning as L
from omegaconf import DictConfig

from stepseg.checkpoint import Checkpoint, check_data, read_checkpoint
from stepseg.cli.comparison import print_comparison
from stepseg.cli.config import (
    checkpoint_reduction,
    make_all,
    make_datamodule,
    make_trainer,
    output_dir,
    overrides,
    plain,
    run_command,
)
from stepseg.cli.paths import config_dir, register_experiments
from stepseg.cli.points import Point, grid_points
from stepseg.cli.result import Result
from stepseg.cli.systems import system_points
from stepseg.dcts.policy import OraclePolicy
from stepseg.launcher import register_launchers
from stepseg.launcher.guard import check_sweep
from stepseg.lit.callbacks.progress import progress
from stepseg.lit.segmentation import SegmentationModule
from stepseg.model import StepSegmenter
from stepseg.model_config import PATCH_SIZE

register_experiments()
register_launchers()


@hydra.main(config_path=config_dir(), config_name="eval", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """Evaluate; returns the mIoU of the last point, for sweepers."""
    return run_command("stepseg-eval", lambda: evaluate(cfg))


def evaluate(cfg: DictConfig) -> float | None:
    """Evaluate every point of the sweep and write one `result.json`."""
    values = plain(cfg)
    with Result(
        output_dir(), command="stepseg-eval", overrides=overrides(), config=values
    ) as result:
        check_sweep(values)
        if not cfg.ckpt_path:
            raise ValueError("ckpt_path= is missing: give a checkpoint of stepseg-train")
        L.seed_everything(cfg.seed, workers=True, verbose=False)
        checkpoint = read_checkpoint(cfg.ckpt_path)
        datamodule = make_datamodule(cfg)
        check_data(checkpoint, datamodule.num_classes, datamodule.spec.name)
        model = _make_model(checkpoint, values["policy"]["name"])
        points = {p.name: p for p in _points(values, checkpoint, model)}
        reductions = {name: point.build() for name, point in points.items()}
        module = SegmentationModule(
            config=checkpoint.config,
            spec=datamodule.spec,
            protocol=datamodule.protocol,
            model=model,
        )
        trainer = make_trainer(
            cfg,
            callbacks=[progress()],
            logger=make_all(cfg.logger),
            default_root_dir=str(output_dir()),
        )
        result.update({"device": str(trainer.strategy.root_device), "dtype": trainer.precision})
        rows: dict[str, dict[str, Any]] = {}
        for index, (name, reduction) in enumerate(reductions.items()):
            module.evaluate_with(reduction)
            if cfg.save_predictions:
                folder = output_dir() / "predictions"
                module.predictions = folder / f"{index:03d}" if len(reductions) > 1 else folder
            trainer.test(module, datamodule, verbose=False)
            rows[name] = dict(module.results)
            named = [
                {"name": n, "reduction": points[n].values, **points[n].columns(), **row}
                for n, row in rows.items()
            ]
            result.update({**rows[name], "rows": named})
            if trainer.is_global_zero and len(reductions) > 1:
                done = f"{index + 1}/{len(reductions)}"
                print(f"{done}  {name}  mIoU {rows[name]['mIoU']:.2f}", file=sys.stderr, flush=True)
        if trainer.is_global_zero:
            print_comparison(rows, f"{datamodule.name}, {checkpoint.path.name}")
    return rows[name]["mIoU"]


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
        model.policy = OraclePolicy(windows=windows, patch_size=PATCH_SIZE)
    elif policy != "checkpoint":
        raise ValueError(
            f"policy={policy!r}: stepseg-eval knows 'checkpoint' and 'oracle'; another network "
            f"needs a training"
        )
    return model.prepare_for_inference()


if __name__ == "__main__":
    main()
