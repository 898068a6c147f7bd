"""Corrects a policy that learns, before every validation, so that its scores are probabilities.

What is validated is what the best checkpoint holds. Between two validations the correction stays as
it is: a part of the state, like a weight that has no gradient.
"""

import lightning as L
import torch

from stepseg.dcts.classifier import fit_corrections
from stepseg.dcts.policy import PolicyNetwork
from stepseg.dcts.targets import HomogeneityRule
from stepseg.lit.datamodule import SegmentationDataModule
from stepseg.lit.policy_module import PolicyModule
from stepseg.lit.segmentation_module import SegmentationModule
from stepseg.metrics.calibration import judge
from stepseg.metrics.joining import join_ranks
from stepseg.protocol import Protocol


class CorrectPolicy(L.Callback):
    """Fits `PolicyNetwork.corrections` on whole training images, as an evaluation shows them.

    Args:
        images: how many, of all processes together; 0: the policy stays as it learned.

    """

    def __init__(self, images: int) -> None:
        self.images = images

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All processes meet in the fit, whatever their images are."""
        assert isinstance(pl_module, PolicyModule | SegmentationModule)
        part = pl_module if isinstance(pl_module, PolicyModule) else pl_module.model
        policy = part.policy
        learns = isinstance(policy, PolicyNetwork) and policy.training_mode == "joint"
        if not (learns and self.images and trainer.state.fn == "fit"):
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(policy, PolicyNetwork) and isinstance(datamodule, SegmentationDataModule)
        with trainer.precision_plugin.val_step_context():
            correct(policy, datamodule, pl_module.rule, pl_module.protocol, self.images)


@torch.no_grad()
def correct(
    policy: PolicyNetwork,
    datamodule: SegmentationDataModule,
    rule: HomogeneityRule,
    protocol: Protocol,
    images: int,
) -> None:
    """Set the corrections of a policy, in place."""
    for correction in policy.corrections.values():
        correction.zero_()
    device = policy.mean.device
    logits = {side: [torch.empty(0, device=device)] for side in policy.windows}
    targets = {side: [torch.empty(0, device=device).bool()] for side in policy.windows}
    for batch in datamodule.whole_train_images(images):
        image, label = (batch[key].to(device) for key in ("image", "label"))
        said, true = judge(policy, image, label, rule, protocol)
        for side in policy.windows:
            logits[side].append(said[side].flatten())
            targets[side].append(true[side].flatten())
    fitted = fit_corrections(
        [torch.cat(parts) for parts in logits.values()],
        [torch.cat(parts) for parts in targets.values()],
        lambda sums: join_ranks("windows", sums),
    )
    for correction, value in zip(policy.corrections.values(), fitted, strict=True):
        correction.fill_(value)
