"""The training of a policy network alone, as CTS does it before the segmenter.

The result goes to ``policy.checkpoint`` of a segmenter's training, usually with
``policy.training=frozen``.
"""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics.classification import BinaryAveragePrecision

from stepseg.dcts.policy import PolicyNetwork
from stepseg.dcts.targets import HomogeneityRule
from stepseg.lit.callbacks.non_finite import poison
from stepseg.lit.metrics import is_logging_step, write_metrics
from stepseg.lit.optim import OptimConfig, build_optimizer
from stepseg.losses import LossWeights, local_count, mean_over_ranks, policy_loss
from stepseg.metrics.calibration import CalibrationMetric, calibration_errors, judge
from stepseg.metrics.loss import LossMetric
from stepseg.protocol import Protocol


class PolicyModule(L.LightningModule):
    """Trains a `PolicyNetwork` on the homogeneity of windows.

    Args:
        policy: the network, in mode ``joint``.
        optim: of rates and decays `policy_lr` and `policy_weight_decay` are read.
        loss: `policy_balance` is read.

    """

    def __init__(
        self,
        *,
        policy: PolicyNetwork,
        optim: OptimConfig | None = None,
        loss: LossWeights | None = None,
        rule: HomogeneityRule | None = None,
        protocol: Protocol | None = None,
    ) -> None:
        super().__init__()
        if policy.training_mode != "joint":
            raise ValueError("a frozen policy does not learn: set policy.training=joint")
        self.policy = policy
        self.optim, self.rule = optim or OptimConfig(), rule or HomogeneityRule()
        self.loss, self.protocol = loss or LossWeights(), protocol or Protocol()
        # Average precision needs no threshold; bins keep its memory bounded.
        self.precision = torch.nn.ModuleDict(
            {str(window): BinaryAveragePrecision(thresholds=200) for window in policy.windows}
        )
        self.val_loss = LossMetric(["loss"])
        self.calibration = CalibrationMetric(policy.windows)
        self.results: dict[str, Any] = {}

    def training_step(self, batch: Mapping[str, Any], batch_index: int) -> Tensor:
        logits = self.policy(batch["image"].float() / 255)
        labels, policy = batch["label"].long(), self.policy
        targets = self.rule.windows(labels, policy.patch_size, policy.windows)
        loss = policy_loss(logits, targets, balance=self.loss.policy_balance)
        if is_logging_step(self, batch_index):
            value = mean_over_ranks(loss.detach())
            self.log("train/loss", value, prog_bar=True, logger=False)
            write_metrics(self, {"train/loss": float(value)})
        return poison(loss)

    def validation_step(self, batch: Mapping[str, Any], batch_index: int) -> None:
        images, labels = batch["image"], batch["label"]
        logits, targets = judge(self.policy, images, labels, self.rule, self.protocol)
        balance = self.loss.policy_balance
        loss = policy_loss(logits, targets, balance=balance, reduce_count=local_count)
        self.val_loss.update({"loss": loss}, len(images))
        self.calibration.update(logits, targets)
        for window in self.policy.windows:
            if logits[window].numel():
                self._metric(window).update(
                    logits[window].sigmoid().flatten(), targets[window].flatten()
                )

    def on_validation_epoch_end(self) -> None:
        figures = {}
        for window in self.policy.windows:
            figures[f"AP_{window}x{window}"] = float(self._metric(window).compute())
            self._metric(window).reset()
        figures["mAP"] = sum(figures.values()) / len(figures)
        self.results = {**figures, "policy_calibration": self.calibration.compute()}
        logged = {**figures, **calibration_errors(self.results), **self.val_loss.compute()}
        self.log_dict({f"val/{name}": value for name, value in logged.items()}, sync_dist=True)
        self.calibration.reset()
        self.val_loss.reset()

    def configure_optimizers(self) -> Any:
        optimizer, schedule = build_optimizer(self, self.optim, self.trainer.max_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"},
        }

    def _metric(self, window: int) -> BinaryAveragePrecision:
        metric = self.precision[str(window)]
        assert isinstance(metric, BinaryAveragePrecision)
        return metric
