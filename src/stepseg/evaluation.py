"""Evaluate a segmenter on labelled images: the protocol around the model, the metrics behind it.

One or many reductions of the same weights at once; what they share is computed once
(`stepseg.grid`). Plain PyTorch; `stepseg.lit` runs it inside a trainer, over several processes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric, SumMetric

from stepseg.data.specs import DatasetSpec
from stepseg.dcts.policy import OraclePolicy, PolicyNetwork
from stepseg.dcts.targets import HomogeneityRule
from stepseg.grid import segment_all
from stepseg.label_map import predict_map
from stepseg.metrics.calibration import (
    CalibrationMetric,
    Windows,
    judge,
    judge_exits,
    resize_labels,
)
from stepseg.metrics.confusion import SegmentationMetric
from stepseg.metrics.joining import Sums, join
from stepseg.metrics.tokens import TokenMetric
from stepseg.model import Reduction, Segmentation, StepSegmenter
from stepseg.profile.break_even import exit_shares
from stepseg.protocol import Protocol
from stepseg.segmentation import NonFiniteScoresError

NO_LABELS = (
    "no pixel has a label that counts, so there is no accuracy: is it the right folder, and are "
    "its ids those of this data set?"
)


class Figures(nn.Module):
    """Accuracy and cost of one reduction over a data set, and what its policy's scores mean."""

    def __init__(
        self,
        accuracy: SegmentationMetric,
        tokens: TokenMetric,
        calibration: CalibrationMetric | None = None,
        exits: CalibrationMetric | None = None,
    ) -> None:
        super().__init__()
        self.accuracy, self.tokens = accuracy, tokens
        self.calibration, self.exits = calibration, exits
        self.not_finite = SumMetric(nan_strategy="disable")  # a check would wait for the device
        self.confusion = accuracy.confusion.new_zeros(accuracy.confusion.shape)
        """Pixels by (label, prediction) of the last `compute`, ``[C, C]``."""

    def compute(self) -> dict:
        """All figures, plain values under the names of `result.json`.

        ``problems`` tells of figures that mean nothing; it is there if there are any.
        """
        accuracy = self.accuracy.compute()
        self.confusion = accuracy.pop("confusion").cpu()
        per_class = accuracy.pop("per_class_IoU").tolist()
        problems = [NO_LABELS] if accuracy["aAcc"].isnan() else []
        if count := int(self.not_finite.compute()):
            problems.append(str(NonFiniteScoresError(f"{count} batch(es)")))
        return {
            **{name: float(value) for name, value in accuracy.items()},
            "per_class_IoU": [None if value != value else value for value in per_class],
            **self.tokens.compute(),
            **({"policy_calibration": self.calibration.compute()} if self.calibration else {}),
            **({"exit_calibration": self.exits.compute()} if self.exits else {}),
            **({"problems": problems} if problems else {}),
        }

    def metrics(self) -> Mapping[str, Metric]:
        """By name."""
        own = {"accuracy": self.accuracy, "tokens": self.tokens, "not_finite": self.not_finite}
        maybe = {"calibration": self.calibration, "exits": self.exits}
        return own | {name: metric for name, metric in maybe.items() if metric is not None}


