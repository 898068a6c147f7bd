"""What an evaluation runs in: checkpoint, data, model and trainer, as a command is configured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import lightning as L

from stepseg.checkpoint import Checkpoint, check_data
from stepseg.cli.config import given_checkpoint, output_dir, overrides
from stepseg.cli.protocol import choose_protocol
from stepseg.cli.result import Result, is_first_process
from stepseg.cli.tracking import make_loggers
from stepseg.cli.trainer import make_datamodule, make_trainer
from stepseg.cli.typed import key_of, typed_of
from stepseg.dcts.policy import OraclePolicy
from stepseg.dcts.targets import HomogeneityRule
from stepseg.grid.store import GridStore, data_identity, file_hash
from stepseg.lit.callbacks.opening import Opening
from stepseg.lit.callbacks.partial_counts import SnapshotCallback
from stepseg.lit.callbacks.progress import progress
from stepseg.lit.callbacks.run_config import RunConfig
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.model import StepSegmenter
from stepseg.runtime.apply import apply_runtime
from stepseg.runtime.choice import check_runtime, choose_runtime
from stepseg.telling import tell

OF_TRAININGS = ("data.crop_size", "data.batch_size", "data.augmentation")
"""Keys of data that an evaluation does not read."""
LIMITS = ("limit_test_batches", "fast_dev_run", "overfit_batches")
"""Of Lightning's trainer: figures of fewer images are others."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One checkpoint, ready to be evaluated on one data set."""

    values: Mapping[str, Any]
    """The command's configuration."""
    checkpoint: Checkpoint
    datamodule: SegmentationDataModule
    module: SegmentationModule
    trainer: L.Trainer
    runtime: str

    @classmethod
    def open(cls, command: str, values: Mapping[str, Any], result: Result, job_type: str) -> Self:
        """Load everything; `result` is told what it is.

        Raises:
            ValueError: names the key that cannot be.

        """
        check_runtime(values["runtime"])
        L.seed_everything(values["seed"], workers=True, verbose=False)
        checkpoint = given_checkpoint(values)
        datamodule = _make_data(command, values, checkpoint)
        model = _make_model(command, checkpoint, values["policy"]["name"])
        result.update({"model": checkpoint.config.to_dict(), "data_name": datamodule.spec.name})
        module = SegmentationModule(
            config=checkpoint.config,
            spec=datamodule.spec,
            protocol=datamodule.protocol,
            model=model,
            rule=_rule(checkpoint, datamodule),
        )
        trainer = _make_trainer(values, checkpoint, result, job_type)
        device = trainer.strategy.root_device
        runtime = choose_runtime(values["runtime"], device)
        apply_runtime(model.prepare_for_inference(), runtime)
        result.update({"device": str(device), "dtype": trainer.precision, "runtime": runtime})
        return cls(values, checkpoint, datamodule, module, trainer, runtime)

    @property
    def model(self) -> StepSegmenter:
        """The segmenter."""
        return self.module.model

    def store(self, folder: Path, saved_points: Sequence[str] | None = None) -> GridStore:
        """The finished rows in a folder, which must be figures of the same things."""
        self.datamodule.prepare_data()
        trainer = self.values["trainer"]
        limits = {key: trainer[key] for key in LIMITS if trainer.get(key) is not None}
        identity = {
            "checkpoint": file_hash(self.checkpoint.path),
            "policy": self.values["policy"]["name"],
            "data": data_identity(self.datamodule.dataset("test"), str(self.datamodule.name)),
            "protocol": self.datamodule.protocol.as_dict(),
            "corruption": asdict(self.datamodule.corruption),
            "limit of images": limits or None,
            "precision": str(trainer["precision"]),
            "runtime": self.runtime,
            "list of points with saved predictions": saved_points and list(saved_points),
        }
        return GridStore(folder, identity, writes=is_first_process())


def _make_trainer(
    values: Mapping[str, Any], checkpoint: Checkpoint, result: Result, job_type: str
) -> L.Trainer:
    return make_trainer(
        values,
        callbacks=[
            progress(),
            Opening(output_dir()),
            SnapshotCallback(values["grid"]["snapshot_seconds"]),
            RunConfig(result.described()),
        ],
        logger=make_loggers(values, job_type, tags=[checkpoint.config.backbone.name]),
        default_root_dir=str(output_dir()),
    )


def _make_data(
    command: str, values: Mapping[str, Any], checkpoint: Checkpoint
) -> SegmentationDataModule:
    """The data as they are shown to this checkpoint's model, which must know their classes."""
    given = values["data"]["evaluation"] or {}
    protocol = choose_protocol(command, checkpoint, given, "data.evaluation")
    datamodule = make_datamodule(values, evaluation=protocol.as_dict())
    other_names = check_data(checkpoint, datamodule.spec.classes, datamodule.spec.name)
    if other_names:
        tell(f"{command}: {other_names}")
    for key in sorted(set(map(key_of, typed_of(OF_TRAININGS, overrides())))):
        tell(f"{command}: {key} is of trainings: data.evaluation says how images are shown")
    return datamodule


def _rule(checkpoint: Checkpoint, datamodule: SegmentationDataModule) -> HomogeneityRule | None:
    """What the policy learned, by the ignored id of these data."""
    if checkpoint.rule is None:
        return None
    return replace(checkpoint.rule, ignore_index=datamodule.spec.ignore_index)


def _make_model(command: str, checkpoint: Checkpoint, policy: str) -> StepSegmenter:
    model = checkpoint.build()
    if policy == "oracle":
        windows = model.policy.windows if model.policy else (2, 4, 8, 16)
        model.policy = OraclePolicy(windows=windows, patch_size=model.patch_size)
    elif policy != "checkpoint":
        raise ValueError(
            f"policy={policy!r}: {command} knows 'checkpoint' and 'oracle'; another network "
            f"needs a training"
        )
    return model
