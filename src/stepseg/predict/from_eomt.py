"""A live EoMT of transformers as a segmenter.

from transformers import EomtForUniversalSegmentation
from stepseg import from_eomt

segmenter = from_eomt(EomtForUniversalSegmentation.from_pretrained("tue-mps/..."))
"""

from pathlib import Path
from typing import Any

from stepseg.checkpoint.checkpoint import of_foreign
from stepseg.foreign.eomt import translate
from stepseg.predict.segmenter import Segmenter, check_options


def from_eomt(model: Any, processor: Any = None, **options: Any) -> Segmenter:
    """Copy the weights of an `EomtForUniversalSegmentation`, or its DINOv3 variant.

    Args:
        model: for semantic segmentation.
        processor: its image processor; None: as for the published semantic models.
        options: of `Segmenter`, such as ``reduction`` and ``device``.

    Raises:
        TypeError: no such option.
        ValueError: a model of another kind or for another task.

    """
    check_options(options)
    return Segmenter.of(of_foreign(Path("model"), translate(model, processor)), **options)
