"""Through any number of images in bounded memory: read, segment, write, go on when one fails."""

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from stepseg.data.files import ImageFileError, Pixels
from stepseg.data.labels import LabelError
from stepseg.pictures.drawing import Labels
from stepseg.predict.batches import batches_of_one_size, read_ahead
from stepseg.predict.inputs import File, Item, items_of
from stepseg.predict.outputs import OutputFolder
from stepseg.predict.prediction import Prediction
from stepseg.predict.segmenter import Segmenter
from stepseg.predict.truth import TruthFolder
from stepseg.protocol import TooMuchWorkError
from stepseg.segmentation import NonFiniteScoresError

Loaded = tuple[Item, Pixels]


@dataclass
class Runner:
    """One pass over files."""

    segmenter: Segmenter
    outputs: OutputFolder
    truths: TruthFolder | None = None
    dense: Segmenter | None = None
    """The same weights without reduction, to compare with."""
    batch_size: int = 1
    frames: int = 1
    """Of videos every so many frames."""
    on_done: Callable[[str], None] = lambda name: None
    """Called with the name of every image that is done or has failed."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """Of all finished images, those of earlier runs included."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """``source`` and ``error`` of what could not be segmented."""
    finished_before: int = 0
    without_label: int = 0

    def __post_init__(self) -> None:
        if self.truths is not None:
            from stepseg.metrics.confusion import SegmentationMetric  # torchmetrics takes seconds

            self.accuracy = SegmentationMetric(len(self.segmenter.classes))

    def run(self, files: Sequence[File]) -> None:
        """Segment all images and frames that have no finished result yet."""
        for held in read_ahead(self._load(files), self.batch_size, lambda one: one[1].shape):
            sizes = [pixels.shape[:2] for _, pixels in held]
            for rows in batches_of_one_size(sizes, self.batch_size):
                self._segment([held[row] for row in rows])

    def _load(self, files: Iterable[File]) -> Iterator[Loaded]:
        for file in files:
            with self._alone(file):  # a video, or a file that vanished
                for item in items_of([file], self.frames):
                    with self._alone(file):
                        yield from self._load_item(item)

    def _load_item(self, item: Item) -> Iterator[Loaded]:
        if self.truths is not None and not item.file.is_video:
            item = replace(item, stamp=(*item.stamp, *self.truths.stamp(item.file)))
        record = self.outputs.finished(item)
        if record is None:
            yield item, item.read()
            return
        self.finished_before += 1
        truth = self._truth(item, (record["height"], record["width"]))
        self._count(record, self.outputs.labels(item.name), truth)

    def _segment(self, batch: list[Loaded]) -> None:
        try:
            predictions = self.segmenter.predict_pixels([pixels for _, pixels in batch])
            dense: Sequence[Prediction | None] = [None] * len(batch)
            if self.dense is not None:
                dense = self.dense.predict_pixels([pixels for _, pixels in batch])
        except (RuntimeError, MemoryError, TooMuchWorkError, NonFiniteScoresError) as error:
            height, width = batch[0][1].shape[:2]
            problem = str(error)
            if not isinstance(error, ValueError):
                if not _is_out_of_memory(error):
                    raise
                problem = (
                    f"{width}x{height} pixels at once do not fit into memory: use protocol=slide "
                    f"crop=[512,512], or resize_short"
                )
            if len(batch) == 1:
                self._fail(batch[0][0].file, problem)
                return
            for one in batch:
                self._segment([one])
            return
        for (item, _), prediction, reference in zip(batch, predictions, dense, strict=True):
            with self._alone(item.file):
                self._finish(item, prediction, reference)

    def _finish(self, item: Item, prediction: Prediction, dense: Prediction | None) -> None:
        height, width = prediction.labels.shape
        truth = self._truth(item, (height, width))
        record = self.outputs.write(item, prediction, truth, dense)
        self._count(record, prediction.labels, truth)

    def _truth(self, item: Item, size: tuple[int, int]) -> Labels | None:
        if self.truths is None or item.file.is_video:
            return None
        truth = self.truths.read(item.file, size)
        self.without_label += truth is None
        return truth

    def _count(self, record: dict[str, Any], labels: Labels, truth: Labels | None) -> None:
        if truth is not None:
            self.accuracy.update(torch.from_numpy(labels.copy()), torch.from_numpy(truth))
        kept = {key: value for key, value in record.items() if key not in ("files", "classes")}
        self.records.append(kept)
        self.on_done(record["name"])

    @contextmanager
    def _alone(self, file: File) -> Iterator[None]:
        """What is the fault of one image ends with it; a full disk ends the run."""
        try:
            yield
        except (ImageFileError, LabelError) as error:
            self._fail(file, str(error))
        except MemoryError:
            self._fail(file, "reading it or drawing its pictures does not fit into memory")
        except OSError as error:
            if error.errno not in _FAULTS_OF_A_NAME:
                raise
            self._fail(file, f"no results can have its name ({error.strerror}): {file.name!r}")

    def _fail(self, file: File, error: str) -> None:
        self.failures.append({"source": str(file.path), "error": error})
        self.on_done(str(file.path))


_FAULTS_OF_A_NAME = {
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL,
    errno.ELOOP, errno.ENOENT,
}  # fmt: skip


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it is for want of memory, which PyTorch says in words alone, and in many."""
    named = str(error).lower()
    words = ("not enough memory", "t allocate memory", "cannot allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(word in named for word in words)
