"""A trained model that takes any image: the Python interface.

Letters: B images of one size.
"""

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import torch
from torch import Tensor

from stepseg.checkpoint import Checkpoint, read_checkpoint
from stepseg.data.files import Pixels
from stepseg.dcts.policy import OraclePolicy
from stepseg.grid import segment_all
from stepseg.heads.exit import ConfidenceExit
from stepseg.label_map import predict_map
from stepseg.model import Reduction, Segmentation, StepSegmenter
from stepseg.plain_types import nearest
from stepseg.predict.batches import batches_of_one_size, read_ahead
from stepseg.predict.images import ImageLike, as_pixels, is_image
from stepseg.predict.notes import Notes, views_of_size
from stepseg.predict.prediction import Prediction
from stepseg.protocol import Protocol, check_work, resized_size
from stepseg.reduction_file import read_reduction
from stepseg.runtime.apply import apply_runtime
from stepseg.runtime.choice import DTYPES, choose_device, choose_runtime
from stepseg.weights.hub import address_of


class Segmenter:
    """A model with its class names, ready for images.

    Args:
        model: set to inference in place and moved to the device.
        classes: names by id.
        palette: RGB colours by id.
        protocol: how images are shown to the model; None: whole, at their own size.
        reduction: which tokens merge and leave; None: the model's own.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``fp32`` or ``bf16``.
        runtime: ``eager``, ``compile``, ``graphs`` or ``auto`` (`stepseg.runtime.choice`).

    Raises:
        ValueError: no such device, type or runtime, or a reduction that this model cannot do.

    """

    def __init__(
        self,
        model: StepSegmenter,
        *,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
        protocol: Protocol | None = None,
        reduction: Reduction | None = None,
        device: str = "auto",
        dtype: str = "fp32",
        runtime: str = "eager",
    ) -> None:
        self.device, self.dtype, self.runtime = _carried_out(device, dtype, runtime)
        if not model.num_classes == len(classes) == len(palette) <= 255:
            raise ValueError(
                f"the model has {model.num_classes} classes, of at most 255; there are "
                f"{len(classes)} names and {len(palette)} colours"
            )
        self.protocol = protocol or Protocol()
        self.reduction = _possible(model, reduction or model.reduction)
        model.prepare_for_inference().to(self.device, self.dtype)
        self.model = apply_runtime(model, self.runtime)
        self.classes = tuple(classes)
        self.palette = tuple((int(r), int(g), int(b)) for r, g, b in palette)

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> Self:
        """Load what `stepseg-train` wrote, or a safetensors file made from it.

        Args:
            path: of the checkpoint.
            options: those of `of`, such as ``reduction`` and ``device``.

        Raises:
            TypeError: no such option, before anything is read.
            ValueError: no such file, or not one of ours; names it.

        """
        check_options(options)
        return cls.of(read_checkpoint(path), **options)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """As `from_checkpoint`, with names of the hub as transformers writes them.

        Args:
            name: ``user/name`` of the hub or a local folder: a checkpoint of this project, or an
                EoMT of transformers.
            options: those of `from_checkpoint`.

        Raises:
            ValueError: as `from_checkpoint`.

        """
        return cls.from_checkpoint(address_of(name), **options)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        *,
        protocol: Protocol | None = None,
        reduction: Reduction | str | Path | None = None,
        **options: Any,
    ) -> Self:
        """A checkpoint that has been read.

        Args:
            checkpoint: as `stepseg.checkpoint.read_checkpoint` gives it.
            protocol: None: the one that the checkpoint was evaluated with, or whole images.
            reduction: None: the checkpoint's; ``Reduction()``: the dense model; a path: of a file
                of `stepseg-tune`.
            options: ``device``, ``dtype`` and ``runtime``, as of the class.

        """
        if isinstance(reduction, str | Path):
            reduction = read_reduction(reduction).build()
        return cls(
            checkpoint.build(),
            classes=checkpoint.data["classes"],
            palette=checkpoint.data["palette"],
            protocol=protocol or checkpoint.protocol,
            reduction=reduction,
            **options,
        )

    def with_reduction(self, reduction: Reduction) -> "Segmenter":
        """The same weights, not copied, under another reduction."""
        other = copy.copy(self)
        other.reduction = _possible(self.model, reduction)
        return other

    @overload
    def predict(self, images: ImageLike) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(
        self, images: Iterable[ImageLike], *, batch_size: int = 1
    ) -> Iterator[Prediction]: ...

    def predict(
        self, images: ImageLike | Iterable[ImageLike], *, batch_size: int = 1
    ) -> Prediction | Iterator[Prediction]:
        """Segment one image, or any number of them as they come.

        Args:
            images: one image (see `stepseg.predict.images.as_pixels`), or an iterable of images.
            batch_size: images of one size are computed together, up to so many. What comes out
                does not depend on it.

        Returns:
            The prediction, or an iterator of them in the order of the images, which reads on as it
            is read.

        """
        if is_image(images):
            return self.predict_pixels([as_pixels(images)])[0]  # type: ignore[arg-type]
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, got {batch_size}")
        return self._stream(iter(images), batch_size)  # type: ignore[arg-type]

    def _stream(self, images: Iterator[ImageLike], batch_size: int) -> Iterator[Prediction]:
        pixels = (as_pixels(image) for image in images)
        for ahead in read_ahead(pixels, batch_size, lambda image: image.shape):
            done: dict[int, Prediction] = {}
            for rows in batches_of_one_size([p.shape[:2] for p in ahead], batch_size):
                batch = self.predict_pixels([ahead[row] for row in rows])
                done.update(zip(rows, batch, strict=True))
            yield from (done[row] for row in range(len(ahead)))

    @torch.no_grad()
    def predict_pixels(self, images: Sequence[Pixels]) -> list[Prediction]:
        """Segment images of one size as one batch; uint8 ``[H, W, 3]`` each.

        Raises:
            TooMuchWorkError: the protocol is absurd for images of this size.
            NonFiniteScoresError: the model overflows.

        """
        start = time.perf_counter()
        size = (images[0].shape[0], images[0].shape[1])
        check_work(*size, self.protocol)
        batch = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)
        notes = Notes(self.model, len(images), views_of_size(size, self.protocol), self.device)

        def segment(x_B3HW: Tensor) -> Segmentation:
            (output,) = segment_all(self.model, [self.reduction], x_B3HW.to(self.dtype))
            notes.take(output)
            return output

        labels_BHW = predict_map(segment, batch, self.protocol, size)
        labels = labels_BHW.to("cpu", torch.uint8).numpy()
        seconds = (time.perf_counter() - start - notes.seconds) / len(images)
        rule = self.reduction.exit
        return [
            Prediction(
                image=image,
                labels=labels[index],
                classes=self.classes,
                palette=self.palette,
                tokens=tuple(int(n) for n in notes.tokens[index]),
                superpatches=notes.superpatches[index],
                exit_blocks=self.reduction.exit_blocks,
                threshold=rule.threshold if isinstance(rule, ConfidenceExit) else None,
                gmacs=notes.macs[index] / 1e9,
                seconds=seconds,
                views=tuple(notes.views[index]),
                seen_size=resized_size(*size, self.protocol, self.protocol.scales[0]),
            )
            for index, image in enumerate(images)
        ]


OPTIONS = ("protocol", "reduction", "device", "dtype", "runtime")
"""Of `Segmenter.of`."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of `Segmenter.of` before weights are read.

    Raises:
        TypeError: there is none of this name.
        ValueError: no such device, type or runtime.

    """
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f"a Segmenter has no option {name!r}{nearest(name, OPTIONS)}")
    _carried_out(**{name: options[name] for name in OPTIONS[2:] if name in options})


def _carried_out(
    device: str = "auto", dtype: str = "fp32", runtime: str = "eager"
) -> tuple[torch.device, torch.dtype, str]:
    """Where, in which type and by which runtime, out of what a user writes."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: choose from {', '.join(DTYPES)}")
    place = choose_device(device)
    return place, DTYPES[dtype], choose_runtime(runtime, place)


def _possible(model: StepSegmenter, reduction: Reduction) -> Reduction:
    model.check(reduction)
    if reduction.merge and isinstance(model.policy, OraclePolicy):
        raise ValueError(
            "this model's policy is the oracle, which merges by ground truth: predict with a "
            "reduction without merging"
        )
    return reduction
