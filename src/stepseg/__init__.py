"""stepseg: fast semantic segmentation with plain Vision Transformers (STEP, arXiv 2509.14165).

`Segmenter` segments any image with a trained model, `from_timm` and `from_eomt` put live models of
timm and transformers on packed tokens, `stepseg.build` makes models, `stepseg.packed` holds the
tokens, `stepseg.cli` the commands. Importing this package alone imports none of them, so that
``import stepseg`` stays cheap.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepseg.predict.from_eomt import from_eomt
    from stepseg.predict.segmenter import Segmenter
    from stepseg.vit.from_timm import from_timm

__all__ = ["Segmenter", "__version__", "from_eomt", "from_timm"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Segmenter":
        from stepseg.predict.segmenter import Segmenter

        return Segmenter
    if name == "from_eomt":
        from stepseg.predict.from_eomt import from_eomt

        return from_eomt
    if name == "from_timm":
        from stepseg.vit.from_timm import from_timm

        return from_timm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
