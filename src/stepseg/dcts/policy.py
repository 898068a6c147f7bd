"""Policy networks: images in, one score per window of patches out.

STEP, Sec. 3.2.1: EfficientNet-Lite0 features at stride 32, one logit per window. A stride-32 cell
is exactly one 2 x 2 window of 16-px patches; larger windows read averages of these cells. The
decision is discrete, hence no gradient of the segmentation loss arrives here: the policy learns
from its own loss (`stepseg.losses.policy_loss`), before the segmenter or beside it.

Letters: B images, H x W pixels, Y x X patches, F features.
"""

from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.dcts.batch_norm import share_batch_norm
from stepseg.dcts.classifier import CORRECTION, WindowClassifier
from stepseg.dcts.fold import fold_batch_norm
from stepseg.dcts.merge import check_windows
from stepseg.dcts.search import ConvolutionSearch
from stepseg.dcts.targets import HomogeneityRule
from stepseg.ops.padding import pad_to_multiple

Training = Literal["frozen", "joint"]


class PolicyNetwork(nn.Module):
    """A CNN of timm with one 1 x 1 convolution per window size.

    Args:
        name: any timm model that offers `features_only` with a last stride of twice the patch.
        windows: window sides in patches.
        patch_size: patch side in pixels.
        training: `joint` learns beside the segmenter, with the batch statistics of all processes;
            `frozen` stays in evaluation mode.
        pretrained: load timm's ImageNet weights.

    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        name: str = "tf_efficientnet_lite0",
        windows: Sequence[int] = (2, 4, 8, 16),
        patch_size: int = 16,
        training: Training = "joint",
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        check_windows(windows)
        if training not in ("frozen", "joint"):
            raise ValueError(f"policy training must be 'frozen' or 'joint', got {training!r}")
        self.features = _create_features(name, pretrained)
        share_batch_norm(self.features)
        info: Any = self.features.feature_info
        stride: int = info.reduction()[-1]
        self.cell = stride // patch_size  # patches per feature cell
        if stride % patch_size or windows[0] % self.cell:
            raise ValueError(
                f"policy {name!r} has stride {stride}: its cells do not tile windows of "
                f"{windows[0]} patches of {patch_size} px; weights for patches of another size are "
                f"resampled with backbone.patch_size={stride // 2}"
            )
        self.name, self.windows, self.patch_size = name, tuple(windows), patch_size
        self.stride, self.training_mode = stride, training
        self.classifier = nn.ModuleDict(
            {str(window): WindowClassifier(info.channels()[-1]) for window in windows}
        )
        config: Any = self.features.default_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1), persistent=False)
        self._search = ConvolutionSearch()
        self.to(memory_format=torch.channels_last)  # 2 to 3 times faster for depthwise convolutions
        self.requires_grad_(training == "joint")
        self.train()

    def train(self, mode: bool = True) -> "PolicyNetwork":
        """Set the mode; a frozen policy stays in evaluation mode."""
        return super().train(mode and self.training_mode == "joint")

    def forward(self, images_B3HW: Tensor) -> dict[int, Tensor]:
        """Logits per window size, float32 ``[B, Y // s, X // s]``; corrected in evaluation mode.

        Args:
            images_B3HW: RGB in [0, 1]; this network normalises by its own statistics.

        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training_mode == "joint"):
            rows, columns = (-(-side // self.patch_size) for side in images_B3HW.shape[-2:])
            images = pad_to_multiple((images_B3HW - self.mean) / self.std, self.stride, 0)
            images = images.contiguous(memory_format=torch.channels_last)
            with self._search.over(images):
                features_BFyx = self.last_features(images)
            return {
                window: self._logits(features_BFyx, window, rows // window, columns // window)
                for window in self.windows
            }

    def last_features(self, images_B3HW: Tensor) -> Tensor:
        """Of the CNN, ``[B, F, H / stride, W / stride]``; images are normalised and padded."""
        return self.features(images_B3HW)[-1]

    @torch.no_grad()
    def decide(self, images_B3HW: Tensor) -> dict[int, Tensor]:
        """Logits to merge by: those of evaluation mode, whatever the mode.

        Batch statistics would let an image's neighbours decide about its windows.
        """
        if not self.training:
            return self(images_B3HW)
        self.eval()
        try:
            return self(images_B3HW)
        finally:
            self.train()

    def fold(self) -> None:
        """Fold BatchNorms and corrections into convolutions, in place: for inference only."""
        weight = next(self.parameters())
        side = 2 * self.stride
        example = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
        fold_batch_norm(self.features, example)
        for window, classifier in self.classifier.items():
            if isinstance(classifier, WindowClassifier):
                self.classifier[window] = classifier.folded()

    @property
    def corrections(self) -> dict[int, Tensor]:
        """Per window side what is added to logits outside of the loss, ``[1]``; to be set."""
        return {side: self.classifier[str(side)].get_buffer(CORRECTION) for side in self.windows}

    def _logits(self, features_BFyx: Tensor, window: int, rows: int, columns: int) -> Tensor:
        step = window // self.cell
        fitting = features_BFyx[:, :, : rows * step, : columns * step]
        classifier = self.classifier[str(window)]
        assert isinstance(classifier, nn.Conv2d) and classifier.bias is not None
        if fitting.numel() == 0:  # the window is larger than the image
            # Still a function of the parameters: they get a zero gradient rather than none.
            nothing = fitting.sum() + (classifier.weight.sum() + classifier.bias.sum()) * 0
            return nothing.float().expand(len(features_BFyx), rows, columns)
        pooled = F.avg_pool2d(fitting, step) if step > 1 else fitting
        return classifier(pooled).squeeze(1).float()


class OraclePolicy(nn.Module):
    """Scores from the ground truth: 1 for homogeneous windows. An upper bound, for analysis."""

    def __init__(
        self,
        *,
        windows: Sequence[int] = (2, 4, 8, 16),
        patch_size: int = 16,
        rule: HomogeneityRule | None = None,
    ) -> None:
        super().__init__()
        check_windows(windows)
        self.name, self.windows, self.patch_size = "oracle", tuple(windows), patch_size
        self.rule = rule or HomogeneityRule()

    def forward(self, labels_BHW: Tensor) -> dict[int, Tensor]:
        """Logits of plus and minus infinity, per window size ``[B, Y // s, X // s]``."""
        targets = self.rule.windows(labels_BHW, self.patch_size, self.windows)
        infinity = float("inf")
        return {s: torch.where(target, infinity, -infinity) for s, target in targets.items()}


def _create_features(name: str, pretrained: bool) -> nn.Module:
    if not timm.is_model(name):
        near = (
            ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "see timm.list_models()"
        )
        raise ValueError(f"timm has no model {name!r} for the policy network; near names: {near}")
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained)
    except Exception as error:
        if not pretrained:
            raise
        raise ValueError(
            f"the ImageNet weights of {name!r} could not be loaded ({type(error).__name__}: "
            f"{error}). Without network, set policy.pretrained=false and give policy.checkpoint, "
            f"or train the policy from scratch with policy.training=joint"
        ) from error