class Evaluator:
    """Accuracy and cost of reductions over a data set.

    Args:
        model: the segmenter, in evaluation mode when it is used.
        reductions: what is merged and who leaves, one or many.
        spec: of the data set.
        protocol: how images are shown to the model.
        rule: what makes a window homogeneous, for the policy's calibration.

    """

    figures: nn.ModuleList
    """What counts, by reduction, where the model is; `nn.Module.to` moves it."""

    def __init__(
        self,
        model: StepSegmenter,
        reductions: Sequence[Reduction],
        spec: DatasetSpec,
        protocol: Protocol,
        rule: HomogeneityRule | None = None,
    ) -> None:
        for reduction in reductions:
            model.check(reduction)
        self.model, self.reductions, self.protocol = model, tuple(reductions), protocol
        self.rule = rule or HomogeneityRule(ignore_index=spec.ignore_index)
        windows = model.policy.windows if model.policy else ()
        self.figures = nn.ModuleList(
            Figures(
                SegmentationMetric(spec.num_classes, spec.ignore_index),
                TokenMetric(
                    (*reduction.exit_blocks, model.backbone.depth),
                    windows,
                    inside=reduction.inside is not None,
                ),
                CalibrationMetric(windows) if isinstance(model.policy, PolicyNetwork) else None,
                CalibrationMetric(reduction.exit_blocks) if reduction.exit_blocks else None,
            )
            for reduction in reductions
        ).to(next(model.parameters()).device)

    @torch.no_grad()
    def update(
        self,
        images_B3HW: Tensor,
        labels_BHW: Tensor,
        take: Callable[[int, Tensor], None] | None = None,
    ) -> list[tuple[Segmentation, ...]]:
        """Segment a batch of uint8 images under every reduction and count.

        Args:
            images_B3HW: uint8.
            labels_BHW: training ids.
            take: called with the index of each reduction and its prediction, int64 ``[B, H, W]``.

        Returns:
            Per reduction the model's outputs, one per forward pass.

        Raises:
            NonFiniteScoresError: a prediction to be taken is none.
            TooMuchWorkError: the protocol is absurd for images of this size.

        """

        def segment(images: Tensor) -> list[Segmentation]:
            labels = self._oracle_labels(images, labels_BHW)
            return segment_all(self.model, self.reductions, images, labels)

        size = (labels_BHW.shape[1], labels_BHW.shape[2])
        runs: list[tuple[Segmentation, ...]] = [()] * len(self.reductions)
        for indices, run, prediction in predict_all(segment, images_B3HW, self.protocol, size):
            judged: tuple[Windows, Windows] = ({}, {})
            whole = len(run) == 1 and run[0].layout.segments.num_images == len(labels_BHW)
            if whole and len(run[0].heads) > 1:  # several windows would count pixels twice
                judged = judge_exits(run[0], labels_BHW, self.rule.ignore_index)
            finite = torch.stack([output.is_finite for output in run]).all()
            for index in indices:
                figures = self.figures[index]
                assert isinstance(figures, Figures)
                runs[index] = run
                figures.accuracy.update(prediction, labels_BHW)
                figures.tokens.update(self.model, run, len(images_B3HW))
                figures.not_finite.update(~finite)
                if figures.exits:
                    figures.exits.update(*judged)
                if take is not None:
                    if not finite:  # host sync: the map goes to the host anyway
                        raise NonFiniteScoresError("a batch of images")
                    take(index, prediction)
        outputs = [run[0] for run in runs] if self.protocol.is_plain else ()
        self._calibrate(images_B3HW, labels_BHW, outputs)
        return runs

    def _calibrate(
        self, images_B3HW: Tensor, labels_BHW: Tensor, whole: Sequence[Segmentation]
    ) -> None:
        """Count what the policy's scores are worth, as it spoke for whole images or speaks now."""
        policy = self.model.policy
        if not isinstance(policy, PolicyNetwork):
            return
        judged: dict[int, tuple[Windows, Windows]] = {}  # by the pixels that a patch shows
        for reduction, figures in zip(self.reductions, self._all(), strict=True):
            asks = reduction.merge is not None and reduction.merge.asks_policy
            cell = (reduction.cell if asks else None) or policy.patch_size
            if cell not in judged:
                same = (out.policy_logits for out in whole if out.patch_size == cell)
                known = next((logits for logits in same if logits), None)
                judged[cell] = judge(
                    policy, images_B3HW, labels_BHW, self.rule, self.protocol, known, cell
                )
            assert figures.calibration is not None
            figures.calibration.update(*judged[cell])

    def compute(self) -> list[dict]:
        """All figures of every reduction, plain values under the names of `result.json`."""
        protocol, rows = self.protocol.as_dict(), []
        for reduction, figures in zip(self.reductions, self._all(), strict=True):
            row = figures.compute()
            if reduction.exit_blocks:
                shares = exit_shares(self.model, reduction.exit_blocks, row["tokens_per_stage"])
                row["exits"] = shares
            rows.append({**row, "protocol": protocol})
        return rows

    def confusions(self) -> list[Tensor]:
        """Of every reduction pixels by (label, prediction) at the last `compute`, ``[C, C]``."""
        return [figures.confusion for figures in self._all()]

    def reset(self) -> None:
        """Forget all counts."""
        for figures in self._all():
            for metric in figures.metrics().values():
                metric.reset()

    def sums(self) -> list[Sums]:
        """Everything counted by this process, on the host, to go on from later."""
        return [
            {
                f"{name}.{state}": value.detach().cpu().clone()
                for name, metric in figures.metrics().items()
                for state, value in metric.metric_state.items()
                if isinstance(value, Tensor)
            }
            for figures in self._all()
        ]

    def add(self, sums: Sequence[Sums]) -> None:
        """Count what was counted before."""
        for figures, earlier in zip(self._all(), sums, strict=True):
            for key, value in earlier.items():
                name, state = key.split(".")
                ours = getattr(figures.metrics()[name], state)
                ours.copy_(join(state, ours, value.to(ours.device)))

    def _all(self) -> Iterator[Figures]:
        for figures in self.figures:
            assert isinstance(figures, Figures)
            yield figures

    def _oracle_labels(self, images: Tensor, labels_BHW: Tensor) -> Tensor | None:
        if not isinstance(self.model.policy, OraclePolicy):
            return None
        if self.protocol.mode != "whole" or self.protocol.flip:
            raise ValueError(
                "the oracle policy merges by the labels of whole images: evaluate it with "
                "data.evaluation.mode=whole and without flip"
            )
        return resize_labels(labels_BHW, (images.shape[2], images.shape[3]))


def predict_all(
    segment: Callable[[Tensor], Sequence[Segmentation]],
    images_B3HW: Tensor,
    protocol: Protocol,
    size: tuple[int, int],
) -> Iterator[tuple[list[int], tuple[Segmentation, ...], Tensor]]:
    """The maps of many reductions of the same images, each different one made once.

    Args:
        segment: the model under all reductions, for float images in 0..1 (`segment_all`).
        images_B3HW: uint8.
        protocol: how they are shown.
        size: height and width of the maps.

    Yields:
        Indices of the reductions that came out alike, the model's outputs, one per forward pass,
        and their map, int64 ``[B, *size]``.

    """
    passes: list[Sequence[Segmentation]] = []

    def first(images: Tensor) -> Segmentation:
        passes.append(segment(images))
        return passes[-1][0]

    prediction = predict_map(first, images_B3HW, protocol, size)
    for number, (indices, run) in enumerate(_same_outputs(list(zip(*passes, strict=True)))):
        if number:  # the first prediction is there; others replay what the model said
            said = iter(run)
            prediction = predict_map(lambda _: next(said), images_B3HW, protocol, size)  # noqa: B023
        yield indices, run, prediction


def _same_outputs(
    runs: Sequence[tuple[Segmentation, ...]],
) -> list[tuple[list[int], tuple[Segmentation, ...]]]:
    """Indices of the reductions that share one and the same outputs, with these."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(tuple(map(id, run)), []).append(index)
    return [(indices, runs[indices[0]]) for indices in groups.values()]
