"""Evaluate a segmenter on labelled images: the protocol around the model, the metrics behind it.

Plain PyTorch; `stepseg.lit` runs it inside a trainer, over several processes.
"""

import torch
from torch import Tensor, nn

from stepseg.data.specs import DatasetSpec
from stepseg.dcts.policy import OraclePolicy
from stepseg.inference import Protocol
from stepseg.labelling import predict_map, run_matched
from stepseg.metrics.segmentation import SegmentationMetric
from stepseg.metrics.tokens import TokenMetric
from stepseg.model import Reduction, Segmentation, StepSegmenter


class Evaluator(nn.Module):
    """Accuracy and cost of one reduction over a data set.

    Args:
        model: the segmenter.
        reduction: what is merged and who leaves.
        spec: of the data set.
        protocol: how images are shown to the model.

    """

    model: StepSegmenter

    def __init__(
        self, model: StepSegmenter, reduction: Reduction, spec: DatasetSpec, protocol: Protocol
    ) -> None:
        super().__init__()
        model.check(reduction)
        self.__dict__["model"] = model  # the trainer's, not a second registration of its weights
        self.reduction, self.protocol = reduction, protocol
        windows = model.policy.windows if model.policy else ()
        self.accuracy = SegmentationMetric(spec.num_classes, spec.ignore_index)
        self.tokens = TokenMetric((*reduction.exit_blocks, model.backbone.depth), windows)

    @torch.no_grad()
    def update(self, images_B3HW: Tensor, labels_BHW: Tensor) -> tuple[Tensor, list[Segmentation]]:
        """Segment a batch of uint8 images and count.

        Returns:
            The prediction, int64 ``[B, H, W]``, and the model's outputs, one per forward pass.

        """
        outputs: list[Segmentation] = []

        def segment(images: Tensor) -> Segmentation:
            labels = self._oracle_labels(images, labels_BHW)
            outputs.append(run_matched(self.model, self.reduction, images, labels))
            return outputs[-1]

        size = (labels_BHW.shape[1], labels_BHW.shape[2])
        prediction = predict_map(segment, images_B3HW, self.protocol, size)
        self.accuracy.update(prediction, labels_BHW)
        self.tokens.update(self.model, outputs, len(images_B3HW))
        return prediction, outputs

    def compute(self) -> dict:
        """All figures, plain values under the names of `result.json`."""
        accuracy = self.accuracy.compute()
        per_class = accuracy.pop("per_class_IoU").tolist()
        return {
            **{name: float(value) for name, value in accuracy.items()},
            "per_class_IoU": [None if value != value else value for value in per_class],
            **self.tokens.compute(),
            "protocol": self.protocol.as_dict(),
        }

    def reset(self) -> None:
        """Forget all counts."""
        self.accuracy.reset()
        self.tokens.reset()

    def _oracle_labels(self, images: Tensor, labels_BHW: Tensor) -> Tensor | None:
        if not isinstance(self.model.policy, OraclePolicy):
            return None
        if images.shape[2:] != labels_BHW.shape[1:] or self.protocol.flip:
            raise ValueError(
                "the oracle policy merges by labels as they are: evaluate it with the protocol "
                "mode=whole, without resizing, scales and flip"
            )
        return labels_BHW
