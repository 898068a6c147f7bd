"""stepseg: fast semantic segmentation with plain Vision Transformers (STEP, arXiv 2509.14165).

`Segmenter` segments any image with a trained model, `stepseg.build` makes models, `stepseg.packed`
holds the tokens, `stepseg.cli` the commands. Importing this package alone imports none of them, so
that ``import stepseg`` stays cheap.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepseg.predict.segmenter import Segmenter

__all__ = ["Segmenter", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Segmenter":
        from stepseg.predict.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
