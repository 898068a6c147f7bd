"""The training of a segmenter, and of its policy beside it, as a Lightning module.

Thin on purpose: the model is `stepseg.model`, terms of the loss are `stepseg.losses`, figures are
`stepseg.evaluation`. Here are the steps, the logging and what a checkpoint says about itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from stepseg.build import ModelConfig, build_segmenter, resolved
from stepseg.checkpoint import KEY, describe
from stepseg.data.specs import DatasetSpec
from stepseg.dcts.policy import OraclePolicy, PolicyNetwork
from stepseg.dcts.targets import HomogeneityRule
from stepseg.evaluation import Evaluator
from stepseg.files.writing import write_png
from stepseg.heads.linear import LinearHead
from stepseg.lit.callbacks.non_finite import poison
from stepseg.lit.compiled import compile_blocks
from stepseg.lit.metrics import is_logging_step, load_sums, sum_over_ranks, write_metrics
from stepseg.lit.optim import OptimConfig, build_optimizer
from stepseg.lit.schedule import ReductionSchedule
from stepseg.losses import (
    LossWeights,
    classes_present,
    distill_loss,
    head_loss,
    head_terms,
    local_count,
    mean_over_ranks,
    policy_loss,
)
from stepseg.merging.scorer import scorer_loss
from stepseg.metrics.calibration import calibration_errors
from stepseg.metrics.loss import LossMetric
from stepseg.metrics.tokens import TokenMetric
from stepseg.model import HeadOutput, Reduction, Segmentation, StepSegmenter
from stepseg.ops.padding import pad_to_multiple
from stepseg.protocol import Protocol


class SegmentationModule(L.LightningModule):
    """Trains and evaluates a `StepSegmenter`.

    Args:
        config: of the model; its reduction is the one that is trained and validated.
        protocol: of validation and test.
        rule: what makes a window homogeneous, for the policy's loss.
        compile: train blocks as compiled graphs (`stepseg.lit.compiled`).
        model: a finished model of that configuration; None: build it.

    """

    def __init__(
        self,
        *,
        config: ModelConfig,
        spec: DatasetSpec,
        protocol: Protocol,
        optim: OptimConfig | None = None,
        loss: LossWeights | None = None,
        schedule: ReductionSchedule | None = None,
        rule: HomogeneityRule | None = None,
        compile: bool = False,
        model: StepSegmenter | None = None,
    ) -> None:
        super().__init__()
        self.config = config if model else resolved(config)
        self.spec, self.protocol = spec, protocol
        self.optim, self.loss = optim or OptimConfig(), loss or LossWeights()
        given = self.loss.class_weights
        if given is not None and len(given) != spec.num_classes:
            raise ValueError(
                f"loss.class_weights are one for each of the {spec.num_classes} classes of "
                f"{spec.name}, got {len(given)}"
            )
        if self.loss.exit_distill is None:
            self.loss = replace(self.loss, exit_distill=float(config.heads.exit != "atm"))
        self.schedule = schedule or ReductionSchedule()
        self.rule = rule or HomogeneityRule(ignore_index=spec.ignore_index)
        self.model = model or build_segmenter(self.config)
        if isinstance(self.model.policy, OraclePolicy):
            self.model.policy.rule = self.rule
        self.results: list[dict[str, Any]] = []
        """Figures of the last evaluation, plain values, per reduction."""
        self.evaluator: Evaluator
        self.predictions: list[Path] = []
        """Per reduction a folder for label maps of training ids, one PNG per test image."""
        self.evaluate_with([self.model.reduction])
        stages = (*self.model.exit_head_blocks, self.model.backbone.depth)
        windows = self.model.policy.windows if self.model.policy else ()
        inside = self.model.reduction.inside is not None
        self.train_tokens = TokenMetric(stages, windows, inside=inside)
        self.val_losses = LossMetric(
            [*(t for block in stages for t in self._terms(block)), "policy"]
        )
        if compile:
            compile_blocks(self.model.backbone)

    def evaluate_with(self, reductions: Sequence[Reduction]) -> None:
        """Set the reductions of the evaluations that follow, all evaluated at once."""
        self.evaluator = Evaluator(self.model, reductions, self.spec, self.protocol, self.rule)
        self.figures = self.evaluator.figures  # registered, so that the trainer moves them

    def training_step(self, batch: Mapping[str, Any], batch_index: int) -> Tensor:
        images, labels = batch["image"].float() / 255, batch["label"].long()
        reduction = self.schedule.at(self.global_step, self.trainer.max_steps, self.model.reduction)
        output = self.model(images, labels, reduction)
        terms = self.losses(output, labels)
        self.train_tokens.update(self.model, [output], len(images))
        if is_logging_step(self, batch_index):
            self._log_training(terms, len(images))
        return poison(torch.stack(list(terms.values())).sum())

    def on_validation_epoch_start(self) -> None:
        self.evaluator.reset()
        self.val_losses.reset()

    def validation_step(self, batch: Mapping[str, Any], batch_index: int) -> None:
        outputs = self.evaluator.update(batch["image"], batch["label"])[0]
        labels = batch["label"].long()
        # The loss compares whole maps: of images that the model sees at once and in their own size.
        whole = len(outputs) == 1 and outputs[0].image_size == tuple(labels.shape[1:])
        self.val_losses.update(self.losses(outputs[0], labels) if whole else {}, len(labels))

    def on_validation_epoch_end(self) -> None:
        self._finish_evaluation("val")
        losses = {f"val/{name}": value for name, value in self.val_losses.compute().items()}
        self.log_dict(losses, sync_dist=True)

    def on_test_start(self) -> None:
        self.evaluator.reset()  # before the epoch starts, when callbacks may add earlier counts

    def test_step(self, batch: Mapping[str, Any], batch_index: int) -> None:
        def write(index: int, prediction_BHW: Tensor) -> None:
            for name, ids in zip(batch["name"], prediction_BHW.cpu().numpy(), strict=True):
                write_png(self.predictions[index] / f"{name}.png", ids.astype(np.uint8))

        self.evaluator.update(batch["image"], batch["label"], write if self.predictions else None)

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("test")

    def on_fit_start(self) -> None:
        if self.model.decoder.among_all:
            raise ValueError(
                "an EoMT decoder and SegViT's own are not trained here: train by their authors' "
                "code, and give the result a policy by stepseg-accelerate"
            )

    def configure_optimizers(self) -> Any:
        optimizer, schedule = build_optimizer(self.model, self.optim, self.trainer.max_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = describe(self.config, self.spec, self.protocol, self.rule)
        checkpoint["train_tokens"] = sum_over_ranks(self.train_tokens)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.is_global_zero:  # sums over ranks: one rank goes on with them
            load_sums(self.train_tokens, checkpoint.get("train_tokens", {}))

    def losses(self, output: Segmentation, labels_BHW: Tensor) -> dict[str, Tensor]:
        """Every head on the whole map of its time, and the policy on its windows."""
        ignore = self.spec.ignore_index
        count = mean_over_ranks if self.training else local_count
        labels = pad_to_multiple(labels_BHW, output.patch_size, ignore)
        present = classes_present(labels, self.spec.num_classes, ignore)  # once for all heads
        terms: dict[str, Tensor] = {}
        decoder = output.heads[-1]
        for head in output.heads:
            if head is decoder and self.training and self.model.decoder.frozen:
                continue  # no gradient: in training its cost would only be noise in the loss
            *earlier, own = output.answers(head)
            said = {f"cascade_{n}": answer for n, answer in enumerate(earlier, start=1)}
            said[self._head_name(head.block)] = own
            for name, (mask_logits, class_logits) in said.items():
                of_head = head_loss(
                    mask_logits, class_logits, labels, self.loss, ignore, count, present
                )
                terms |= {f"{name}/{term}": value for term, value in of_head.items()}
            if head is not decoder and self.loss.exit_distill:
                terms[f"{self._head_name(head.block)}/distill"] = self._distill(output, head)
        if decoder.votes:
            votes_SBQC = torch.stack(list(decoder.votes))
            terms["scorers"] = scorer_loss(votes_SBQC, labels, ignore, count)
        policy = self.model.policy
        learns = policy is not None and policy.training
        # A frozen policy takes no gradient either.
        if isinstance(policy, PolicyNetwork) and output.policy_logits and learns == self.training:
            targets = self.rule.windows(labels_BHW, output.patch_size, policy.windows)
            weight, balance = self.loss.policy, self.loss.policy_balance
            terms["policy"] = policy_loss(output.policy_logits, targets, weight, balance, count)
        return terms

    def _distill(self, output: Segmentation, head: HeadOutput) -> Tensor:
        """What a head says of the tokens that reach the decoder, against what that one says."""
        decoder, images_T0 = output.heads[-1], output.layout.segments.image_ids()
        p_TC, teacher_TC = (
            said.probabilities(said.mask_logits_T0C, images_T0) for said in (head, decoder)
        )
        reach_T = output.exit_T0 >= decoder.exits
        count = mean_over_ranks if self.training else local_count
        return distill_loss(p_TC, teacher_TC, reach_T, self.loss.exit_distill or 0.0, count)

    def _terms(self, block: int) -> list[str]:
        """Names of the loss terms of a head."""
        head = self.model.head(block)
        terms = head_terms(self.loss, presence=not isinstance(head, LinearHead))
        if block != self.model.backbone.depth and self.loss.exit_distill:
            terms = (*terms, "distill")
        return [f"{self._head_name(block)}/{term}" for term in terms]

    def _head_name(self, block: int) -> str:
        return "decoder" if block == self.model.backbone.depth else f"exit_head_{block}"

    def _log_training(self, terms: Mapping[str, Tensor], batch_size: int) -> None:
        """Loss terms of this step, averaged over ranks in one go; tokens since the last time."""
        values = mean_over_ranks(torch.stack([value.detach() for value in terms.values()]))
        self.log("train/loss", values.sum(), prog_bar=True, logger=False, batch_size=batch_size)
        logged = {"train/loss": float(values.sum())}
        logged |= dict(zip((f"train/{name}" for name in terms), values.tolist(), strict=True))
        write_metrics(self, logged | logged_tokens("train", self.train_tokens.compute()))
        self.train_tokens.reset()

    def _finish_evaluation(self, split: str) -> None:
        self.results = self.evaluator.compute()
        for problem in dict.fromkeys(p for row in self.results for p in row.get("problems", ())):
            rank_zero_warn(f"{split}: {problem}")
        # All ranks hold the same figures; all log them, because callbacks on all ranks read them.
        # Tests are of many systems, in an order that means nothing: `log_final` tells loggers.
        figures = logged_figures(split, self.results[-1])
        self.log_dict(figures, sync_dist=True, logger=split != "test")


def logged_figures(split: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """What loggers get of an evaluation."""
    names = ("mIoU", "mAcc", "aAcc", "fwIoU", "boundary_IoU")
    values = {name: figures[name] for name in names}
    values |= calibration_errors(figures)
    return {f"{split}/{name}": v for name, v in values.items()} | logged_tokens(split, figures)


def logged_tokens(split: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """What loggers get of where tokens went."""
    values = {f"{split}/gmacs": figures["gmacs_mean"]}
    for index, tokens in enumerate(figures["tokens_per_stage"], start=1):
        values[f"{split}/tokens_stage_{index}"] = tokens
    for side, number in figures["superpatches"].items():
        values[f"{split}/superpatches_{side}x{side}"] = number
    return values
