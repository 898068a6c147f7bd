"""Calibrates what decides, before every validation, so that thresholds mean probabilities.

A policy that learns gets a correction per window size, exit heads get a temperature each, on what
the policy then merges. What is validated is what the best checkpoint holds. Between two validations
both stay as they are: a part of the state, like a weight that has no gradient.
"""

from dataclasses import replace
from functools import partial

import lightning as L
import torch

from stepseg.dcts.policy import OraclePolicy, PolicyNetwork
from stepseg.heads.exit import ConfidenceExit
from stepseg.heads.temperature import fit_temperatures
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.policy_module import PolicyModule
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.metrics.calibration import correct_policy, judge_exits
from stepseg.metrics.joining import join_ranks
from stepseg.model import StepSegmenter
from stepseg.protocol import Protocol, show_first


class Calibrate(L.Callback):
    """Fits corrections and temperatures on whole training images, as an evaluation shows them.

    Args:
        policy_images: how many for `PolicyNetwork.corrections`, of all processes together; 0: the
            policy stays as it learned.
        exit_images: how many for the temperatures of exit heads, likewise.

    """

    def __init__(self, policy_images: int, exit_images: int = 0) -> None:
        self.policy_images, self.exit_images = policy_images, exit_images

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All processes meet in the fit, whatever their images are."""
        assert isinstance(pl_module, PolicyModule | SegmentationModule)
        if trainer.state.fn != "fit":
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, SegmentationDataModule)
        model = pl_module.model if isinstance(pl_module, SegmentationModule) else None
        policy = pl_module.policy if isinstance(pl_module, PolicyModule) else pl_module.model.policy
        rule, protocol = pl_module.rule, pl_module.protocol
        with trainer.precision_plugin.val_step_context():
            learns = isinstance(policy, PolicyNetwork) and policy.training_mode == "joint"
            if isinstance(policy, PolicyNetwork) and learns and self.policy_images:
                batches = datamodule.whole_train_images(self.policy_images)
                pairs = ((batch["image"], batch["label"]) for batch in batches)
                total = partial(join_ranks, "windows")
                cell = model.reduction.cell if model else None
                correct_policy(policy, pairs, rule, protocol, total, cell)
            if model is not None and model.exit_heads and self.exit_images:
                temper(model, datamodule, rule.ignore_index, protocol, self.exit_images)


@torch.no_grad()
def temper(
    model: StepSegmenter,
    datamodule: SegmentationDataModule,
    ignore_index: int,
    protocol: Protocol,
    images: int,
) -> None:
    """Set the temperatures of a model's exit heads, in place.

    All heads speak about all tokens and nobody leaves: so they suit any threshold and placement.
    """
    heads = [model.head(block) for block in model.exit_head_blocks]
    temperatures = [head.temperature for head in heads if head.temperature is not None]
    assert len(temperatures) == len(heads), "built without temperatures"
    for temperature in temperatures:
        temperature.fill_(1)
    blocks = tuple(model.exit_head_blocks)
    listening = replace(model.reduction, exit=ConfidenceExit(1.0, 0), exit_blocks=blocks)
    if isinstance(model.policy, OraclePolicy):  # it merges by labels in their own size
        listening = replace(listening, merge=None, gmacs_per_image=None)
    device = temperatures[0].device
    logits = {block: [torch.empty(0, device=device)] for block in blocks}
    right = {block: [torch.empty(0, device=device)] for block in blocks}
    was_training = model.training
    model.eval()
    for batch in datamodule.whole_train_images(images):
        image, label = (batch[key].to(device) for key in ("image", "label"))
        output = model(show_first(image, protocol), reduction=listening)
        said, true = judge_exits(output, label, ignore_index)
        for block in blocks:
            logits[block].append(said[block])
            right[block].append(true[block])
    model.train(was_training)
    fitted = fit_temperatures(
        [torch.cat(parts) for parts in logits.values()],
        [torch.cat(parts) for parts in right.values()],
        partial(join_ranks, "tokens"),
    )
    for temperature, value in zip(temperatures, fitted, strict=True):
        temperature.fill_(value)
